"""The search for a program's variables in subspaces: a table and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...analysis.matching.match_result import site_label
from ...analysis.matching.subspace_result import Searched, per_site
from ...analysis.matching.subspace_search import Subspace
from .tables import plain_table
from .tables import say as printed

HEADINGS = (
    "site", "k", "test", "95%", "train", "start", "chance", "random", "shuffled", "rival", "",
)  # fmt: skip
LEGEND = (
    "test: cases that the search did not use; start: before the search; chance: random "
    "directions; random, shuffled: the most that the same search reaches in random inits and in "
    "a model trained on shuffled labels; rival: what another variable of the program would give "
    "in its place. A variable that is not found may still be there."
)


def print_subspaces(searched: Searched, console: Console) -> None:
    """Print a row for each variable and site, then a sentence for each variable."""
    say = partial(printed, console=console)

    if searched.subspaces:
        console.print(_table(searched))
        say(LEGEND)
        say(f"the model trained on shuffled labels has {searched.note}")
    for line in sentences(searched):
        say(line)


def _table(searched: Searched) -> Table:
    table = plain_table("variable", *HEADINGS)
    table.title, table.title_justify = escape(f"subspaces, program {searched.program}"), "left"
    for best in per_site(searched.subspaces):
        table.add_row(
            escape(_names(best)), site_label(best.site), str(best.k), f"{best.test:.2f}",
            f"{best.low:.2f}-{best.high:.2f}", f"{best.train:.2f}", f"{best.start:.2f}",
            f"{best.chance:.2f}", f"{max(best.random_inits):.2f}",
            f"{max(best.shuffled_labels):.2f}", f"{best.rivalled:.2f}",
            "[bold green]found[/]" if best.carries else "-",
        )  # fmt: skip
    return table


def sentences(searched: Searched) -> Iterator[str]:
    """Yield the sentences about each variable."""
    if not searched.sites:
        yield f"no subspaces: {searched.program} has no inner variable to search for"
    if not searched.all_sites:
        yield "no subspaces: the model has no site between its embedding and its last site"
        return
    for _, group in groupby(per_site(searched.subspaces), key=lambda best: best.variable):
        tried = list(group)
        yield f"{_names(tried[0])}: {_said(tried)}"
    for each in searched.asked:
        if not each.answerable:
            yield (
                f"{' = '.join(each.names)}: not searched for: donated values of {each.rival} "
                f"would give the same output in {each.rivalled:.1%} of the cases"
            )
    told = {name for each in searched.asked for name in each.names}
    for variable, sites in searched.sites.items():
        if answered := [site_label(site) for site in searched.all_sites if site not in sites]:
            where = ", ".join(answered)
            yield (
                f"{variable}: not searched for at {where}: there the whole residual is a cut "
                "that contains it"
            )
        if sites and variable not in told:
            yield f"{variable}: not searched for: it changes the output too seldom"


def _said(tried: Sequence[Subspace]) -> str:
    width = tried[0].directions.shape[0]
    there = [best for best in tried if best.carries]
    if there:
        places = ", ".join(
            f"{site_label(best.site)} ({best.k} of {width} directions)" for best in there
        )
        return f"found in a subspace at {places}"
    best = max(tried, key=lambda subspace: subspace.test)
    if best.rivalled > best.control:
        other = f"{best.rival} in its place would give {best.rivalled:.2f}"
    else:
        other = f"a control gives {best.control:.2f}"
    return (
        f"not found in any subspace; at best {best.test:.2f} of the test cases "
        f"({site_label(best.site)}, {best.k} of {width} directions), where {other}"
    )


def _names(subspace: Subspace) -> str:
    return " = ".join((subspace.variable, *subspace.same))
