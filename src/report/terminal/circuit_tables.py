"""A model's circuits: tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...analysis.circuits.circuit_result import Circuits
from ...analysis.circuits.edge_variables import EdgeVariables, summed
from ...analysis.circuits.faithfulness import CircuitShare
from ...analysis.matching.match_result import site_label
from .tables import plain_table
from .tables import say as printed

MOST_LISTED = 40
MOST_NAMED = 6
METHOD_LEGEND = (
    "size: edges of the smallest circuit that is surely faithful (!: no circuit is), counting "
    "those on a path to the output; faithfulness: 1 is what the model does, 0 what is left "
    "without any edge; completeness: faithfulness of the complement, that is, of all other "
    "edges; 0 is best (-: the outputs are the same without any edge); exact: the circuit's own "
    "exact accuracy"
)
EDGE_LEGEND = (
    "needed: how much further from the model's the outputs are when this edge is ablated too "
    "({unit}); +: surely above 0; *: surely at least {least:g} (analysis.circuit_threshold, the "
    "least effect for which acdc keeps an edge); carries: the program variable that accounts "
    "for most of the edge's effect, its share, and the share by chance; a variable is named if "
    "its share is surely at least 0.9, and at least 0.9 of what chance leaves"
)


NODE_LEGEND = (
    "node scores: the effect of ablating everything that the node writes, mean over the inputs "
    "searched on: on the outputs by patching, on the loss by gradients (by patching where "
    "gradients are zero); edges: those of the circuit"
)


def print_circuits(circuits: Circuits, console: Console) -> None:
    """Print the results of every method under every kind of ablation, then the circuit."""
    say = partial(printed, console=console)

    wiring = circuits.wiring
    nodes, edges = len(wiring.nodes), len(wiring.edges)
    say(f"{circuits.name}: {edges} edges among {nodes} nodes; exact accuracy {circuits.exact:.4f}")
    say(f"searched on {circuits.searched_on:,} inputs, judged on {len(circuits.inputs):,}")
    if circuits.truth is not None:
        console.print(_truth_table(circuits))
        say(
            "AUROC of the edges' scores against the true circuit, known from the weights: over "
            "all real edges, and over those that the ablation can see (real edges that it "
            "cannot see are not counted); missed: real edges with a score of 0"
        )
        for line in missed(circuits):
            say(line)
        say("")
    console.print(_methods_table(circuits))
    say(METHOD_LEGEND)
    if fallen := [
        f"{scores.fallen_back} ({method}, {kind})"
        for (kind, method), scores in circuits.scores.items()
        if scores.fallen_back
    ]:
        say(f"edges without a gradient, patched instead: {', '.join(fallen)}")
    if idle := circuits.idle_kinds:
        say(
            f"nothing can be said about circuits by {', '.join(idle)}: without any edge the "
            "outputs are the same"
        )
    if circuits.main is None:
        say(f"no circuit is surely {circuits.faithful:.0%} faithful")
        return
    say("")
    say(_title(circuits) + ("; the edges below are all real ones" if circuits.truth else ""))
    console.print(_edges_table(circuits))
    say(EDGE_LEGEND.format(unit=circuits.unit, least=circuits.least))
    console.print(_lengths_table(circuits))
    console.print(_nodes_table(circuits))
    say(NODE_LEGEND)
    if (variables := _variables_table(circuits)).row_count:
        console.print(variables)
        say(
            "edges that carry each program variable"
            if circuits.truth is not None
            else "edges that carry each program variable, in this model and in the compiled "
            "reference; match: the variable's best match (the lower of scrub and interchange), "
            "and its site" + (f" (the model: {circuits.verdict})" if circuits.verdict else "")
        )


def _truth_table(circuits: Circuits) -> Table:
    assert circuits.truth is not None
    real = circuits.truth.real
    table = plain_table("ablation", "method", "real", "AUROC", "visible", "AUROC", "missed")
    for (kind, method), scores in circuits.scores.items():
        seen = circuits.truth.visible[kind]
        values = [circuits.auroc(scores, visible) for visible in (False, True)]
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        table.add_row(
            kind, method, str(int(real.sum())), shown[0], str(int(seen.sum())), shown[1],
            str(len(circuits.missed(scores))),
        )  # fmt: skip
    return table


def missed(circuits: Circuits) -> Iterator[str]:
    """Yield the real edges that each ablation cannot see, and the visible ones a method misses."""
    assert circuits.truth is not None
    wiring = circuits.wiring
    for kind, seen in circuits.truth.visible.items():
        hidden = circuits.truth.real & ~seen
        names = ", ".join(wiring.edge_label(edge) for edge in wiring.edges if hidden[edge])
        yield f"{kind} cannot see: {names or 'none: it sees all'}"
        for (own, method), scores in circuits.scores.items():
            more = [edge for edge in circuits.missed(scores) if seen[edge]]
            if own == kind and more:
                names = ", ".join(map(wiring.edge_label, more))
                yield f"  {method} misses these visible edges: {names}"


def _methods_table(circuits: Circuits) -> Table:
    table = plain_table(
        "ablation", "method", "size", "faithfulness", "95%", "completeness", "exact"
    )
    for kind, method in circuits.scores:
        best, note = circuits.chosen.get((kind, method)), ""
        if best is None:
            some = circuits.curves[kind, method]
            best, note = (some[-1], "!") if some else (None, "")
        if best is None:
            table.add_row(kind, method, "0", "-", "-", "-", "-")
            continue
        table.add_row(
            kind, method, f"{best.size}{note}", *_cells(best.faithfulness),
            _cells(best.completeness)[0] if best.completeness else "-", f"{best.exact.value:.3f}",
        )  # fmt: skip
    return table


def _cells(share: CircuitShare) -> tuple[str, str]:
    """Return a share and its interval as text; dashes if it is undefined."""
    if math.isnan(share.value):
        return "-", "-"
    return f"{share.value:.2f}", f"{share.low:.2f}..{share.high:.2f}"


def _title(circuits: Circuits) -> str:
    main = circuits.main
    assert main is not None
    inner = [
        carried
        for carried in circuits.edge_variables
        if circuits.wiring.nodes[carried.edge.node].layer >= 0
    ]
    named = sum(map(_named, inner))
    size = f"the circuit: {main.size} of {circuits.most} edges"
    if circuits.is_whole:
        size = f"all {main.size} edges: the whole model; no smaller circuit is surely faithful"
    return (
        f"{size} ({main.method}, {main.kind}); {_needed(circuits)} (minimality, on "
        f"{circuits.needed_on:,} inputs); {named} of {len(inner)} edges that do not come from an "
        "embedding carry a variable"
        + (
            f" (in a random init: {sum(map(_named, there))})"
            if (there := circuits.untrained_edges)
            else ""
        )
    )


def _needed(circuits: Circuits) -> str:
    """Return how many edges of the circuit are needed, and how many have any effect."""
    shares = circuits.needed.values()
    matter, above = (
        sum(share.low >= at and share.low > 0 for share in shares) for at in (circuits.least, 0)
    )
    return (
        f"{matter} of {len(circuits.needed)} edges are surely needed (without one, the outputs "
        f"are at least {circuits.least:g} {circuits.unit} further off), {above} surely have an "
        "effect (above 0)"
    )


def _named(carried: EdgeVariables) -> bool:
    return bool(carried.names)


def _listed(circuits: Circuits) -> list[EdgeVariables]:
    """Return what the circuit's edges carry, the most needed edges first."""

    def key(carried: EdgeVariables) -> float:
        there = circuits.needed.get(carried.edge)
        return -there.value if there else 0.0

    return sorted(circuits.edge_variables, key=key)


def _edges_table(circuits: Circuits) -> Table:
    table = plain_table("edge", "needed", "", "carries", "share", "95%", "chance")
    rows = _listed(circuits)
    for carried in rows[:MOST_LISTED]:
        there = circuits.needed.get(carried.edge)
        held = carried.highest
        table.add_row(
            circuits.wiring.edge_label(carried.edge), f"{there.value:.3f}" if there else "-",
            _sure(there, circuits.least),
            escape(carried.name or "no single variable") if held else "no effect",
            f"{held.share:.2f}" if held else "-",
            f"{held.low:.2f}..{held.high:.2f}" if held else "-",
            f"{held.chance:.2f}" if held else "-",
        )  # fmt: skip
    if len(rows) > MOST_LISTED:
        table.add_row(f"and {len(rows) - MOST_LISTED} more (edges.csv)", "", "", "", "", "", "")
    return table


def _sure(there: CircuitShare | None, least: float) -> str:
    if there is None or there.low <= 0:
        return ""
    return "*" if there.low >= least else "+"


def _lengths_table(circuits: Circuits) -> Table:
    table = plain_table(
        "length", "inputs", "faithfulness", "95%", "completeness", "95%", "exact", "above 0"
    )
    for length, at_length in circuits.lengths.items():
        table.add_row(
            str(length), f"{at_length.n:,}", *_cells(at_length.faithfulness),
            *_cells(at_length.completeness), f"{at_length.exact.value:.3f}",
            "-" if math.isnan(circuits.minimal[length]) else f"{circuits.minimal[length]:.2f}",
        )  # fmt: skip
    return table


def _nodes_table(circuits: Circuits) -> Table:
    """Return a table of the nodes' scores under the circuit's kind of ablation."""
    assert circuits.main is not None
    main, wiring = circuits.main, circuits.wiring
    known = {
        method: scores for (kind, method), scores in circuits.scores.items() if kind == main.kind
    }
    some = {method: scores for method, scores in known.items() if method != "acdc"}
    table = plain_table("node", *some, "edges to it", "edges from it")
    first = next(iter(some.values()), None)
    order = range(len(wiring.nodes)) if first is None else first.nodes.argsort(descending=True)
    for u in map(int, order):
        own = [i for i, reader in enumerate(wiring.readers) if reader.node == wiring.nodes[u]]
        table.add_row(
            wiring.nodes[u].label, *(f"{float(scores.nodes[u]):.3f}" for scores in some.values()),
            str(int(main.edges[own].sum())), str(int(main.edges[:, u].sum())),
        )  # fmt: skip
    return table


def _variables_table(circuits: Circuits) -> Table:
    ours = summed(circuits.edge_variables)
    is_reference = circuits.truth is not None
    theirs: dict[str, list[str]] = {}
    for label, carried in circuits.reference_edges:
        if carried.names:
            theirs.setdefault(carried.name, []).append(label)
    table = Table(
        title="variables carried by edges", title_justify="left", box=None, padding=(0, 1)
    )
    compared = (
        ("in the reference",) if is_reference else ("in the reference", "in the model", "match")
    )
    for heading in ("variable", *compared):
        table.add_column(heading, overflow="fold")
    for name in dict.fromkeys([*theirs, *ours]):
        here = [circuits.wiring.edge_label(carried.edge) for carried in ours.get(name, [])]
        if is_reference:
            table.add_row(escape(name), _some(here))
        else:
            there = theirs.get(name, [])
            table.add_row(escape(name), _some(there), _some(here), _match_of(circuits, name))
    return table


def _some(labels: list[str]) -> str:
    more = len(labels) - MOST_NAMED
    shown = ", ".join(labels[:MOST_NAMED]) or "-"
    return f"{shown} and {more} more" if more > 0 else shown


def _match_of(circuits: Circuits, names: str) -> str:
    for name in names.replace(" or ", " = ").split(" = "):
        match = circuits.matched.get(name)
        if match is not None:
            return f"{match.value:.2f} at {site_label(match.site)}"
    return "-"
