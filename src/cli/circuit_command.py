"""`algomatch circuit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .analyses import Keep, Options, Verb, analyse
from .options import Again, Analysed, DeviceOrCpu, Jobs

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.circuits.circuit_result import CircuitResult, Circuits
    from ..analysis.results import Key
    from ..runs.loaded_run import Loaded

Names = Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))]


def circuit(
    *words: Analysed,
    reference: bool = False,
    methods: Names = (),
    kinds: Names = (),
    output: Path | None = None,
    device: DeviceOrCpu = None,
    jobs: Jobs = None,
    again: Again = False,
) -> None:
    """Find a checkpoint's circuits, or a compiled program's, and judge them.

    The circuits are found by patching and by gradients, under every kind of ablation, and judged
    on all inputs. The true circuit of a compiled program is known from its weights; the methods
    are then judged by it.

    Args:
        reference: analyse the compiled program of the run's task instead
        methods: exact, acdc, eap, eap_ig; all by default
        kinds: kinds of ablation: zero, mean, resample_within, resample_across; all by default
        output: folder for tables and pictures; by default RUN/circuit (-reference appended with
            --reference), or circuit-TASK without a run
    """
    options = Options({"methods": methods, "kinds": kinds, "device": device})
    analyse(CIRCUIT, words, options, reference=reference, output=output, jobs=jobs, again=again)


def _compute(
    runs: Sequence[Loaded], options: Options, keep: Keep, screen: Console
) -> list[Circuits]:
    from ..api.circuit import circuits_of

    (run,) = runs
    circuits = circuits_of(
        run, methods=options.given("methods"), kinds=options.given("kinds"), console=screen,
        keep=lambda part: keep(part, run.step, finished=False),
    )  # fmt: skip
    keep(circuits, run.step)
    return [circuits]


def _result(circuits: Circuits, key: Key, finished: bool) -> CircuitResult:
    from ..analysis.circuits.circuit_result import CircuitResult

    return CircuitResult.of(circuits, key, finished)


def _show(results: Sequence[Circuits], screen: Console) -> None:
    from ..report.terminal.circuit_tables import print_circuits

    print_circuits(results[-1], screen)


def _check(options: Options) -> None:
    from ..analysis.ablation_names import KINDS, METHODS, chosen

    chosen("method", options.given("methods"), METHODS)
    chosen("kind", options.given("kinds"), KINDS)


CIRCUIT = Verb("circuit", "circuit", _compute, _result, _show, following="explain", check=_check)
