"""The pictures of a result, as PNG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from ...analysis.circuits.circuit_result import CircuitResult
from ...analysis.explain.explanation_result import ExplanationResult
from ...analysis.matching.match_result import MatchResult
from ...analysis.results import Result
from ...analysis.states.states_result import StatesResult
from ...infra.files import faults_named, write_file
from .circuit_figures import curves_figure, graph_figure
from .explanation_figures import explanation_figure
from .matching_figures import diagram, emergence
from .panels import png
from .state_figures import states_figure

EMERGENCE = "emergence.png"
AnyResult = TypeVar("AnyResult", bound=Result)


def drawn(result: AnyResult) -> AnyResult:
    """Return a result with its pictures; one that is unfinished, or was read, stays as it is."""
    if not result.about.finished:
        return result
    figures: dict[str, Figure] = {}
    if isinstance(result, MatchResult) and result.matching is not None:
        figures = {"match.png": diagram(result.matching)}
    elif isinstance(result, CircuitResult) and result.circuits is not None:
        graph = graph_figure(result.circuits)
        figures = {"curves.png": curves_figure(result.circuits)}
        figures |= {"circuit.png": graph} if graph is not None else {}
    elif isinstance(result, ExplanationResult) and result.explanation is not None:
        figures = {"explanation.png": explanation_figure(result.explanation)}
    elif isinstance(result, StatesResult):
        figure = states_figure(result.states, result.losses, result.curve)
        figures = {"states.png": figure}
    return replace(result, pictures={name: png(figure) for name, figure in figures.items()})


def draw_emergence(where: Path) -> None:
    """Draw the matches over training from the gathered tables; a single checkpoint is not drawn.

    Raises:
        FaultError: the file system failed.
    """
    path = where / MatchResult.EMERGENCE.name
    with faults_named(f"read '{path}'"):
        content = path.read_bytes() if path.exists() else None
    rows = () if content is None else MatchResult.EMERGENCE.from_csv(content, str(path))
    if len({row.step for row in rows}) > 1:
        with faults_named(f"write into '{where}'"):
            write_file(where / EMERGENCE, png(emergence(rows)))
