"""A program's variables searched for in a checkpoint's subspaces, and the result as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Self

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ...infra.errors import FaultError
from ...infra.files import faults_named
from ...infra.typed_tables import TypedTable, separated
from ..results import SUBSPACES, About, Key, Result
from .subspace_search import Question, Subspace

DIRECTIONS = "subspaces.safetensors"


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
    task: str = ""


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


@dataclass(frozen=True, kw_only=True)
class SubspaceRow:
    """A search for a variable at a site among `k` of `width` directions, and its controls."""

    run: str
    step: int | None
    program: str
    variable: str
    same: tuple[str, ...] = field(metadata=separated("; ", since=2))
    site: str
    k: int
    width: int
    test: float
    low: float
    high: float
    n: int
    train: float
    start: float
    chance: float
    random_inits: tuple[float, ...]
    shuffled_labels: tuple[float, ...]
    rival: str
    rivalled: float
    threshold: float
    found: bool

    @property
    def model(self) -> str:
        """The run."""
        return self.run


@dataclass(frozen=True, kw_only=True)
class SubspaceResult(Result):
    """The subspaces of a checkpoint that were searched for a program's variables.

    `directions`, each [d_model, k], are keyed by `VARIABLE@SITE/k`.
    """

    subspaces: tuple[SubspaceRow, ...] = ()
    directions: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    searched: Searched | None = field(default=None, repr=False, compare=False)

    KIND: ClassVar[str] = SUBSPACES
    TABLE: ClassVar = TypedTable(SubspaceRow, "subspaces.csv", version=2)
    TABLES: ClassVar[Mapping[str, TypedTable[Any]]] = {"subspaces": TABLE}
    OTHERS: ClassVar[tuple[str, ...]] = (DIRECTIONS,)

    @classmethod
    def of(cls, searched: Searched, settings: Sequence[str] = ()) -> Self:
        """Return a search as a result."""
        key = Key(cls.KIND, searched.run, searched.step, tuple(settings))
        rows = [
            SubspaceRow(
                run=searched.run, step=searched.step, program=searched.program,
                variable=each.variable, same=each.same, site=each.site, k=each.k,
                width=each.directions.shape[0], test=each.test, low=each.low, high=each.high,
                n=each.n, train=each.train, start=each.start, chance=each.chance,
                random_inits=each.random_inits, shuffled_labels=each.shuffled_labels,
                rival=each.rival, rivalled=each.rivalled, threshold=each.threshold,
                found=each.carries,
            )
            for each in searched.subspaces
        ]  # fmt: skip
        directions = {
            f"{each.variable}@{each.site}/{each.k}": each.directions.contiguous()
            for each in searched.subspaces
        }
        about = About(key, searched.task, fullness=(len(rows),))
        return cls(about=about, subspaces=tuple(rows), directions=directions, searched=searched)

    def files(self) -> dict[str, bytes]:
        """Return the table and the directions as files; the table also if it has no rows."""
        table = {self.TABLE.name: self.TABLE.to_csv(self.subspaces)}
        return {**table, DIRECTIONS: safetensors.torch.save(dict(self.directions))}

    @classmethod
    def of_files(cls, folder: Path, about: About, *, tolerant: bool = False) -> Self:
        """Return the table and the directions in a folder as a result."""
        result, path = super().of_files(folder, about, tolerant=tolerant), folder / DIRECTIONS
        if not path.is_file():
            return result
        try:
            with faults_named(f"read '{path}'"):
                directions = safetensors.torch.load(path.read_bytes())
        except (SafetensorError, FaultError) as error:
            problem = f"'{path}' is damaged: {error}"
            if not tolerant:
                raise FaultError(problem) from error
            return cls(
                about=about, subspaces=result.subspaces,
                problems={**result.problems, DIRECTIONS: problem},
            )  # fmt: skip
        return cls(
            about=about, subspaces=result.subspaces, directions=directions,
            problems=result.problems,
        )  # fmt: skip
