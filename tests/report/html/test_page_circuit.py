"""The circuits on a run's page: of a finished or interrupted search, or the whole model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from algomatch.analysis.circuits.circuit_result import CircuitResult, CircuitRow, EdgeRow
from algomatch.analysis.results import CIRCUIT, About, Key
from algomatch.config.printed_commands import RunCommands
from algomatch.config.schema import Config
from algomatch.hypotheses.evidence import circuit_found
from algomatch.hypotheses.verdicts import SUPPORTED, Carried, CircuitFound, Solved, h2
from algomatch.report.html.algorithm_sections import circuit
from algomatch.report.html.blocks import Details, Missing, Table, Text
from algomatch.runs.result_store import save
from algomatch.runs.run_results import RunResults


def searched(
    *sizes: tuple[str, int, bool, bool],
    finished: bool = True,
    needs: tuple[float, float, float] | None = None,
) -> CircuitResult:
    """Return a search's result; a row of `sizes` is method, size, chosen or not, whole or not."""
    curves = [
        CircuitRow(
            model="one", step=10, ablation="zero", method=method, edges=size, faithfulness=0.95,
            faithfulness_low=0.93, faithfulness_high=0.97, exact=1.0, exact_low=1.0,
            exact_high=1.0, chosen=chosen, completeness=0.0, completeness_low=0.0,
            completeness_high=0.0, whole=whole,
        )
        for method, size, chosen, whole in sizes
    ]  # fmt: skip
    needed, low, high = needs or (None, None, None)
    edges = [
        EdgeRow(
            model="one", step=10, edge=f"e{i}", scores={"exact/zero": 1.0, "exact/mean": 1.0},
            in_circuit=True, needed=needed, needed_low=low, needed_high=high, carries="",
            share=None, chance=None,
        )
        for i in range(3)
    ]  # fmt: skip
    about = About(Key(CIRCUIT, "one", 10), finished=finished, fullness=(len(sizes),))
    return CircuitResult(about=about, curves=tuple(curves), edges=tuple(edges))


def left(
    folder: Path,
    *sizes: tuple[str, int, bool, bool],
    finished: bool = True,
    needs: tuple[float, float, float] | None = None,
) -> CircuitResult:
    """Return a search's result as it is read back from a run's folder."""
    save(folder / "circuit", searched(*sizes, finished=finished, needs=needs))
    return RunResults(folder).circuit


def blocks_of(results: CircuitResult, least: float = 0.01) -> list[Any]:
    def every(blocks: Iterable[Any]) -> Iterator[Any]:
        for block in blocks:
            yield from every(block.blocks) if isinstance(block, Details) else (block,)

    return list(every(circuit(results, 10, 0.9, least, Path("RUN")).blocks))


def texts(blocks: Iterable[Any]) -> str:
    return " ".join(block.text for block in blocks if isinstance(block, Text))


def test_an_interrupted_search_shows_what_was_found_and_names_the_rest(tmp_path: Path) -> None:
    blocks = blocks_of(left(tmp_path, ("exact", 2, True, False), finished=False))
    said = texts(blocks)
    assert "`algomatch circuit RUN` was interrupted" in said
    assert "zero: exact; mean: exact" in said
    assert "No circuit" not in said
    assert {"The circuit's drawing", "The circuit by length"} <= {
        block.what for block in blocks if isinstance(block, Missing)
    }
    (table,) = (
        block for block in blocks if isinstance(block, Table) and "smallest" in block.caption
    )
    assert [cell.text for cell in table.rows[0]][:3] == ["zero", "exact", "2"]


def test_no_faithful_circuit_is_said_of_what_was_searched_for(tmp_path: Path) -> None:
    said = texts(blocks_of(left(tmp_path, ("exact", 2, False, False))))
    assert "No circuit of those searched for is surely 90% faithful: zero: exact" in said
    assert "interrupted" not in said


def test_a_circuit_of_all_edges_is_called_the_whole_model(tmp_path: Path) -> None:
    results = left(tmp_path, ("exact", 3, True, True))
    assert "It takes all 3 edges: the whole model. No smaller circuit" in texts(blocks_of(results))
    circuit = circuit_found(results, 0.9, None)
    assert circuit is not None
    assert circuit.whole
    smaller = left(tmp_path, ("exact", 2, True, False), ("exact", 3, False, True))
    assert "the whole model" not in texts(blocks_of(smaller))


def test_an_edge_is_needed_from_a_least_size_on(tmp_path: Path) -> None:
    results = left(tmp_path, ("exact", 3, True, True), needs=(0.005, 0.004, 0.006))
    for least, note, mark in (
        (0.01, "0 are surely needed (*: at least 0.01", "0.0050 +"),
        (0.002, "3 are surely needed (*: at least 0.002", "0.0050 *"),
    ):
        (table,) = (
            block for block in blocks_of(results, least)
            if isinstance(block, Table) and block.caption.startswith("Edges")
        )  # fmt: skip
        assert note in table.note
        assert "3 surely have an effect" in table.note
        assert table.rows[0][1].text == mark


@pytest.mark.parametrize("whole", [False, True])
def test_h2_says_where_the_circuit_is_the_whole_model(whole: bool) -> None:
    from algomatch.analysis.measurements import Measurement

    rows = [
        Measurement("accuracy/exact", "all", 1.0, 100),
        Measurement("attention/matched_overlap", "model", 0.9, 100, 0.85, 0.95),
        Measurement("attention/matched_overlap_random_init", "model", 0.2, 100, 0.1, 0.3),
    ]
    circuit = CircuitFound(
        10, 30, 30, (0.95, 0.93, 0.97), 0.9, Carried(30, ("length",) * 30),
        Carried(3, ("length",) * 3), Carried(30, ()), frozenset({"length"}), whole=whole,
    )  # fmt: skip
    config = Config()
    commands = RunCommands(Path("RUN"), config, config.task)
    verdict = h2(rows, Solved(rows[0], 0.99), {}, circuit, 10, commands, searched=True)
    assert verdict.verdict == SUPPORTED
    assert verdict.why == "all 3 comparisons are surely beyond their controls" + (
        "; its circuit is all 30 edges: the whole model" * whole
    )
