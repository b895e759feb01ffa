"""`algomatch explain`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .analyses import Keep, Options, Verb, analyse
from .options import Again, Analysed, Device, Jobs

if TYPE_CHECKING:
    from rich.console import Console

    from ..analysis.explain.explanation_result import Explanation, ExplanationResult
    from ..analysis.results import Key
    from ..runs.loaded_run import Loaded


def explain(
    *words: Analysed,
    reference: bool = False,
    output: Path | None = None,
    device: Device = None,
    jobs: Jobs = None,
    again: Again = False,
) -> None:
    """Say what each head and neuron of a checkpoint does, and test it.

    The command says what each head attends to and when each neuron is on. It then replaces heads
    and neurons by these explanations, and measures what the model still gets right.

    Args:
        reference: explain the compiled program of the task instead
        output: folder for tables and the picture; by default RUN/explanation (-reference appended
            with --reference), or explanation-TASK without a run
    """
    options = Options({"device": device})
    analyse(EXPLANATION, words, options, reference=reference, output=output, jobs=jobs, again=again)


def _compute(
    runs: Sequence[Loaded], options: Options, keep: Keep, screen: Console
) -> list[Explanation]:
    from ..api.explain import explanation_of

    (run,) = runs
    return [explanation_of(run, keep=lambda part: keep(part, run.step), console=screen)]


def _result(explanation: Explanation, key: Key, finished: bool) -> ExplanationResult:
    from ..analysis.explain.explanation_result import ExplanationResult

    return ExplanationResult.of(explanation, key)


def _show(results: Sequence[Explanation], screen: Console) -> None:
    from ..report.terminal.explanation_tables import print_explanation

    print_explanation(results[-1], screen)


EXPLANATION = Verb("explain", "explanation", _compute, _result, _show, following="report")
