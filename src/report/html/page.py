"""`algomatch report`: a self-contained HTML page of one run or of many."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape
from rich.console import Console

from ... import __version__
from ...hypotheses.seed_groups import find_runs
from ...hypotheses.verdicts import AGAINST, FOR, NOT_JUDGED
from ...infra.errors import FaultError, UserError
from ...infra.files import faults_named, refuse_unwritable, write_file
from ..figures.sweep_figures import summary_files
from .blocks import Details, Page, Section, interval, number
from .grouped_runs import gather
from .run_page import run_page
from .sweep_page import sweep_page
from .sweep_tables import not_measured

TEMPLATES = "templates"
TEMPLATE, STYLE, SCRIPT = "report.html.j2", "report.css", "report.js"
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
DATA_KINDS = ("chart", "diagram", "patterns")  # blocks that the page's script draws


def write_report(
    paths: Sequence[Path],
    output: Path,
    title: str | None,
    console: Console,
    tables: Path | None = None,
) -> None:
    """Write the page of the runs at the paths: of one run, or of many side by side.

    If `tables` is given, the tables of many runs and figures of them are written to this folder.

    Raises:
        UserError: a path holds no run, none of several runs has a checkpoint, `output` is a folder,
            or `tables` is a file or is given for a single run.
        FaultError: a run cannot be read, or the output cannot be written.
    """
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: give a file, as in {output}/report.html")
    if tables is not None and tables.exists() and not tables.is_dir():
        raise UserError(f"--tables {tables} is a file: give a folder")
    for path in paths:
        _check(path)
    left_out = list[str]()
    folders = find_runs(paths, left_out)
    if tables is not None and len(folders) == 1:
        raise UserError(
            "--tables needs several runs, and there is only one: its page has its numbers, and "
            f"{folders[0].path}/measurements.csv"
        )
    refuse_unwritable(output)
    where = " ".join(map(str, paths))
    made: dict[str, bytes] = {}
    lacking: list[str] = []
    with console.status("report") as status:

        def say(text: str) -> None:
            status.update(f"report: {text}")

        if len(folders) == 1:
            page = run_page(folders[0], title, say)
        else:
            gathered = gather(folders, where, say, left_out)
            left_out = list(gathered.left_out)
            page = sweep_page(gathered, title, paths)
            if tables is not None:
                say("drawing the tables")
                made, lacking = summary_files(gathered), not_measured(gathered, paths)
        say("writing")
        content = rendered(page).encode()
    with faults_named(f"write '{output}'"):
        write_file(output, content)
    if tables is not None:
        with faults_named(f"write into '{tables}'"):
            tables.mkdir(parents=True, exist_ok=True)
            for name, part in made.items():
                write_file(tables / name, part)
    size = len(content) / 1e6
    told = f"report of {len(folders)} run{'s' * (len(folders) != 1)}: {output} ({size:.1f} MB)"
    lines = [told, *(f"! {line}" for line in left_out)]
    if tables is not None:
        lines += [f"! {line}" for line in lacking]
        lines.append(f"tables and figures: {tables} ({', '.join(made)})")
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _check(path: Path) -> None:
    """Refuse a path that does not exist, and suggest a similar one.

    Raises:
        UserError: the path does not exist.
    """
    with faults_named(f"look for runs in '{path}'"):
        if path.exists():
            return
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        names = [
            folder.name for folder in beside if folder.is_dir() and not folder.name.startswith(".")
        ]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = f": did you mean '{path.parent / near[0]}'?" if near else ""
    raise UserError(f"'{path}' does not exist{hint}")


def rendered(page: Page) -> str:
    """Return a page as self-contained HTML, with every text escaped."""
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters |= {"number": number, "coded": coded, "sentence": sentence}
    environment.globals["interval"] = interval
    template = environment.get_template(TEMPLATE)
    return template.render(
        page=page,
        version=__version__,
        style=Markup(_read(STYLE)),
        script=Markup(_in_script(_read(SCRIPT))),
        plotly=Markup(_in_script(_plotly())),
        data=Markup(as_json(_data(page.sections))),
        FOR=FOR,
        AGAINST=AGAINST,
        NOT_JUDGED=NOT_JUDGED,
    )


def coded(text: str) -> Markup:
    """Return a text as HTML, with the parts between backticks as code.

    >>> coded("run `a < b`")
    Markup('run <code>a &lt; b</code>')
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick is plain text
        return escape(text)
    made = (
        Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts)
    )
    return Markup("").join(made)


def sentence(text: str) -> str:
    """Return a text with a capital first letter and a full stop at its end.

    >>> sentence("it is so")
    'It is so.'
    """
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?', '!', ':')) else '.'}"


def as_json(value: Any) -> str:
    r"""Return a value as JSON without markup characters, safe inside a script element.

    >>> as_json({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(ESCAPES)


def _data(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the data of the blocks that the script draws, by name of the block."""
    data: dict[str, Any] = {}

    def gather(blocks: Sequence[Any]) -> None:
        for block in blocks:
            if isinstance(block, Details):
                gather(block.blocks)
            elif block.kind in DATA_KINDS:
                assert block.name not in data, f"two blocks are named {block.name}"
                data[block.name] = _of_block(block)

    for section in sections:
        gather(section.blocks)
    return data


def _of_block(block: Any) -> dict[str, Any]:
    if block.kind == "chart":
        return {"data": list(block.data), "layout": dict(block.layout)}
    if block.kind == "diagram":
        return {"frames": list(block.frames)}
    return {"views": list(block.views)}


def _read(name: str) -> str:
    return files(__package__).joinpath(TEMPLATES, name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # slow to import

    return str(get_plotlyjs())


def _in_script(text: str) -> str:
    """Return the text of a script after checking that it does not close its own element.

    Raises:
        FaultError: the text would close the script element.
    """
    if "</script" in text.lower() or "<!--" in text:
        raise FaultError(
            "the installed plotly cannot stand in a page: it holds the end of a script"
        )
    return text
