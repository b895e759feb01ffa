"""What `algomatch explain` does: a checkpoint, or a compiled reference, explained part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from transformer_lens.model_bridge import TransformerBridge

from ..analysis.activations import record
from ..analysis.explain.attention_patterns import of_programs
from ..analysis.explain.explanation_result import Explanation
from ..analysis.explain.heads import Heads, Search, explain_heads
from ..analysis.explain.neurons import NeuronExplanation, explain_neurons
from ..analysis.explain.position_features import cells, features, held_out, some_of
from ..analysis.explain.substitution import explained, variants
from ..analysis.matching.program_ranking import programs_of
from ..analysis.measures.accuracy import outcome
from ..config.devices import check_device
from ..config.schema import Config, task_title
from ..data.inputs import InputSet, input_set
from ..data.program_copies import same_programs
from ..data.tasks import make_task
from ..infra.process_cache import Kept
from ..infra.progress import Steps, Told
from ..models.bridges import plain_model
from ..models.reference import build_reference
from ..models.shapes import learned_shape, random_inits
from ..runs import checkpoints
from .preparation import bridge_of

INITS = 3  # random inits in which the same is searched for

_untrained = Kept[tuple[Heads, Sequence[NeuronExplanation]]]()  # a random init, explained

Keep = Callable[[Explanation], None]


def explain_checkpoint(path: Path, device: str | None, keep: Keep, console: Console) -> Explanation:
    """Explain the heads and neurons of a checkpoint; `keep` is told of each part as it is there.

    `device` is the config's unless given.

    Raises:
        UserError: `path` is no checkpoint.
    """
    checkpoint = checkpoints.load(path)
    config = checkpoint.config
    config.analysis.device = device or config.analysis.device
    check_device(config.analysis.device)
    settings = checkpoint.task
    inputs = input_set(make_task(settings), settings)
    bridge = bridge_of(checkpoint, path, inputs, learned_shape(config.model, inputs, config.seed))
    return _explain(
        f"{checkpoint.run}, step {checkpoint.step}", bridge, inputs, config, keep, console,
        f"{same_programs(settings)} {(config.model, config.analysis)!r}",
    )  # fmt: skip


def explain_reference(config: Config, keep: Keep, console: Console) -> Explanation:
    """Explain the compiled reference of a task; `keep` is told of each part as it is there.

    Raises:
        UserError: the task cannot be compiled.
    """
    check_device(config.analysis.device)
    inputs = input_set(make_task(config.task), config.task)
    reference = build_reference(inputs, config.task.allow_inexact)
    title = f"the compiled reference of {task_title(config)}"
    return _explain(title, reference.bridge, inputs, config, keep, console,
                    f"reference {same_programs(config.task)} {config.analysis!r}")  # fmt: skip


def _explain(
    title: str,
    bridge: TransformerBridge,
    inputs: InputSet,
    config: Config,
    keep: Keep,
    console: Console,
    controls: str,
) -> Explanation:
    """Explain a model; `controls` says of what its random inits are, which others may share."""
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
        title, task.name, len(some), len(inputs), exact, analysis.solved, analysis.explain_at,
        some.output, known,
    )  # fmt: skip
    layers = bridge.cfg.n_layers
    with Steps(console, "explaining", 5) as steps:
        untrained = [
            record(init, some, analysis.batch_size)
            for init in random_inits(bridge.cfg, INITS, analysis.seed, analysis.device)
        ]
        search = Search(some, known, judged, programs, analysis)
        with steps.part("heads") as told:
            heads = explain_heads(recording, untrained, search, counting(told, layers))
        explanation = replace(explanation, heads=heads)
        keep(explanation)
        with steps.part("neurons") as told:
            step = counting(told, layers)
            neurons = explain_neurons(recording, places, judged, analysis, step)
        explanation = replace(explanation, neurons=tuple(neurons))
        keep(explanation)

        def explain_untrained() -> tuple[Heads, Sequence[NeuronExplanation]]:
            with steps.part("heads of a random init") as told:
                heads = explain_heads(untrained[0], [], search, counting(told, layers))
            with steps.part("neurons of a random init") as told:
                return heads, explain_neurons(
                    untrained[0], places, judged, analysis, counting(told, layers), effects=False
                )

        theirs, theirs_too = _untrained.of(controls, explain_untrained)
        steps.to(4)  # also where they were kept
        explanation = replace(explanation, untrained=tuple(theirs_too))
        chosen = variants(
            heads.each, neurons, (theirs.each, theirs_too, untrained[0]), recording, places, judged
        )
        with steps.part("the explained model") as told:
            rows = explained(
                plain_model(bridge), some, judged, chosen, counting(told, 1 + layers * len(chosen))
            )
        explanation = replace(explanation, rows=tuple(rows))
        keep(explanation)
    return explanation


def counting(told: Told, total: int) -> Callable[[], None]:
    """Return what is called after each of so many steps, to tell how many are done."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        told(done, total)

    return step
