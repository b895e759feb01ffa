"""`algomatch explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .analyses import (
    Options,
    analysed,
    are_several,
    check_given_device,
    each_alone,
    log_result,
    readable_runs,
    refuse_output,
    refuse_several,
    say_where,
)
from .arguments import console
from .options import Again, Analysed, Device, Jobs

if TYPE_CHECKING:
    from ..analysis.explain.explanation_result import Explanation


def explain(
    *words: Analysed,
    reference: bool = False,
    output: Path | None = None,
    device: Device = None,
    jobs: Jobs = None,
    again: Again = False,
) -> None:
    """Say what each head and neuron of a checkpoint does, and test it.

    It is said what each head attends to and when each neuron is on; these explanations are put in
    their place, and it is measured what the model then still gets right.

    Args:
        reference: explain the compiled program of the task instead
        output: where tables and the picture go; RUN/explanation by default (-reference appended
            with --reference), without a run here
    """
    check_given_device(device)
    screen = console()
    options = Options({"device": device})
    from ..analysis.results import EXPLANATION

    if are_several(words) and not reference:
        refuse_output(output, "explanation")
        each_alone(
            "explain", EXPLANATION, readable_runs(words, screen), "explanation", options,
            jobs=jobs, again=again, console=screen,
        )  # fmt: skip
        return
    refuse_several(jobs, again)
    path, config, where, key = analysed("explain", words, reference, options, output, "explanation")
    from ..analysis.explain.explanation_result import ExplanationResult
    from ..api.explain import explain as explanation_of
    from ..infra.files import Unwritten
    from ..report.figures.result_pictures import drawn
    from ..report.terminal.explanation_tables import print_explanation
    from ..runs.loaded_run import LoadedReference, LoadedRun
    from ..runs.result_store import save

    stored, unwritten = list[tuple[Path, ExplanationResult]](), Unwritten()

    def keep(explanation: Explanation) -> None:
        with unwritten.noted():
            result = drawn(ExplanationResult.of(explanation, key))
            stored[:] = [(save(where, result), result)]

    run = (
        LoadedRun.open(str(path), device=device)
        if config is None
        else LoadedReference.open(path or config, device=device)
    )
    explanation = explanation_of(run, keep=keep, console=screen)
    print_explanation(explanation, screen)
    unwritten.tell()
    ((folder, result),) = stored
    say_where([folder], where, screen)
    name = "explanation-reference" if reference else "explanation"
    log_result(path, name, result, folder, screen)
