"""`algomatch report`: a self-contained HTML page of one run or of many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from ... import __version__
from ...hypotheses.verdicts import AGAINST, FOR, NOT_JUDGED
from ...infra.errors import FaultError
from .blocks import Details, Page, Section, interval, number

TEMPLATES = "templates"
TEMPLATE, STYLE, SCRIPT = "report.html.j2", "report.css", "report.js"
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
DATA_KINDS = ("chart", "diagram", "patterns")  # blocks that the page's script draws


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
