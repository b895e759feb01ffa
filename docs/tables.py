"""Writes what the docs, the README and the sweep files say of settings, tasks and architectures.

`python docs/tables.py` writes all of it anew, from the records in `src/` and the files in
`configs/`: tables between two marks, and numbers where they stand in a text.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from algomatch.analysis.measures.registered_measures import REGISTRY as MEASURES
from algomatch.analysis.measures.suite import declared
from algomatch.config.composition import group_names
from algomatch.config.schema import setting_of, settings
from algomatch.config.values import shown
from algomatch.data import programs
from algomatch.data.registered_tasks import REGISTRY as TASKS
from algomatch.data.registered_tasks import RegisteredTask, task_names
from algomatch.runs.sweep_file import read_sweep

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python docs/tables.py"


def main() -> None:
    """Write every file anew."""
    for path, text in written():
        (ROOT / path).write_text(text, encoding="utf-8")


def written() -> Iterator[tuple[str, str]]:
    """Yield each file, by its path from the root, with its text as it should be."""
    yield (
        "docs/configuration.md",
        _with_block("docs/configuration.md", "settings", settings_table()),
    )
    yield "docs/tasks.md", _with_block("docs/tasks.md", "tasks", tasks_table())
    yield "docs/measures.md", _with_block("docs/measures.md", "metrics", metrics_table())
    swept = {"tasks": task_names(), "architectures": group_names("model")}
    for name, values in swept.items():
        path = f"sweeps/{name}.yaml"
        yield path, _with_block(path, name, textwrap.fill(", ".join(values), 88) + "\n")
    text = _read("docs/sweeps.md")
    for name in swept:
        runs = len(read_sweep(ROOT / "sweeps" / f"{name}.yaml").cells())
        text = _number(text, rf"(?<=\| `{name}\.yaml` \| )\d+", runs)
    yield "docs/sweeps.md", text
    text = _number(_read("README.md"), r"(?<=# )\d+(?= tasks;)", len(TASKS))
    alternatives = sum(len(registered.alternatives) for registered in TASKS.values())
    text = _number(text, r"(?<=their )\d+(?= alternatives)", alternatives)
    listed = ", ".join(f"`{name}`" for name in group_names("model"))
    yield "README.md", _number(text, r"(?<=`configs/model/4L\.yaml` \()[^)]+", listed)


def settings_table() -> str:
    """Return the table of settings: key, default, what it can be, and what it is."""
    lines = ["| key | default | can be | |", "|---|---|---|---|"]
    for key, own in settings():
        setting = setting_of(own)
        can_be = str(setting.bounds or "") or ", ".join(f"`{each}`" for each in setting.choices)
        lines.append(f"| `{key}` | {_default(own)} | {can_be} | {setting.about}{setting.more} |")
    return "\n".join(lines) + "\n"


def _default(own: dataclasses.Field[Any]) -> str:
    value = own.default
    if value is dataclasses.MISSING:
        assert own.default_factory is not dataclasses.MISSING
        value = own.default_factory()
    if value is None and (unset := setting_of(own).unset):
        return unset
    return f"`{shown(value)}`"


def tasks_table() -> str:
    """Return the table of registered tasks: what each computes, on which lists, and by what."""
    lines = ["| task | computes | program, and its alternatives |", "|---|---|---|"]
    for name, registered in TASKS.items():
        ways = [_way(name), *(f"`{other}`: {_way(other)}" for other in registered.alternatives)]
        lines.append(f"| `{name}` | {_computes(registered)} | {'<br>'.join(ways)} |")
    return "\n".join(lines) + "\n"


def metrics_table() -> str:
    """Return the table of metrics: unit, bounds, better direction, and what each says."""
    lines = ["| metric | unit | from | to | better | |", "|---|---|---|---|---|---|"]
    for name, registered in MEASURES.items():
        note = "" if registered.by_default else " (off by default)"
        for metric in declared(name):
            bounds = f"{_bound(metric.low)} | {_bound(metric.high)}"
            words = f"{metric.about}{note}".replace("|", r"\|")
            lines.append(
                f"| `{metric.name}` | {metric.unit} | {bounds} | {metric.better} | {words} |"
            )
    return "\n".join(lines) + "\n"


def _bound(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else ""


def _computes(registered: RegisteredTask) -> str:
    notes = {"causal": registered.causal, "no token twice": registered.unique}
    said = ", ".join(note for note, holds in notes.items() if holds)
    tokens = " ".join(f"`{token}`" for token in registered.vocabulary)
    lengths = f"length {registered.min_length} to {registered.max_length}"
    return f"{registered.about}{f' ({said})' if said else ''}; {tokens}, {lengths}"


def _way(name: str) -> str:
    make: Callable[..., Any] = getattr(programs, f"make_{name}")
    return (inspect.getdoc(make) or "").partition("\n")[0]


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _with_block(path: str, name: str, block: str) -> str:
    """Return a file's text with a block between its marks, indented as they are."""
    begin, end = f"{name}: written by {COMMAND}", f"end of {name}"
    if path.endswith(".yaml"):
        begin, end = f"# {begin}", f"# {end}"
    else:
        begin, end = f"<!-- {begin} -->", f"<!-- {end} -->"
    pattern = rf"(?m)^( *){re.escape(begin)}\n(?:.*\n)*?\1{re.escape(end)}\n"

    def between(marks: re.Match[str]) -> str:
        inside = textwrap.indent(block, marks[1])
        return f"{marks[1]}{begin}\n{inside}{marks[1]}{end}\n"

    text, count = re.subn(pattern, between, _read(path))
    assert count == 1, f"{path} has no marks '{begin}' and '{end}'"
    return text


def _number(text: str, pattern: str, value: object) -> str:
    text, count = re.subn(pattern, str(value), text)
    assert count == 1, f"'{pattern}' is {count} times in the text"
    return text


if __name__ == "__main__":
    main()
