"""Marks on measures that fail the task's controls: they do not separate the program from others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MARK = "✗"

# Maps a measure key (`group/subject/name`) to a short reason; None if the controls were not run.
Failing = Mapping[str, str] | None


def marked(label: str, keys: Iterable[str], failing: Failing) -> str:
    """Return a label, followed by the mark if one of its measures fails the controls.

    >>> marked("plain CKA", ["similarity/model/matched_plain_cka"], None)
    'plain CKA'
    """
    return f"{label} {MARK}" if any(key in (failing or ()) for key in keys) else label


def meaning(failing: Failing, controls: str = "", keys: Iterable[str] | None = None) -> str:
    """Return the meaning of the mark, or how to run the controls; empty if all measures pass.

    `controls` is the command that runs the task's controls. `keys` are the measures shown: the
    text is empty if none of them is marked.

    >>> meaning({})
    ''
    """
    if failing is None:
        how = f": `{controls}`" if controls else " (algomatch controls)"
        return f"controls not run for this task{how}"
    if not failing or (keys is not None and not any(key in failing for key in keys)):
        return ""
    return (
        f"{MARK} does not separate the program from other models on this task (algomatch controls)"
    )
