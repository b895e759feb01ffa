"""Marks on measures that do not tell the program from other models on a task's controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MARK = "✗"

# Measure key (`group/subject/name`) to a short reason; None where the controls never ran.
Failing = Mapping[str, str] | None


def marked(label: str, keys: Iterable[str], failing: Failing) -> str:
    """Return a label, with the mark after it if one of its measures is failing.

    >>> marked("plain CKA", ["similarity/model/matched_plain_cka"], None)
    'plain CKA'
    """
    return f"{label} {MARK}" if any(key in (failing or ()) for key in keys) else label


def meaning(failing: Failing, controls: str = "", keys: Iterable[str] | None = None) -> str:
    """Return what the mark says, or how to find out; nothing where every measure separates.

    `controls` is the command that runs the task's controls. Of what is shown the measures' keys
    may be given: nothing where none of them is marked.

    >>> meaning({})
    ''
    """
    if failing is None:
        how = f": `{controls}`" if controls else " (algomatch controls)"
        return f"controls not run for this task{how}"
    if not failing or (keys is not None and not any(key in failing for key in keys)):
        return ""
    return f"{MARK} does not tell the program from other models on this task (algomatch controls)"
