"""A user's programs, as files with their YAML files."""

from __future__ import annotations

from pathlib import Path

# Categorical: how many tokens are larger; an alternative; and lists without equal neighbours.
LARGER = """\
from tracr.rasp import rasp


def make_larger():
    selector = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.GT).named("larger_ones")
    return rasp.SelectorWidth(selector).named("larger")


def make_larger_by_pairs():
    others = rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key > query)
    return rasp.Map(lambda n: n, rasp.SelectorWidth(others).named("n")).named("larger")


def no_twins(tokens):
    return all(a != b for a, b in zip(tokens, tokens[1:]))
"""
LARGER_YAML = "alternatives: [make_larger_by_pairs]\nrestrict: no_twins\nheld_out: 0.25\n"

# Numerical, undefined at the first position: half of the previous token.
HALF = """\
from tracr.rasp import rasp


def make_half_before():
    before = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
    token = rasp.Aggregate(before, rasp.tokens).named("token_before")
    return rasp.numerical(rasp.Map(lambda t: t / 2, token)).named("half_before")


def starts_low(tokens):
    return tokens[0] < 2
"""
HALF_YAML = "tolerance: 0.1\nrestrict: starts_low\n"

# Tracr's numerical MLPs expect the shares 0, 1/n and 1 only: at 2/3 the model is wrong.
MOSTLY = """\
from tracr.rasp import rasp


def make_mostly():
    so_far = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ).named("so_far")
    is_one = rasp.numerical(rasp.Map(lambda t: 1.0 if t == 1 else 0.0, rasp.tokens).named("is_one"))
    share = rasp.numerical(rasp.Aggregate(so_far, is_one, default=0)).named("share")
    return rasp.Map(lambda x: x > 0.6, share).named("mostly")
"""


def write_program(folder: Path, name: str, text: str, yaml: str | None = None) -> Path:
    """Write a program's file and its YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(text)
    if yaml is not None:
        path.with_suffix(".yaml").write_text(yaml)
    return path
