"""The registered tasks: the programs of each, what it computes, and on which lists.

Nothing heavy is imported here, so that a command can answer for names at once. A task's program
is `make_NAME` in `programs.py`, an alternative's likewise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..config.composition import group_names, names_file
from ..config.schema import TaskConfig
from ..infra.errors import UserError, one_of

Oracle = Callable[[list[Any], Sequence[Any]], list[Any]]


@dataclass(frozen=True)
class RegisteredTask:
    """What a task is unless the config says otherwise.

    `oracle` takes a list and the vocabulary and says in plain Python what the task computes, since
    a program cannot be its own witness; None where a position has no output. `alternatives` are the
    names of other programs of the same map. `matched` tasks are those that `algomatch
    match-controls` trains on unless others are named.
    """

    about: str
    vocabulary: tuple[str | int, ...]
    oracle: Oracle
    min_length: int = 1
    max_length: int = 5
    alternatives: tuple[str, ...] = ()
    causal: bool = False
    unique: bool = False
    matched: bool = False


def everywhere(value: Any, xs: list[Any]) -> list[Any]:
    """Return a value at every position."""
    return [value] * len(xs)


def balanced(xs: list[Any], opens: Any, closes: Any) -> bool:
    """Return whether as many close as open, and never more so far."""
    depth = 0
    for x in xs:
        depth += (x == opens) - (x == closes)
        if depth < 0:
            return False
    return depth == 0


def shares(xs: list[Any], token: Any) -> list[float]:
    """Return the share of a token up to each position."""
    return [xs[: i + 1].count(token) / (i + 1) for i in range(len(xs))]


def after_latest(xs: list[Any], i: int) -> Any:
    """Return what follows the latest earlier occurrence of a position's token; None without one."""
    earlier = [j for j in range(i) if xs[j] == xs[i]]
    return xs[earlier[-1] + 1] if earlier else None


LETTERS = ("a", "b", "c", "d")
DIGITS = (1, 2, 3, 4)

REGISTRY: dict[str, RegisteredTask] = {
    "reverse": RegisteredTask(
        "the list backwards",
        LETTERS,
        lambda xs, v: xs[::-1],
        matched=True,
        alternatives=(
            "reverse_by_counting",
            "reverse_by_position",
        ),
    ),
    "length": RegisteredTask(
        "how long the list is, at every position",
        LETTERS,
        lambda xs, v: everywhere(len(xs), xs),
        alternatives=("length_by_vocabulary",),
    ),
    "palindrome": RegisteredTask(
        "whether the list reads the same backwards, at every position",
        ("a", "b", "c"),
        lambda xs, v: everywhere(xs == xs[::-1], xs),
        max_length=6,
        alternatives=("palindrome_by_pairs",),
    ),
    "hist": RegisteredTask(
        "how often this token occurs",
        LETTERS,
        lambda xs, v: [xs.count(x) for x in xs],
        matched=True,
        alternatives=(
            "hist_by_vocabulary",
            "hist_by_share",
        ),
    ),
    "double_hist": RegisteredTask(
        "how many different tokens occur as often as this one",
        LETTERS,
        lambda xs, v: [Counter(Counter(xs).values())[xs.count(x)] for x in xs],
        matched=True,
        alternatives=("double_hist_by_division",),
    ),
    "count": RegisteredTask(
        "how often the first vocabulary token occurs, at every position",
        LETTERS,
        lambda xs, v: everywhere(xs.count(v[0]), xs),
        alternatives=("count_by_running",),
    ),
    "parity": RegisteredTask(
        "whether the number of first vocabulary tokens is odd, at every position",
        ("a", "b", "c"),
        lambda xs, v: everywhere(xs.count(v[0]) % 2 == 1, xs),
        max_length=6,
        alternatives=("parity_by_halves",),
    ),
    "first_occurrence": RegisteredTask(
        "whether this token has not occurred before",
        LETTERS,
        lambda xs, v: [x not in xs[:i] for i, x in enumerate(xs)],
        alternatives=("first_occurrence_by_vocabulary",),
    ),
    "rank": RegisteredTask(
        "how many tokens are smaller than this one",
        DIGITS,
        lambda xs, v: [sum(y < x for y in xs) for x in xs],
        alternatives=("rank_by_others",),
    ),
    "sort": RegisteredTask(
        "the tokens in ascending order",
        DIGITS,
        lambda xs, v: sorted(xs),
        matched=True,
        alternatives=("sort_by_counting",),
    ),
    "sort_unique": RegisteredTask(
        "different tokens in ascending order",
        (1, 2, 3, 4, 5, 6),
        lambda xs, v: sorted(xs),
        alternatives=("sort_unique_by_larger",),
        unique=True,
    ),
    "sort_freq": RegisteredTask(
        "the tokens in descending frequency, ties in input order",
        LETTERS,
        lambda xs, v: sorted(xs, key=lambda x: -xs.count(x)),
        matched=True,
        alternatives=("sort_freq_by_parts",),
    ),
    "most_freq": RegisteredTask(
        "the most frequent token, at every position; of several, the first in the vocabulary",
        LETTERS,
        lambda xs, v: everywhere(max(v, key=xs.count), xs),
        matched=True,
        alternatives=("most_freq_by_vocabulary",),
    ),
    "frac_prevs": RegisteredTask(
        "the share of the tokens so far that are the first vocabulary token",
        LETTERS,
        lambda xs, v: shares(xs, v[0]),
        alternatives=("frac_prevs_by_counting",),
    ),
    "pair_balance": RegisteredTask(
        "the share of opens minus the share of closes so far",
        ("(", ")", "a"),
        lambda xs, v: [a - b for a, b in zip(shares(xs, v[0]), shares(xs, v[1]), strict=True)],
        max_length=6,
        alternatives=("pair_balance_by_counting",),
    ),
    "share_of_last": RegisteredTask(
        "the share of the tokens that are the last one, at every position",
        LETTERS,
        lambda xs, v: everywhere(xs.count(xs[-1]) / len(xs), xs),
        matched=True,
        alternatives=("share_of_last_by_counting",),
    ),
    "shuffle_dyck": RegisteredTask(
        "whether the brackets are balanced, at every position",
        ("(", ")"),
        lambda xs, v: everywhere(balanced(xs, v[0], v[1]), xs),
        matched=True,
        max_length=8,
        alternatives=("shuffle_dyck_by_depth",),
    ),
    "shuffle_dyck2": RegisteredTask(
        "whether two shuffled kinds of brackets are each balanced, at every position",
        ("(", ")", "{", "}"),
        lambda xs, v: everywhere(balanced(xs, v[0], v[1]) and balanced(xs, v[2], v[3]), xs),
        alternatives=("shuffle_dyck2_by_depth",),
    ),
    "previous_token": RegisteredTask(
        "the token before this one",
        LETTERS,
        lambda xs, v: [None, *xs[:-1]],
        alternatives=("previous_token_by_sending",),
        causal=True,
    ),
    "shift_by": RegisteredTask(
        "the token two positions earlier",
        LETTERS,
        lambda xs, v: [None, None, *xs][: len(xs)],
        alternatives=("shift_by_by_steps",),
    ),
    "detect_pattern": RegisteredTask(
        "whether the first two vocabulary tokens, in this order, end here",
        LETTERS,
        lambda xs, v: [None, *(pair == (v[0], v[1]) for pair in pairwise(xs))],
        alternatives=("detect_pattern_by_flags",),
    ),
    "contains": RegisteredTask(
        "whether the first vocabulary token is directly followed by the second, anywhere",
        LETTERS,
        lambda xs, v: everywhere((v[0], v[1]) in pairwise(xs), xs),
        alternatives=("contains_by_positions",),
    ),
    "induction": RegisteredTask(
        "the token after the latest previous occurrence of this one",
        LETTERS,
        lambda xs, v: [after_latest(xs, i) for i in range(len(xs))],
        alternatives=("induction_by_pointer",),
        causal=True,
    ),
}


def task_names() -> list[str]:
    """Return every task there is: the registered ones, and the shipped conditions of them."""
    return [*REGISTRY, *(name for name in group_names("task") if name not in REGISTRY)]


def task_of_program() -> dict[str, str]:
    """Return the registered task of every program, by the program's name.

    >>> task_of_program()["sort_by_counting"]
    'sort'
    """
    names = {name: name for name in REGISTRY}
    for name, registered in REGISTRY.items():
        names |= dict.fromkeys(registered.alternatives, name)
    return names


def check_program(config: TaskConfig) -> None:
    """Refuse a program that is neither registered nor named by its file.

    Raises:
        UserError: it is unknown.
    """
    name, known = config.program or config.name, task_of_program()
    if not names_file(name) and name not in known:
        choices = known if config.program else task_names()
        raise UserError(
            f"unknown task '{name}': {one_of(name, choices)}, or path/to/file.py:function"
        )


def registered_programs(config: TaskConfig) -> list[str] | None:
    """Return the names of a task's programs, its own first; None if its own files name them.

    Some may be left out of the task: those that cannot be made for its vocabulary and lengths.

    >>> registered_programs(TaskConfig("sort")), registered_programs(TaskConfig("own.py:make"))
    (['sort', 'sort_by_counting'], None)
    """
    own, known = config.program or config.name, task_of_program()
    if own not in known or config.alternatives is not None:
        return None
    task = known[own]
    return list(dict.fromkeys([own, task, *REGISTRY[task].alternatives]))


def check_programs_of(task: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a name that is none of a task's programs.

    Raises:
        UserError: it is unknown.
    """
    for name in names:
        if name not in known:
            raise UserError(f"unknown program '{name}' of {task}: {one_of(name, known)}")


def matched_tasks() -> tuple[str, ...]:
    """Return the tasks that `algomatch match-controls` trains on unless others are named."""
    return tuple(name for name, registered in REGISTRY.items() if registered.matched)
