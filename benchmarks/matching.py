"""The cost of matching, and how it grows: `python benchmarks/matching.py`.

`make bench` checks the two claims that have a bar. Run by itself, this file prints the claims and
the curve: seconds per pair of site and cut, for longer lists and larger vocabularies.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

import torch
from results import PAIRS, Result, show, timed
from rich.console import Console
from rich.table import Table
from transformer_lens.model_bridge import TransformerBridge

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.matching.cut_tests import Match, matches
from algomatch.analysis.measures.suite import measure
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.config.schema import Config
from algomatch.data.donors import cut_trials
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.rasp.cuts import cuts
from algomatch.data.tasks import make_task
from algomatch.models.bridges import make_bridge, make_native, plain_model
from algomatch.models.shapes import learned_shape
from algomatch.models.task_model import task_model_of
from algomatch.models.training import fit

LENGTHS = (5, 8, 12, 20)
VOCABULARIES = (4, 8, 16, 30)
LONGEST = 8  # of the lists over the vocabularies
LAYERS = (1, 2, 4, 8)
TASKS = ("reverse", "sort", "double_hist", "most_freq", "shuffle_dyck")


def whole_match() -> Result:
    """Time scrub and interchange of all cuts at all sites of 4L on reverse, with drawing trials."""
    config = compose(["model=4L"])
    inputs = input_set(make_task(config.task), config.task)
    bridge = make_bridge(learned_shape(config.model, inputs, 0))
    seconds = [_match(bridge, inputs, config)[0] for _ in range(PAIRS)]
    return Result("scrub and interchange, all cuts and sites of 4L on reverse", seconds, 2, "s")


def light_match() -> tuple[Result, ...]:
    """Time the measure `matching` at a checkpoint of 4L on reverse, over plain forward passes.

    The time of accuracy alone is subtracted. The models: a random init, one that solves the task,
    and the compiled reference, whose matches also test the later cuts.
    """
    config = compose(["model=4L", "trainer.max_steps=300"])
    both, alone = ["accuracy", "matching"], ["accuracy"]
    context = prepare(config)
    start = make_native(context.shape).state_dict()
    solved, exact, _ = fit(context.inputs, context.shape, config.trainer, 0)
    assert exact == 1
    bridges = {
        "initialised": make_bridge(context.shape, start),
        "solved": make_bridge(context.shape, solved),
        "the reference": context.reference.bridge,
    }
    return tuple(
        Result(
            f"matching at a checkpoint of 4L, {name}",
            [
                (_measuring(context, bridge, both) - _measuring(context, bridge, alone))
                / _forward(bridge, context)
                for _ in range(PAIRS)
            ],
            15,
            "forward passes",
        )
        for name, bridge in bridges.items()
    )


def _measuring(context: MeasurementContext, bridge: TransformerBridge, names: list[str]) -> float:
    """Return the seconds of measuring, without what all checkpoints of a run share."""
    context.config = dataclasses.replace(context.config, measures=names)

    def run() -> None:
        list(measure(bridge, context))

    run()
    return timed(run)


@torch.inference_mode()
def _forward(bridge: TransformerBridge, context: MeasurementContext) -> float:
    model, inputs = plain_model(bridge), context.inputs

    def run() -> None:
        for _ in range(10):
            model(inputs.tokens, attention_mask=inputs.key_mask)

    return timed(run) / 10


def _match(bridge: TransformerBridge, inputs: InputSet, config: Config) -> tuple[float, int, int]:
    """Return the seconds of a whole match, and how many cuts and sites it had."""
    task_model, analysis = task_model_of(bridge, inputs), config.analysis
    site_matches: list[Match] = []

    def run() -> None:
        trials = cut_trials(inputs, cuts(inputs).all, analysis.match_cases, analysis.seed)
        site_matches.extend(
            matches(task_model, inputs, trials, task_model.sites, analysis.bootstrap, analysis.seed)
        )

    seconds = timed(run)
    return (
        seconds,
        len({match.cut for match in site_matches}),
        len({match.site for match in site_matches}),
    )


def curve() -> Iterator[tuple[str, int, int, int, float]]:
    """Yield the varied setting, and the inputs, cuts, sites and seconds of a whole match."""
    of_lengths = [(f"max_length={n}", [f"task.max_length={n}"]) for n in LENGTHS]
    of_tokens = [
        (f"{n} tokens, max_length={LONGEST}",
         [f"task.vocabulary=[{','.join(map(str, range(n)))}]", f"task.max_length={LONGEST}"])
        for n in VOCABULARIES
    ]  # fmt: skip
    of_layers = [(f"{n} layers", [f"model.n_layers={n}"]) for n in LAYERS]
    of_tasks = [(f"task {name}", [f"task={name}"]) for name in TASKS]
    for what, overrides in (*of_lengths, *of_tokens, *of_layers, *of_tasks):
        config = compose(["model=4L", *overrides])
        inputs = input_set(make_task(config.task), config.task)
        bridge = make_bridge(learned_shape(config.model, inputs, 0))
        seconds, n_cuts, n_sites = min(_match(bridge, inputs, config) for _ in range(2))
        yield what, len(inputs), n_cuts, n_sites, seconds


def main() -> int:
    """Print the claims and the curve."""
    console = Console()
    table = Table("4L on reverse, but", "inputs", "cuts", "sites", "s", "ms a cut and site",
                  title="Cost of a whole match")  # fmt: skip
    for what, n_inputs, n_cuts, n_sites, seconds in curve():
        each = 1000 * seconds / (n_cuts * n_sites)
        table.add_row(
            what, f"{n_inputs:,}", str(n_cuts), str(n_sites), f"{seconds:.2f}", f"{each:.0f}"
        )
    console.print(table)
    return show([whole_match(), *light_match()], console)


if __name__ == "__main__":
    sys.exit(main())
