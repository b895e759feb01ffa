"""The kinds of ablation, and the methods that find circuits by them: their names alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..infra.errors import UserError, one_of

KINDS = {  # name: what the output is replaced by
    "zero": "zero",
    "mean": "its mean over the inputs that reach the position",
    "resample_within": "that of another input of the same length, at the same position",
    "resample_across": "that of an input of another length (positions beyond its end from its "
    "start again)",
}
METHODS = ("exact", "acdc", "eap", "eap_ig")


def chosen(what: str, given: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the names that are given, in the order of those that are known; all if none is given.

    >>> chosen("method", ["eap", "exact"], METHODS)
    ['exact', 'eap']

    Raises:
        UserError: one is unknown.
    """
    names = list(known)
    for name in given:
        if name not in names:
            raise UserError(f"unknown {what} '{name}': {one_of(name, names)}")
    return [name for name in names if not given or name in given]
