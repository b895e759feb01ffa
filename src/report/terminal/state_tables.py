"""The states of a model in the terminal: a table, the picture as text, sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...analysis.states.site_states import SiteStates
from ...analysis.states.state_sites import RESIDUAL, SIDE
from ...analysis.states.state_verdicts import FOLLOWS, OTHER, WITH_EXTRA
from ...analysis.states.states_result import ModelStates
from .tables import plain_table
from .tables import say as printed

SHADES = "░▒▓█"  # by what is lost without the variable: up to 0.25, 0.5, 0.75, 1
LEGEND = (
    "state: the fewest named variables that are sufficient: the site's activations are replaced, "
    "at all positions at once, by those of other inputs and positions with the same values of "
    "these variables; sufficient: the share of inputs whose whole output stays the model's own; "
    "bits: of the state's joint value; controls: the fewest bits that are sufficient in untrained "
    "models. In a name such as count(tokens == tokens) the left side is another position's, the "
    "right side this position's."
)


def print_states(model: ModelStates, console: Console) -> None:
    """Print what each site holds, the picture of sites and variables, and the verdicts."""
    say = partial(printed, console=console)
    console.print(_table(model))
    say(LEGEND)
    console.print(_picture(model))
    for line in sentences(model):
        say(line)


def _table(model: ModelStates) -> Table:
    table = plain_table("site", " state", " sufficient", " bits", " controls")
    table.title, table.title_justify = escape(f"states of {model.title}"), "left"
    table.columns[0].no_wrap = True
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    table.columns[1].overflow = "fold"
    for site in model.sites:
        name = site.site if site.kind == RESIDUAL else f"  {site.site}"
        controls = f"{min(site.control_bits):.1f}" if site.control_bits else "-"
        state = site.state
        if state is None:
            table.add_row(escape(name), " no short state", "", "", controls)
            continue
        bits = f"{state.bits:.1f}"
        table.add_row(
            escape(name), " " + escape(variables_text(state.variables)),
            f" {state.sufficiency.value:.3f}",
            f" {bits}" if site.explains else f" [yellow]{bits}[/]", f" {controls}",
        )  # fmt: skip
    return table


def variables_text(variables: Sequence[str]) -> str:
    """Return the names of a state's variables; a state without any needs nothing."""
    return ", ".join(variables) if variables else "nothing"


def _picture(model: ModelStates) -> Text:
    """Return sites as rows and variables as columns, filled where the state has the variable."""
    states = [(site, site.state) for site in model.sites if site.kind == RESIDUAL]
    names = list(dict.fromkeys(v for _, state in states if state for v in state.variables))
    width = max((len(site.site) for site, _ in states), default=0)
    lines = [f"{'':{width}}  {' '.join(f'{number:>2}' for number in range(1, len(names) + 1))}"]
    for site, state in states:
        lost = {loss.variable: loss.value for loss in state.losses} if state else {}
        cells = (shade(lost[name]) if name in lost else " ·" for name in names)
        end = f"  {state.bits:.1f} bits" if state else "  no short state"
        lines.append(f"{site.site:{width}}  {' '.join(cells)}{end}")
    numbered = "  ".join(f"{number} {name}" for number, name in enumerate(names, 1))
    return Text("\n".join([*lines, f"variables: {numbered} (darker: more is lost without it)"]))


def shade(loss: float) -> str:
    """Return a cell by what is lost without a variable.

    >>> shade(0.1), shade(1.0)
    ('░░', '██')
    """
    place = min(len(SHADES) - 1, max(0, int(loss * len(SHADES))))
    return 2 * SHADES[place]


def sentences(model: ModelStates) -> Iterator[str]:
    """Yield what was measured, the verdicts, and what is read where a site has no short state."""
    inputs = "all" if model.exhaustive else "a sample of"
    size = model.library
    yield (
        f"judged on {model.n:,} inputs ({inputs} of the task), of the model's own outputs, "
        f"{model.exact:.1%} of them right; (input, position) itself has {model.most_bits:.1f} bits"
    )
    reach = f"all up to size {size.cost}" if size.complete else (
        f"all up to size {size.cost}, then the budget was used up"
    )  # fmt: skip
    yield (
        f"library: {size.variables} different variables of {size.tried:,} expressions ({reach}), "
        f"{size.seconds:.1f} s"
    )
    for site in model.sites:
        if site.kind == RESIDUAL and not site.explains and site.control_bits:
            yield _mixture(site, model)
    for verdict in model.verdicts:
        yield f"{verdict.program}: {verdict.verdict}: {verdict.why}"
    words = {verdict.verdict for verdict in model.verdicts}
    if OTHER in words and not words & {FOLLOWS, WITH_EXTRA}:
        yield f"its states are {states_text(model)}"


def states_text(model: ModelStates) -> str:
    """Return the state of each site of the residual stream, on one line."""
    return "; ".join(
        f"{site.site}: {variables_text(site.state.variables) if site.state else 'no short state'}"
        for site in model.sites
        if site.kind == RESIDUAL
    )


def _mixture(site: SiteStates, model: ModelStates) -> str:
    """Return what is read of a site that has no short state."""
    state = site.state
    what = "no short state" if state is None else (
        f"its state has {state.bits:.1f} bits, no fewer than controls need "
        f"({min(site.control_bits):.1f})"
    )  # fmt: skip
    names = [each.site for each in model.sites]
    reading = list[str]()
    for each in model.sites[names.index(site.site) + 1 :]:
        if each.kind == RESIDUAL:
            break
        if each.kind == SIDE and each.state is not None:
            reading.append(f"{each.site} {variables_text(each.state.variables)}")
    return f"{site.site}: {what}" + (f"; of it is read: {'; '.join(reading)}" if reading else "")
