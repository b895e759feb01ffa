"""`algomatch report`: the page of one run and of several, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.pages import HOSTILE, trained

from algomatch.cli.main import main
from algomatch.hypotheses.seed_groups import estimate
from algomatch.report.html.algorithm_sections import unread
from algomatch.report.html.page import as_json
from algomatch.report.html.sweep_page import difference_text
from algomatch.runs.run_results import RunResults

Capture = pytest.CaptureFixture[str]
VOID = {"meta", "link", "input", "img", "line", "path", "use", "rect", "br"}


class Reader(HTMLParser):
    """Parses a page's elements, text and data, and notes markup errors."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with accuracy only."""
    place = tmp_path_factory.mktemp("report") / "bare"
    return trained(place, "analysis.measures=[accuracy]", "trainer.max_steps=4")


def page_of(*paths: Path, to: Path, more: tuple[str, ...] = ()) -> str:
    assert main(["report", *map(str, paths), "-o", str(to / "page.html"), *more]) == 0
    return (to / "page.html").read_text()


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the run, under a hostile title."""
    place = tmp_path_factory.mktemp("page")
    return page_of(run, to=place, more=("--title", "<script>alert(2)</script>"))


def data_in(page: str) -> dict[str, dict[str, list[object]]]:
    match = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page)
    assert match
    data: dict[str, dict[str, list[object]]] = json.loads(match.group(1))
    return data


def test_a_runs_page_has_every_part(run: Path, page: str) -> None:
    reader = Reader(page)
    assert reader.wrong == []
    assert reader.open == []
    sections = [attrs.get("id") for tag, attrs in reader.elements if tag == "section"]
    assert sections == ["verdicts", "task", "learning", "matching", "similarity", "attention",
                        "circuit", "ablation", "neurons"]  # fmt: skip
    for part in (
        "H1", "H2", "H3", "What would have changed it", "One seed: says nothing about the",
        "reverse_by_counting", "Exact accuracy by length", "Deconfounded CKA with each variable",
        "highest random init", "Change of exact accuracy in percentage points",
        "most important neurons",
        "blind (control)", "algomatch circuit", "Verdicts on the programs of the task",
    ):  # fmt: skip
        assert part in reader.text, part
    data = data_in(page)
    assert {"accuracy", "lengths", "loss", "variables", "full-0", "full-1", "patterns"} <= {*data}
    assert len(data["full-0"]["frames"]) == len(list(run.glob("checkpoints/step-*")))
    assert len(page) < 8e6


def test_nothing_on_it_is_markup_that_was_a_name(page: str) -> None:
    reader = Reader(page)
    assert reader.wrong == []
    assert HOSTILE in reader.text
    assert "<script>alert(2)</script>" in reader.text
    assert not any("onerror" in attrs or "onclick" in attrs for _, attrs in reader.elements)
    scripts = [attrs for tag, attrs in reader.elements if tag == "script"]
    assert [script.get("type") for script in scripts] == ["application/json", "text/plain", None]
    views = data_in(page)["patterns"]["views"]
    assert any("</script><script>alert(1)</script>" in str(view) for view in views)


def test_it_asks_no_one_for_anything(page: str) -> None:
    reader = Reader(page)
    for tag, attrs in reader.elements:
        for name in ("src", "href", "xlink:href", "action"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    policies = [attrs["content"] for tag, attrs in reader.elements
                if tag == "meta" and "http-equiv" in attrs]  # fmt: skip
    assert len(policies) == 1
    assert (policies[0] or "").startswith("default-src 'none'")


def test_pictures_and_charts_have_words(page: str) -> None:
    reader = Reader(page)
    for tag, attrs in reader.elements:
        if tag in ("img", "canvas") or "data-chart" in attrs or attrs.get("role") == "img":
            assert len(attrs.get("alt") or attrs.get("aria-label") or "") > 20, (tag, attrs)
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_what_was_not_measured_is_named_with_its_command(bare: Path, tmp_path: Path) -> None:
    text = Reader(page_of(bare, to=tmp_path)).text
    for command in ("circuit", "explain", "match"):
        assert f"algomatch {command} {bare}" in text
    for what in ("Similarity", "Ablation", "The neurons' measures", "The circuit", "When each"):
        assert f"Not measured: {what}" in re.sub(r"\s+", " ", text)
    assert "not measured" in text


def test_an_unfinished_run_is_shown_at_its_step(bare: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(bare, tmp_path / "mine"))
    (mine / "finished.json").unlink()
    text = Reader(page_of(mine, to=tmp_path)).text
    assert "unfinished, at step 4 of 4" in text
    for folder in (mine / "checkpoints").iterdir():
        shutil.rmtree(folder)
    text = Reader(page_of(mine, to=tmp_path)).text
    assert "has no checkpoint yet" in text


def test_without_weights_it_says_so(bare: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(bare, tmp_path / "mine"))
    for weights in mine.glob("checkpoints/*/model.safetensors"):
        weights.unlink()
    assert (
        "attention of the last checkpoint cannot be computed again"
        in Reader(page_of(mine, to=tmp_path)).text
    )


def test_damaged_tables_and_those_of_another_checkpoint_are_named(
    run: Path, tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(run, tmp_path / "mine"))
    (mine / "explanation" / "heads.csv").write_text("model,layer\nx,0\n")
    matched = mine / "matching" / "programs.csv"
    lines = matched.read_text().splitlines()
    last = max(int(line.split(",")[1]) for line in lines[1:])
    matched.write_text("\n".join(line for line in lines if f",{last}," not in line) + "\n")
    text = Reader(page_of(mine, to=tmp_path)).text
    assert "heads.csv' is damaged or of another version: it has no column head, level" in text
    assert f"the last checkpoint is of step {last}" in text


def test_many_runs_are_compared_over_their_seeds(sweep: Path, tmp_path: Path) -> None:
    page = page_of(sweep, to=tmp_path)
    reader = Reader(page)
    assert reader.wrong == []
    assert reader.open == []
    text = re.sub(r"\s+", " ", reader.text)
    for part in (
        "5 runs", "1 group of 1 seed, 2 groups of 2 seeds", "1L <b>&", "Exact accuracy, all inputs",
        "Emergence: what comes when", "Fixed and variable length", "no difference shown", "n=2",
        "The verdicts of 5 runs", "Every run", "<u>1L-0-1", "(one seed)",
    ):  # fmt: skip
        assert part in text, part
    assert "not judged" in text  # no run solves its task
    assert len(page) < 8e6
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_runs_without_a_checkpoint_are_listed(sweep: Path, tmp_path: Path) -> None:
    mine = tmp_path / "runs"
    for run in sorted(sweep.iterdir())[:2]:
        shutil.copytree(run, mine / run.name)
    first = sorted(mine.iterdir())[0]
    shutil.rmtree(first / "checkpoints")
    (first / "finished.json").unlink()
    text = Reader(page_of(mine, to=tmp_path)).text
    assert "no checkpoint yet" in text
    assert "one seed" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SWEEP/nowhere"], "/nowhere' does not exist"),
        (["SWEEPX"], "did you mean"),
        (["SWEEP", "--output", "FOLDER"], "is a folder: give a file"),
        (["SWEEP", "--outptu", "x"], "unknown option '--outptu': did you mean '--output'?"),
        (["FOLDER"], "is not a run folder and does not directly contain one"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], message: str, sweep: Path, tmp_path: Path, capsys: Capture
) -> None:
    known = {"SWEEP": str(sweep), "FOLDER": str(tmp_path), "SWEEPX": f"{sweep}s"}
    given = [known.get(argument, argument.replace("SWEEP/", f"{sweep}/")) for argument in arguments]
    assert main(["report", *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("report.html").exists()


def test_an_output_that_cannot_be_written_is_a_fault(
    bare: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", str(bare), "-o", str(tmp_path / "file" / "page.html")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_a_page_replaces_an_earlier_one_and_is_the_same(
    bare: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "page.html").write_text("earlier")
    first = page_of(bare, to=tmp_path)
    said = capsys.readouterr().out
    assert re.search(r"report of 1 run: .*page\.html \(\d+\.\d MB\)", said.replace("\n", ""))
    assert "earlier" not in first[:7]
    assert page_of(bare, to=tmp_path) == first
    assert os.listdir(tmp_path) == ["page.html"]


def test_json_in_a_page_holds_no_markup() -> None:
    hostile = "</script><!-- &amp; \u2028\u2029"
    text = as_json({"name": hostile})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"name": hostile}


def test_a_table_that_is_cut_off_is_said_to_be_damaged(tmp_path: Path) -> None:
    table = tmp_path / "matching" / "emergence.csv"
    assert RunResults(tmp_path).match.problems == {}
    table.parent.mkdir()
    table.write_text("step,program,kind,name,match\n1,a,cut,x,0.5\n2\n")
    result = RunResults(tmp_path).match
    (told,) = unread(result, result.EMERGENCE)
    assert told.text == f"the table '{table}' is damaged: row 2 has 1 columns, not 5"
    table.write_bytes(b"step,program\n\xff,a\n")
    (told,) = unread(RunResults(tmp_path).match, result.EMERGENCE)
    assert "is damaged: 'utf-8' codec" in told.text


def test_a_difference_is_only_told_where_intervals_do_not_overlap() -> None:
    low, high = (
        estimate("k", values, "neither") for values in ([0.1, 0.11, 0.12], [0.8, 0.81, 0.82])
    )
    assert difference_text(low, high).startswith("lower at one length")
    assert difference_text(high, low).startswith("higher at one length")
    assert difference_text(low, low).startswith("no difference shown")
    assert difference_text(low, None) == "not in both: nothing to compare"
    assert difference_text(low, estimate("k", [0.9], "neither")).startswith("one seed")


def test_plotly_is_not_imported_by_the_other_commands() -> None:
    code = "import algomatch.cli.main, sys; assert not {'plotly', 'jinja2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
