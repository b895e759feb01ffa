"""The ablation table in the terminal, with the four kinds of ablation side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from ...analysis.ablation_names import KINDS
from ...analysis.measurements import Measurement, whole
from ...analysis.measures.redundancy import REDUNDANT_SET
from ...hypotheses.failed_controls import Failing, marked
from ...hypotheses.row_values import SHORT_KINDS, component_label, of
from ...models.wiring import ATTENTION, HEAD, MLP
from .tables import plain_table

Rows = Sequence[Measurement]
WORST_SHOWN = 3  # the worst heads in the table
NOT_JUDGED = "not judged"
WORDS = {  # the replacement that each kind of ablation makes
    "zero": "zero", "mean": "its mean",
    "resample_within": "its output on another input of the same length (within)",
    "resample_across": "its output on an input of another length (across)",
}  # fmt: skip


def legend(kinds: Sequence[str]) -> str:
    """Return the legend of an ablation table with these kinds of ablation.

    >>> legend(["zero"])[-19:]
    'if replaced by zero'
    """
    return (
        "change of exact accuracy in percentage points (±: to the farther end of its 95% "
        f"interval) if replaced by {', by '.join(WORDS[kind] for kind in kinds)}"
    )


def deletion(rows: Rows, failing: Failing = None) -> list[RenderableType]:
    """Return the ablation table of layers, sets and the worst heads, with its summary.

    Returns an empty list if ablation was not measured.
    """
    changes = {kind: of(rows, f"ablation/{kind}_delta_exact") for kind in KINDS}
    kinds = [kind for kind, by_component in changes.items() if by_component]
    if not kinds:
        return []
    table = plain_table("deleted", *(SHORT_KINDS[kind] for kind in kinds))
    table.add_column(" verdict", overflow="fold")
    judged = of(rows, "ablation/redundant")
    harmless = of(rows, "ablation/harmless_kinds")
    for section in _sections(list(changes[kinds[0]]), changes):
        for name in section:
            each = {kind: changes[kind][name] for kind in kinds if name in changes[kind]}
            agreeing = int(harmless[name].value) if name in judged and name in harmless else None
            keys = [row.key for row in each.values()] + [f"ablation/{name}/redundant"]
            table.add_row(
                escape(marked(component_label(name), keys, failing)),
                *(_change(each[kind]) if kind in each else "" for kind in kinds),
                f" {verdict(each, agreeing)}",
            )
        table.add_section()
    said = _said(rows) if judged else f"{NOT_JUDGED}: the model does not solve the task"
    return [table, Text(said), Text(legend(kinds), style="dim")]


def verdict(changes: dict[str, Measurement], harmless: int | None) -> str:
    """Return the joint verdict of the kinds of ablation, of which `harmless` are harmless.

    The harmless kinds are those with the highest lower interval ends, whatever the margin was.
    """
    if harmless is None:
        return NOT_JUDGED
    if harmless == 0:
        return "needed"
    if harmless == len(changes):
        return "redundant"
    ranked = sorted(changes, key=lambda kind: -_lowest(changes[kind]))[:harmless]
    names = ", ".join(SHORT_KINDS[kind] for kind in changes if kind in ranked)
    return f"disagree: harmless by {names}"


def _lowest(row: Measurement) -> float:
    return row.value if row.ci_low is None else row.ci_low


def _sections(names: list[str], changes: dict[str, dict[str, Measurement]]) -> Iterator[list[str]]:
    """Yield the components of each part of the table: layers, sets, heads."""
    single = [name for name in names if name.startswith("blocks.")]
    yield [name for hook in (ATTENTION, MLP) for name in single if name.endswith(hook)]
    sets = [name for name in names if ".all_but_" in name and whole(name)]
    yield [*(name for name in single if name.endswith(f"{HEAD}.all")), *sets]

    def worst(name: str) -> float:
        return min(
            by_component[name].value for by_component in changes.values() if name in by_component
        )

    heads = sorted((name for name in single if name.endswith("]")), key=worst)[:WORST_SHOWN]
    yield [*heads, *(name for name in names if name == REDUNDANT_SET)]


def _change(row: Measurement) -> str:
    """Return a change in percentage points and the distance to the farther end of its interval.

    >>> _change(Measurement("", "", -0.004, 1364, -0.008, -0.001))
    '-0.4 ±0.4'
    """
    points = f"{100 * row.value:.1f}"
    points = "0.0" if points == "-0.0" else points
    if row.ci_low is None or row.ci_high is None:
        return points
    return f"{points} ±{100 * max(row.value - row.ci_low, row.ci_high - row.value):.1f}"


def _said(rows: Rows) -> str:
    """Return a sentence on the heads and MLPs that are jointly redundant."""
    flags = of(rows, "ablation/in_redundant_set")
    inside = [component_label(name) for name, row in flags.items() if row.value == 1]
    what = "heads and MLPs" if any(name.endswith(MLP) for name in flags) else "heads"
    if not inside:
        return f"no set of the {len(flags)} {what} is redundant"
    return f"redundant together ({len(inside)} of {len(flags)} {what}): {', '.join(inside)}"
