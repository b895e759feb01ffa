"""`algomatch explain`: explains a checkpoint or a compiled reference, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console

from ..analysis.activations import record
from ..analysis.explain.attention_patterns import of_programs
from ..analysis.explain.explanation_result import Explanation, ExplanationResult
from ..analysis.explain.heads import HeadComparison, HeadExplanations, explain_heads
from ..analysis.explain.neurons import NeuronExplanation, explain_neurons
from ..analysis.explain.position_features import cells, features, held_out, some_of
from ..analysis.explain.substitution import explained, variants
from ..analysis.matching.program_ranking import programs_of
from ..analysis.measures.accuracy import outcome
from ..data.inputs import input_set
from ..data.program_copies import same_programs
from ..infra.process_cache import LastResult
from ..infra.progress import Steps, Told
from ..models.bridges import plain_model
from ..models.shapes import random_inits
from ..runs.loaded_run import Loaded, LoadedRun, Openable, opened
from ..runs.result_store import result_key, result_settings
from .keeping import keep_of

INITS = 3  # random inits that are searched as a control

_untrained = LastResult[
    tuple[HeadExplanations, Sequence[NeuronExplanation]]
]()  # a random init, explained

Keep = Callable[[Explanation], None]


def explain(
    run: Openable,
    *,
    overrides: Sequence[str] = (),
    save: bool = False,
    console: Console | None = None,
) -> ExplanationResult:
    """Explain the heads and neurons of a model, and put the explanations in their place.

    Overrides, `analysis.key=value`, go with a path. If `save`, the result is kept in the run's
    folder, as the command keeps it, where reports look for it.

    Example:
        result = algomatch.explain("runs/RUN")

    Raises:
        UserError: there is no checkpoint, or the task cannot be compiled.
    """
    loaded = opened(run, overrides, "explain")
    settings = result_settings(loaded.usual, loaded.config.analysis)
    key = result_key(ExplanationResult.KIND, loaded, settings)
    result = ExplanationResult.of(explanation_of(loaded, console=console), key)
    return keep_of(loaded, result) if save else result


def explanation_of(
    run: Loaded, *, keep: Keep = lambda explanation: None, console: Console | None = None
) -> Explanation:
    """Explain a model, as `explain` does; `keep` is called after each part.

    Raises:
        UserError: the task cannot be compiled.
    """
    config, inputs, bridge = run.config, run.inputs, run.bridge
    shape = repr(config.model) if isinstance(run, LoadedRun) else "reference"
    controls = f"{shape} {same_programs(config.task)} {config.analysis!r}"  # runs may share them
    analysis, task = config.analysis, inputs.task
    programs = of_programs(
        (name, some_of(
            inputs if number == 0 else input_set(other, config.task),
            analysis.explain_inputs, analysis.seed,
        ))
        for number, (name, other) in enumerate(programs_of(task))
    )  # fmt: skip
    some = some_of(inputs, analysis.explain_inputs, analysis.seed)
    known, judged = features(some), held_out(some, analysis.seed)
    places = cells(some, known)
    recording = record(bridge, some, analysis.batch_size)
    exact = float(outcome(recording.logits, some.targets, some.output).means()["exact"])
    explanation = Explanation(
        run.title, task.name, len(some), len(inputs), exact, analysis.solved, analysis.explain_at,
        some.output, known,
    )  # fmt: skip
    layers = bridge.cfg.n_layers
    with Steps(console, "explaining", 5) as steps:
        untrained = [
            record(init, some, analysis.batch_size)
            for init in random_inits(bridge.cfg, INITS, analysis.seed, analysis.device)
        ]
        search = HeadComparison(some, known, judged, programs, analysis)
        with steps.part("heads") as told:
            heads = explain_heads(recording, untrained, search, counting(told, layers))
        explanation = replace(explanation, heads=heads)
        keep(explanation)
        with steps.part("neurons") as told:
            step = counting(told, layers)
            neurons = explain_neurons(recording, places, judged, analysis, step)
        explanation = replace(explanation, neurons=tuple(neurons))
        keep(explanation)

        def explain_untrained() -> tuple[HeadExplanations, Sequence[NeuronExplanation]]:
            with steps.part("heads of a random init") as told:
                heads = explain_heads(untrained[0], [], search, counting(told, layers))
            with steps.part("neurons of a random init") as told:
                return heads, explain_neurons(
                    untrained[0], places, judged, analysis, counting(told, layers), effects=False
                )

        theirs, theirs_too = _untrained.of(controls, explain_untrained)
        steps.to(4)  # also if they were kept from before
        explanation = replace(explanation, untrained=tuple(theirs_too))
        chosen = variants(
            heads.heads,
            neurons,
            (theirs.heads, theirs_too, untrained[0]),
            recording,
            places,
            judged,
        )
        with steps.part("the explained model") as told:
            rows = explained(
                plain_model(bridge), some, judged, chosen, counting(told, 1 + layers * len(chosen))
            )
        explanation = replace(explanation, rows=tuple(rows))
        keep(explanation)
    return explanation


def counting(told: Told, total: int) -> Callable[[], None]:
    """Return a function to be called after each of the steps, which reports the number done."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        told(done, total)

    return step
