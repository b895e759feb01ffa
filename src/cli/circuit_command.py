"""`algomatch circuit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .analyses import (
    Options,
    analysed,
    are_several,
    each_alone,
    log_result,
    readable_runs,
    refuse_output,
    refuse_several,
    say_where,
)
from .arguments import console
from .options import Again, Analysed, Jobs

if TYPE_CHECKING:
    from ..analysis.circuits.circuit_result import Circuits

Names = Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))]


def circuit(
    *words: Analysed,
    reference: bool = False,
    methods: Names = (),
    kinds: Names = (),
    output: Path | None = None,
    jobs: Jobs = None,
    again: Again = False,
) -> None:
    """Find a checkpoint's circuits, or a compiled program's, and judge them.

    The circuits are found by patching and by gradients, under every kind of ablation, and judged
    on all inputs. Of a compiled program the true circuit is known from its weights, and the methods
    are judged by it.

    Args:
        reference: the compiled program of the run's task instead
        methods: exact, acdc, eap, eap_ig; all by default
        kinds: of ablation, zero, mean, resample_within, resample_across; all by default
        output: where tables and pictures go; RUN/circuit by default
    """
    screen = console()
    options = Options({"methods": methods, "kinds": kinds})
    from ..analysis.results import CIRCUIT

    if are_several(words) and not reference:
        refuse_output(output, "circuit")
        each_alone(
            "circuit", CIRCUIT, readable_runs(words, screen), "circuit", options, jobs=jobs,
            again=again, console=screen,
        )  # fmt: skip
        return
    refuse_several(jobs, again)
    path, config, where, key = analysed("circuit", words, reference, options, output, "circuit")
    from ..analysis.circuits.circuit_result import CircuitResult
    from ..api.circuit import circuit as find
    from ..infra.files import Unwritten
    from ..report.figures.result_pictures import drawn
    from ..report.terminal.circuit_tables import print_circuits
    from ..runs.loaded_run import LoadedReference, LoadedRun
    from ..runs.result_store import save

    stored, unwritten = list[tuple[Path, CircuitResult]](), Unwritten()

    def keep(circuits: Circuits, finished: bool = False) -> None:
        with unwritten.noted():
            result = drawn(CircuitResult.of(circuits, key, finished))
            stored[:] = [(save(where, result), result)]

    run = (
        LoadedRun.open(str(path), device="cpu")
        if config is None
        else LoadedReference.open(path or config, device="cpu")
    )
    circuits = find(run, methods=methods, kinds=kinds, keep=keep, console=screen)
    keep(circuits, finished=True)
    print_circuits(circuits, screen)
    unwritten.tell()
    ((folder, result),) = stored
    say_where([folder], where, screen)
    log_result(path, "circuit-reference" if reference else "circuit", result, folder, screen)
