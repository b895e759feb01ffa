"""The search for a program's variables in subspaces: a table, sentences and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import safetensors.torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from ...analysis.matching.subspaces import Question, Subspace
from ...runs.result_store import SUBSPACES, Key, save
from .matching_tables import site_label
from .tables import plain_table
from .tables import say as printed

HEADER = (
    "run", "step", "program", "variable", "same", "site", "k", "width", "test", "low", "high", "n",
    "train", "start", "chance", "random_inits", "shuffled_labels", "rival",
    "rivalled", "threshold", "found",
)  # fmt: skip
COLUMNS = (
    "site", "k", "test", "95%", "train", "start", "chance", "random", "shuffled", "rival", "",
)  # fmt: skip
LEGEND = (
    "test: cases that the search did not use; start: before the search; chance: random "
    "directions; random, shuffled: the most that the same search reaches in random inits and in "
    "a model trained on shuffled labels; rival: what another variable of the program would give "
    "in its place. A variable that is not found may still be there."
)


@dataclass(frozen=True)
class Searched:
    """The search for a program's variables in a checkpoint's subspaces.

    `sites` are the sites searched for each variable. At the other sites of `all_sites` the whole
    residual is a cut that contains the variable. `note` says how well the control learned its
    shuffled labels.
    """

    run: str
    step: int
    program: str
    all_sites: Sequence[str]
    sites: Mapping[str, Sequence[str]]
    asked: Sequence[Question]
    subspaces: Sequence[Subspace]
    note: str = ""


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
    table = plain_table("variable", *COLUMNS)
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


def per_site(subspaces: Sequence[Subspace]) -> list[Subspace]:
    """Return the best subspace for each variable and site.

    It is the smallest in which the variable is found, else the one with the highest `test`. Ties
    go to the smallest.
    """
    groups = groupby(subspaces, key=lambda subspace: (subspace.variable, subspace.site))
    return [
        min(
            group,
            key=lambda subspace: (
                not subspace.carries,
                subspace.k if subspace.carries else -subspace.test,
                subspace.k,
            ),
        )
        for _, group in groups
    ]


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


def to_csv(searched: Searched) -> str:
    """Return all searches as CSV, one row for each variable, site and number of directions."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for each in searched.subspaces:
        several = (each.same, each.random_inits, each.shuffled_labels)
        same, random_inits, shuffled_labels = (" ".join(map(str, values)) for values in several)
        writer.writerow(
            [
                searched.run, searched.step, searched.program, each.variable, same, each.site,
                each.k, each.directions.shape[0], each.test, each.low, each.high, each.n,
                each.train, each.start, each.chance, random_inits, shuffled_labels, each.rival,
                each.rivalled, each.threshold, each.carries,
            ]
        )  # fmt: skip
    return out.getvalue()


def directions_of(searched: Searched) -> dict[str, Tensor]:
    """Return the directions of all searches, each [d_model, k], keyed by `VARIABLE@SITE/k`."""
    return {
        f"{each.variable}@{each.site}/{each.k}": each.directions.contiguous()
        for each in searched.subspaces
    }


def keep_subspaces(searched: Searched, where: Path, settings: Sequence[str] = ()) -> Path:
    """Write all searches as CSV and the directions as safetensors; return the folder.

    Raises:
        FaultError: the file system failed.
    """
    files = {
        "subspaces.csv": to_csv(searched).encode(),
        "subspaces.safetensors": safetensors.torch.save(directions_of(searched)),
    }
    key = Key(SUBSPACES, searched.run, searched.step, tuple(settings))
    return save(where, key, files, (len(searched.subspaces),))
