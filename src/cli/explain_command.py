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
    log_files,
    readable_runs,
    refuse_output,
    refuse_several,
    say_where,
)
from .arguments import console
from .options import Again, Analysed, Device, Jobs

if TYPE_CHECKING:
    from ..report.terminal.explanation_tables import Explanation


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
            with --reference), or the current folder without a run
    """
    check_given_device(device)
    screen = console()
    options = Options({"device": device})
    from ..runs.result_store import EXPLANATION

    if are_several(words) and not reference:
        refuse_output(output, "explanation")
        each_alone(
            "explain", EXPLANATION, readable_runs(words, screen), "explanation", options,
            jobs=jobs, again=again, console=screen,
        )  # fmt: skip
        return
    refuse_several(jobs, again)
    path, config, where, key = analysed("explain", words, reference, options, output, "explanation")
    from ..api.explain import explain as explanation_of
    from ..infra.files import Unwritten
    from ..report.figures.explanation_figures import keep_explanation
    from ..report.terminal.explanation_tables import print_explanation
    from ..runs.loaded_run import LoadedReference, LoadedRun

    files, unwritten = list[Path](), Unwritten()

    def keep(explanation: Explanation) -> None:
        with unwritten.noted():
            files[:] = keep_explanation(explanation, where, key)

    run = (
        LoadedRun.open(str(path), device=device)
        if config is None
        else LoadedReference.open(path or config, device=device)
    )
    explanation = explanation_of(run, keep=keep, console=screen)
    print_explanation(explanation, screen)
    unwritten.tell()
    say_where([files[0].parent], where, screen)
    log_files(path, "explanation-reference" if reference else "explanation", files, screen)
