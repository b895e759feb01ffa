"""Degenerate programs and models, in which a measure may find nothing or no difference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.programs import write_program

PROGRAMS = """\
from tracr.rasp import rasp


def make_next_token():
    return rasp.Map(lambda x: (x + 1) % 3, rasp.tokens)


def make_itself():
    return rasp.Map(lambda x: x, rasp.tokens).named("itself")


def make_tokens():
    return rasp.tokens


def make_the_same():
    return rasp.Map(lambda x: 7, rasp.tokens)


def make_nought():
    return rasp.numerical(rasp.Map(lambda x: 0, rasp.tokens))


def make_place():
    return rasp.indices


def make_double():
    return rasp.numerical(rasp.Map(lambda x: 2 * x, rasp.tokens))


def make_token_before():
    before = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
    return rasp.Aggregate(before, rasp.tokens)


def make_third():
    third = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == 2)
    return rasp.Aggregate(third, rasp.tokens)


def make_length():
    every = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    return rasp.SelectorWidth(every)


def make_not_zero():
    return rasp.Map(lambda x: x or None, rasp.tokens)


def make_odd_place():
    return rasp.Map(lambda i: i % 2, rasp.indices).named("odd_place")


def make_first():
    first = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == 0)
    return rasp.Aggregate(first, rasp.tokens).named("first")


def make_share_of_ones():
    every = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    one = rasp.numerical(rasp.Map(lambda x: 1.0 if x == 1 else 0.0, rasp.tokens))
    return rasp.numerical(rasp.Aggregate(every, one, default=0))
"""


@dataclass(frozen=True)
class Shape:
    """A program or a registered task, with the overrides that make it or its model degenerate."""

    program: str  # a maker in the file above, or task=NAME
    overrides: tuple[str, ...] = ()

    def of(self, folder: Path) -> list[str]:
        """Write the program's file into the folder; return the overrides of a run."""
        if self.program.startswith("task="):
            return [self.program, *self.overrides]
        path = folder / "degenerate.py"
        if not path.exists():
            write_program(folder, path.stem, PROGRAMS)
        return [f"task={path}:{self.program}", "task.vocabulary=[0,1,2]", *self.overrides]


MODEL = ("model=1L", "model.d_model=16", "model.n_heads=2")
SHORT = ("task.max_length=3",)
SHAPES: dict[str, Shape] = {
    "no attention": Shape("make_next_token", SHORT),
    "no attention, attn_only": Shape("make_next_token", (*SHORT, "model=1L_attn_only")),
    "output is the token": Shape("make_itself", SHORT),
    "output is the input": Shape("make_tokens", SHORT),
    "output is the place": Shape("make_place", SHORT),
    "numbers without attention": Shape("make_double", SHORT),
    "one class": Shape("make_the_same", SHORT),
    "one number": Shape("make_nought", SHORT),
    "length 1 only": Shape("make_next_token", ("task.min_length=1", "task.max_length=1")),
    "length 1 only, attention": Shape("make_first", ("task.min_length=1", "task.max_length=1")),
    "one token": Shape("make_length", ("task.vocabulary=[0]", "task.max_length=3")),
    "one input": Shape("make_first", ("task.vocabulary=[0]", "task.min_length=2",
                                      "task.max_length=2", "task.held_out=0")),
    "undefined at the first position": Shape("make_token_before", SHORT),
    "undefined on whole lengths": Shape("make_third", SHORT),
    "undefined for some tokens": Shape("make_not_zero", SHORT),
    "no MLP in the program": Shape("make_first", SHORT),
    "output is the place, mapped": Shape("make_odd_place", SHORT),
    "a share": Shape("make_share_of_ones", SHORT),
    "one head": Shape("task=reverse", ("task.vocabulary=[a,b]", *SHORT, "model.n_heads=1")),
    "width 1": Shape("task=reverse", ("task.vocabulary=[a,b]", *SHORT, "model.d_model=1",
                                      "model.n_heads=1")),
    "width 2, attn_only": Shape("task=reverse", ("task.vocabulary=[a,b]", *SHORT,
                                "model=1L_attn_only", "model.d_model=2", "model.n_heads=1")),
    "nothing held out": Shape("task=hist", ("task.vocabulary=[a,b]", *SHORT, "task.held_out=0")),
    "whole lengths held out": Shape("task=hist", ("task.vocabulary=[a,b]", *SHORT,
                                    "task.held_out_lengths=[2]")),
    "most held out": Shape("task=hist", ("task.vocabulary=[a,b]", "task.max_length=2",
                                              "task.held_out=0.9")),
    "causal": Shape("make_next_token", (*SHORT, "task.causal=true")),
    "causal, undefined at first": Shape("make_token_before", (*SHORT, "task.causal=true")),
}  # fmt: skip


def config_of(shape: Shape, folder: Path) -> list[str]:
    """Return all overrides of a short run of a tiny model."""
    return [
        *MODEL, "trainer.max_steps=80", "trainer.checkpoints=2", "trainer.batch_size=16",
        "trainer.warmup_steps=2", "trainer.evaluate_every=10", "trainer.target_accuracy=1",
        "trainer.learning_rate=0.02", "analysis.bootstrap=20",
        "analysis.random_inits=2", "analysis.other_tasks=1", "analysis.match_cases=60",
        "analysis.match_checkpoint_cases=30", "analysis.circuit_cases=20",
        *shape.of(folder),
    ]  # fmt: skip


REFUSED = {  # shapes that are refused, and the messages
    "output is the input": "it is tokens itself, and computes nothing",
    "output is the place": "it is indices itself, and computes nothing",
    "one class": "the program's output is 7 on every input: there is nothing to learn",
    "one number": "the program's output is 0 on every input: there is nothing to learn",
    "one token": "task.vocabulary=[0] must have at least 2 tokens",
    "one input": "task.vocabulary=[0] must have at least 2 tokens",
}
