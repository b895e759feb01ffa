"""The results of analyses in a run's folder, read back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from ..analysis.circuits.circuit_result import CircuitResult
from ..analysis.explain.explanation_result import ExplanationResult
from ..analysis.matching.match_result import MatchResult
from ..analysis.results import CIRCUIT, EXPLANATION, FOLDERS, MATCH, About, Key, Result
from .result_store import stored_results

Kind = TypeVar("Kind", bound=Result)


@dataclass(frozen=True)
class RunResults:
    """The results of `match`, `circuit` and `explain` in a run's folder, empty if there are none.

    Tables that cannot be read are left out; a result's `problems` say why.
    """

    folder: Path

    @cached_property
    def match(self) -> MatchResult:
        """How every checkpoint that was matched matches the programs."""
        return self._gathered(MatchResult, self.folder / FOLDERS[MATCH])

    @cached_property
    def circuit(self) -> CircuitResult:
        """The circuits of the last checkpoint whose circuits were searched for."""
        return self._last(CircuitResult, self.folder / FOLDERS[CIRCUIT])

    @cached_property
    def explanation(self) -> ExplanationResult:
        """The explanation of the last checkpoint that was explained."""
        return self._last(ExplanationResult, self.folder / FOLDERS[EXPLANATION])

    def _gathered(self, kind: type[Kind], where: Path) -> Kind:
        return kind.of_files(where, About(Key(kind.KIND, "", None)), tolerant=True)

    def _last(self, kind: type[Kind], where: Path) -> Kind:
        gathered = self._gathered(kind, where)
        checkpoints = gathered.checkpoints()
        if not checkpoints:
            return gathered
        model, step = checkpoints[-1]
        behind = [
            stored.about
            for stored in stored_results(where)
            if stored.about.kind == kind.KIND and stored.about.step == step
        ]  # none if an earlier version wrote the tables
        about = max(
            behind, key=lambda about: about.rank, default=About(Key(kind.KIND, model, step))
        )
        part = gathered.at(*(at for at in checkpoints if at[1] == step))
        return replace(part, about=about)
