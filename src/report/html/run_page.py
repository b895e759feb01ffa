"""The page of one run: what it learned, its measurements, and the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...analysis.circuits.circuit_result import CircuitResult
from ...analysis.explain.attention_view import AttentionPatterns
from ...analysis.explain.explanation_result import ExplanationResult
from ...analysis.matching.match_result import MatchResult
from ...analysis.matching.program_ranking import program_names
from ...analysis.measurements import Measurement
from ...analysis.measures.emergence import summaries
from ...analysis.measures.registered_measures import default_measures
from ...config.naming import model_title, run_title, task_title
from ...data.inputs import InputSet, input_set
from ...data.tasks import Task, make_task
from ...hypotheses.evidence import INPUTS, circuit_found, judged, solved_of
from ...hypotheses.failed_controls import meaning
from ...hypotheses.row_values import of
from ...hypotheses.verdicts import ONE_SEED, Hypothesis
from ...infra.errors import UserError
from ...runs.control_record import failing as failing_measures
from ...runs.run_folder import RunFolder
from ...runs.run_results import RunResults
from ..terminal.summary import inexact_note
from .algorithm_sections import attention, circuit, matching, neurons
from .blocks import Judgement, Missing, Page, Section, Text, interval, number
from .measure_sections import ablation, learning, similarity
from .task_section import task_section

Say = Callable[[str], None]
AttentionOf = Callable[[InputSet | None], AttentionPatterns]
VERDICTS_LEAD = (
    "What this run says of the three hypotheses. Each verdict has its numbers, its controls, and "
    "what would have changed it."
)


def run_page(folder: RunFolder, title: str | None, attention_of: AttentionOf, say: Say) -> Page:
    """Return the page of a run; `say` receives progress messages.

    `attention_of` gives the attention on the inputs, which are None if the task is gone.

    Raises:
        FaultError: the measurements of a checkpoint are missing or damaged.
    """
    config, path, commands = folder.config, folder.path, folder.commands
    say("reading measurements")
    rows = folder.measurements()
    steps = [row.step for row in rows]
    last_step = max(steps, default=0)
    last = [row for row in rows if row.step == last_step]
    failing = failing_measures(folder.inputs_digest)
    results = RunResults(folder.path)
    rerun = commands.measure_all(default_measures())
    say("the task and its program")
    task, inputs, problem = _task(folder)
    circuit_of = circuit_found(results.circuit, config.analysis.circuit_faithful, own_steps(inputs))
    say("attention patterns")
    patterns = attention_of(inputs)
    programs = program_names(task) if task is not None else ()
    hypotheses: list[Hypothesis] = []
    if rows:
        hypotheses = judged(
            last, results, config, failing, circuit_of, commands, summaries(rows), programs,
        )  # fmt: skip
    sections = [
        task_section(task, inputs, config)
        if task is not None and inputs is not None
        else Section("task", "Task and program", problem, [Text(problem, "warning")])
    ]
    if rows:
        arguments = (failing, commands.controls)
        sections = [
            verdict_section(hypotheses, VERDICTS_LEAD),
            *sections,
            learning(rows, last, failing, rerun),
            matching(rows, results.match, failing, last_step, path),
            similarity(rows, last, *arguments, rerun),
            attention(rows, last, results.explanation, failing, patterns, last_step, path,
                      rerun),
            circuit(results.circuit, last_step, config.analysis.circuit_faithful,
                    config.analysis.circuit_threshold, path),
            ablation(last, failing, rerun),
            neurons(rows, last, results.explanation, failing, config, last_step, path, rerun),
        ]  # fmt: skip
    else:
        lacking = Missing("Anything: the run has no checkpoint yet",
                          commands.resume)  # fmt: skip
        sections.append(Section("learning", "Measurements", "", [lacking]))
    name = run_title(config, "learning")
    warnings = [
        *_warnings(folder, rows, last_step, meaning(failing, commands.controls)),
        *overridden_notes([results]),
        *(f"Left out: {problem}" for problem in results.problems),
    ]
    return Page(
        title or name, name if title else "", facts(folder, last, last_step), warnings, hypotheses,
        sections,
    )  # fmt: skip


def verdict_section(hypotheses: Sequence[Hypothesis], lead: str) -> Section:
    """Return the section of the three hypotheses."""
    return Section(
        "verdicts",
        "The three hypotheses",
        lead,
        [Judgement(hypothesis) for hypothesis in hypotheses],
    )


def own_steps(inputs: InputSet | None) -> dict[str, bool] | None:
    """Return the names of the program's own steps: the variables that are neither input nor output.

    The value says whether the step moves: whether it takes several values at some position of
    lists of one length.
    """
    if inputs is None:
        return None
    lengths = sorted(set(inputs.lengths.tolist()))
    return {
        name: any(
            bool((codes != codes[:1]).any())
            for codes in (variable.codes[inputs.lengths == n] for n in lengths)
        )
        for name, variable in list(inputs.variables.items())[:-1]
        if name not in INPUTS
    }


def _task(folder: RunFolder) -> tuple[Task | None, InputSet | None, str]:
    try:
        settings = folder.task
        task = make_task(settings)
        return task, input_set(task, settings), ""
    except UserError as error:
        return None, None, f"The task's program can no longer be loaded: {error}"


def overridden_notes(runs: Sequence[RunResults]) -> list[str]:
    """Return a line for each command whose results have other settings than the runs' own."""
    notes = []
    for verb, kind in (
        ("match", MatchResult), ("circuit", CircuitResult), ("explain", ExplanationResult),
    ):  # fmt: skip
        each = [results.overridden(kind) for results in runs]
        if some := dict.fromkeys(words for own in each for words in own):
            of_runs = f" of {sum(map(bool, each))} runs" if len(runs) > 1 else ""
            notes.append(
                f"Results of `{verb}`{of_runs} with {', and with '.join(some)} are not shown and "
                "decide nothing: these are not the run's own settings."
            )
    return notes


def state_of(folder: RunFolder, last_step: int) -> str:
    """Return how a run ended, or its current step."""
    ended = folder.finished()
    most = folder.config.trainer.max_steps
    if ended is None:
        return f"unfinished, at step {last_step:,} of {most:,}"
    return f"finished at step {ended['step']:,} ({ended['reason']})"


def facts(folder: RunFolder, last: Sequence[Measurement], last_step: int) -> list[tuple[str, str]]:
    """Return the key facts of a run as pairs of name and text."""
    config = folder.config
    model = config.model
    solved = solved_of(last, config)
    exact = "not measured"
    if solved.exact is not None:
        row = solved.exact
        ends = interval(row.ci_low, row.ci_high)
        word = "solved" if solved.yes else f"not solved (needs {solved.at_least:g})"
        exact = f"{number(row.value)} ({ends}; n={row.n:,}): {word}"
    mlp = "attention only" if model.attn_only else f"MLPs of {model.mlp_width}"
    lengths = of(last, "accuracy/undefined_share")
    layers = f"{model.n_layers} layer{'s' * (model.n_layers != 1)}"
    norm = "LayerNorm" if model.normalization == "LN" else f"normalisation {model.normalization}"
    shape = f"{layers}, {model.n_heads} heads, width {model.d_model}, {mlp}, {norm}"
    pairs = [
        ("exact accuracy", exact), ("model", f"{model_title(config)}: {shape}"),
        ("task", task_title(config)),
        ("seed", f"{config.seed}. {ONE_SEED[0].upper()}{ONE_SEED[1:]}"),
        ("state", state_of(folder, last_step)), ("run", folder.id),
    ]  # fmt: skip
    share = lengths["all"].value if "all" in lengths else 0.0
    if share:
        pairs.append(("undefined", f"{share:.1%} of the positions, left out"))
    return pairs


def _warnings(
    folder: RunFolder, rows: Sequence[Measurement], last_step: int, marks: str
) -> list[str]:
    warnings: list[str] = []
    if folder.finished() is None:
        warnings.append(f"This run is unfinished: everything below is of step {last_step:,}.")
    note = inexact_note(rows).strip(" []")
    if note or not folder.exact:
        warnings.append(note or "The reference is inexact: it does not compute its program.")
    if marks:
        warnings.append(f"{marks[0].upper()}{marks[1:]}.")
    return warnings
