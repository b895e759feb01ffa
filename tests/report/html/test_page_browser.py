"""A report in a real browser: it makes no requests, and all its controls work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from algomatch.cli.main import main

pytestmark = pytest.mark.slow
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = next((path for name in NAMES if (path := shutil.which(name))), None)
    if executable is None:
        pytest.fail("no browser to look at a report with: apt-get install chromium")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(run: Path, sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a run and of a sweep."""
    place, written = tmp_path_factory.mktemp("browser"), {}
    for name, folder in {"run": run, "sweep": sweep}.items():
        written[name] = place / f"{name}.html"
        assert main(["report", str(folder), "-o", str(written[name])]) == 0
    return written


class Opened:
    """A page in a browser, with its errors and requests."""

    def __init__(self, browser: Browser, path: Path, width: int = 1280, scheme: str = "light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        self.page.route("**/*", self._asked)
        self.page.goto(path.as_uri())

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(text)

    def _asked(self, route: Route) -> None:
        url = route.request.url
        if url.startswith("file:") and route.request.is_navigation_request():
            route.continue_()
        else:
            self.requests.append(url)
            route.abort()

    def show_all(self) -> None:
        """Open all parts of the page and scroll to every chart."""
        self.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        for chart in self.page.locator("[data-chart]").all():
            chart.scroll_into_view_if_needed()
            chart.locator("svg.main-svg").first.wait_for()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (375, "dark"),
        (1280, "light"),
        pytest.param(375, "light", marks=pytest.mark.slow),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", ["run", "sweep"])
def test_it_is_whole_and_fits_the_screen(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    with Opened(browser, pages[name], width, scheme) as opened:
        opened.show_all()
        widest = opened.page.evaluate("document.documentElement.scrollWidth")
        assert widest <= width
        assert opened.errors == []
        assert opened.requests == []
        assert opened.page.locator("h1 img, main b, main u").count() == 0  # names are shown as text
        named = {"run": "<img src=x onerror=alert(1)>", "sweep": "1L <b>&"}
        assert named[name] in opened.page.locator("body").inner_text()
        back = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")


def test_charts_are_drawn_when_they_come_into_view(
    browser: Browser, pages: dict[str, Path]
) -> None:
    with Opened(browser, pages["run"]) as opened:
        last = opened.page.locator("#neurons [data-chart]").last
        assert last.locator("svg.main-svg").count() == 0
        last.scroll_into_view_if_needed()
        last.locator("svg.main-svg").first.wait_for()
        before = opened.page.locator("#neurons .chart-figure").last.bounding_box()
        assert before is not None
        assert before["height"] >= 340


def test_the_slider_moves_the_matching_diagram(browser: Browser, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["run"]) as opened:
        figure = opened.page.locator("[data-diagram]").first
        slider, told = figure.locator("input"), figure.locator("output")
        cells = figure.locator(".cells tbody")
        at_end, values = told.inner_text(), cells.inner_text()
        slider.focus()
        slider.press("Home")
        assert told.inner_text() != at_end
        assert "step 0" in told.inner_text()
        assert cells.inner_text() != values
        slider.press("End")
        assert (told.inner_text(), cells.inner_text()) == (at_end, values)


def test_tables_are_sorted_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["run"]) as opened:
        table = opened.page.locator("#ablation table.sortable")
        head = table.locator("thead th").nth(1)

        def shown() -> list[float]:
            cells = table.locator("tbody tr td:nth-child(2)")
            return [float(cell.get_attribute("data-sort") or "nan") for cell in cells.all()]

        before = shown()
        head.locator("button").focus()
        opened.page.keyboard.press("Enter")
        assert shown() == sorted(before)
        assert head.get_attribute("aria-sort") == "ascending"
        opened.page.keyboard.press("Enter")
        assert shown() == sorted(before, reverse=True)
        assert head.get_attribute("aria-sort") == "descending"


def test_attention_is_drawn_for_what_is_chosen(browser: Browser, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["run"]) as opened:
        figure = opened.page.locator("[data-patterns]").first
        canvas = figure.locator("canvas").first
        canvas.scroll_into_view_if_needed()
        whole = canvas.evaluate("one => one.width")
        assert whole == 4  # BOS and the longest list
        choice = figure.locator("select")
        choice.select_option(label="mean over 2 lists of length 1")
        assert canvas.evaluate("one => one.width") == 2
        canvas.hover()
        assert "looks at" in figure.locator("output").inner_text()


def test_it_prints_with_everything_shown(browser: Browser, pages: dict[str, Path]) -> None:
    with Opened(browser, pages["run"]) as opened:
        opened.page.emulate_media(media="print")
        opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        charts = opened.page.locator("[data-chart]").count()
        opened.page.wait_for_function(
            "count => document.querySelectorAll('[data-chart] .main-svg').length >= count",
            arg=charts,
        )
        assert opened.page.locator("details:not([open])").count() == 0
        assert len(opened.page.pdf()) > 10_000
        assert opened.errors == []
