"""The results of analyses in a run's folder, read back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from ..analysis.circuits.circuit_result import CircuitResult
from ..analysis.explain.explanation_result import ExplanationResult
from ..analysis.matching.match_result import MatchResult
from ..analysis.results import FOLDERS, About, Key, Result
from .result_store import StoredResult, collected, stored_results

Kind = TypeVar("Kind", bound=Result)


@dataclass(frozen=True)
class RunResults:
    """The results of `match`, `circuit` and `explain` in a run's folder, empty if there are none.

    They are of the run's own settings of the analysis. Tables that cannot be read are left out; a
    result's `problems` say why.
    """

    folder: Path

    @cached_property
    def match(self) -> MatchResult:
        """How every checkpoint that was matched matches the programs."""
        return self._gathered(MatchResult)

    @cached_property
    def circuit(self) -> CircuitResult:
        """The circuits of the last checkpoint whose circuits were searched for."""
        return self._last(CircuitResult)

    @cached_property
    def explanation(self) -> ExplanationResult:
        """The explanation of the last checkpoint that was explained."""
        return self._last(ExplanationResult)

    @cached_property
    def problems(self) -> list[str]:
        """A line for each result that cannot be read at all."""
        problems = list[str]()
        for name in dict.fromkeys(FOLDERS.values()):
            stored_results(self.folder / name, problems)
        return problems

    def match_with(self, overrides: tuple[str, ...]) -> MatchResult:
        """Return how checkpoints match with these settings of the analysis, none for its own."""
        if not overrides:
            return self.match
        same = [each for each in self._stored(MatchResult) if each.about.overrides == overrides]
        newest = max(same, key=lambda stored: stored.about.written, default=None)
        if newest is None:
            return MatchResult(about=About(Key(MatchResult.KIND, "", None, overrides)))
        matched = collected(newest.path.parent, newest.key, overrides)
        assert isinstance(matched, MatchResult)
        return matched

    def overridden(self, kind: type[Result]) -> tuple[str, ...]:
        """Return which settings that are not the run's own results of a kind were made with."""
        each = (" ".join(stored.about.overrides) for stored in self._stored(kind))
        return tuple(dict.fromkeys(words for words in each if words))

    def _stored(self, kind: type[Result]) -> list[StoredResult]:
        results = stored_results(self.folder / FOLDERS[kind.KIND])
        return [stored for stored in results if stored.about.kind == kind.KIND]

    def _gathered(self, kind: type[Kind]) -> Kind:
        about = About(Key(kind.KIND, "", None))
        gathered = kind.of_files(self.folder / FOLDERS[kind.KIND], about, tolerant=True)
        stored = self._stored(kind)
        own = {each.about.step for each in stored if not each.about.overrides}
        others = {each.about.step for each in stored} - own  # gathered by earlier versions
        checkpoints = gathered.checkpoints()
        left = [at for at in checkpoints if at[1] not in others]
        if left == checkpoints:
            return gathered
        pictures = gathered.pictures if left[-1:] == checkpoints[-1:] else {}
        return replace(gathered.at(*left), pictures=pictures)

    def _last(self, kind: type[Kind]) -> Kind:
        gathered = self._gathered(kind)
        checkpoints = gathered.checkpoints()
        if not checkpoints:
            return gathered
        model, step = checkpoints[-1]
        behind = [
            stored.about
            for stored in self._stored(kind)
            if stored.about.step == step and not stored.about.overrides
        ]  # none if an earlier version wrote the tables
        about = max(
            behind, key=lambda about: about.rank, default=About(Key(kind.KIND, model, step))
        )
        part = gathered.at(*(at for at in checkpoints if at[1] == step))
        return replace(part, about=about)
