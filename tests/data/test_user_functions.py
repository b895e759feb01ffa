"""Programs from a user's file, and the tasks made from them and the YAML file beside them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.programs import (
    HALF,
    HALF_YAML,
    LARGER,
    LARGER_YAML,
    write_program,
)

from algomatch.config.composition import compose, from_mapping, to_mapping
from algomatch.data.inputs import input_set
from algomatch.data.outputs import Categorical, Numerical
from algomatch.data.tasks import Task, make_task
from algomatch.data.user_functions import load_function
from algomatch.infra.errors import UserError

VOCABULARY = "task.vocabulary=[0,1,2]"
TOKENS = "from tracr.rasp import rasp\n\n\ndef make_it():\n    return rasp.tokens\n"


def own(path: Path, function: str, *overrides: str) -> Task:
    return make_task(compose([f"task={path}:{function}", VOCABULARY, *overrides]).task)


def refusal(arguments: Sequence[str]) -> str:
    def build() -> None:
        config = compose(arguments).task
        input_set(make_task(config), config)

    with pytest.raises(UserError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    return message


def refused_function(place: str, beside: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_function(place, beside)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Functions


def test_a_function_is_loaded_from_its_file(tmp_path: Path) -> None:
    path = write_program(tmp_path, "mine", "def twice(x):\n    return 2 * x\n")
    assert load_function(f"{path}:twice")(4) == 8


def test_a_relative_path_starts_at_the_current_folder_or_beside_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path / "here", "mine", "def where():\n    return 'here'\n")
    beside = write_program(tmp_path / "there", "mine", "def where():\n    return 'there'\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load_function("mine.py:where")() == "here"
    assert load_function("mine.py:where", f"{beside}:make_it")() == "there"
    assert load_function("where", f"{beside}:make_it")() == "there"
    assert load_function("../here/mine.py:where", f"{beside}:make_it")() == "here"
    assert load_function(f"{tmp_path}/here/mine.py:where", f"{beside}:make_it")() == "here"


def test_a_file_imports_what_lies_beside_it_and_the_path_is_as_before(tmp_path: Path) -> None:
    write_program(tmp_path, "helper_of_mine", "OFFSET = 5\n")
    text = "from helper_of_mine import OFFSET\n\n\ndef shift(x):\n    return x + OFFSET\n"
    path = write_program(tmp_path, "mine", text)
    before = list(sys.path)
    assert load_function(f"{path}:shift")(1) == 6
    assert sys.path == before


@pytest.mark.parametrize(
    "change", ["sys.path.pop(0)", "sys.path.insert(0, '/nowhere')", "sys.path.clear()"]
)
def test_a_file_that_changes_the_path_changes_it_for_itself_alone(
    tmp_path: Path, change: str
) -> None:
    text = f"import sys\n\n{change}\n\n\ndef one():\n    return 1\n"
    path = write_program(tmp_path, "mine", text)
    before = list(sys.path)
    assert load_function(f"{path}:one")() == 1
    assert sys.path == before


def test_a_file_that_fails_leaves_the_path_as_before(tmp_path: Path) -> None:
    path = write_program(tmp_path, "mine", "1 / 0\n")
    before = list(sys.path)
    refused_function(f"{path}:one")
    assert sys.path == before


def test_two_files_of_one_name_are_two_files(tmp_path: Path) -> None:
    paths = [
        write_program(tmp_path / name, "mine", f"def who():\n    return '{name}'\n")
        for name in ("one", "other")
    ]
    functions = [load_function(f"{path}:who") for path in paths]
    assert [function() for function in functions] == ["one", "other"]


def test_a_file_that_was_edited_is_read_again(tmp_path: Path) -> None:
    for number in (1, 22):
        path = write_program(tmp_path, "mine", f"def number():\n    return {number}\n")
        assert load_function(f"{path}:number")() == number


def test_a_name_may_hold_spaces_and_colons(tmp_path: Path) -> None:
    path = write_program(tmp_path / "my folder.py:old", "my file", "def one():\n    return 1\n")
    assert load_function(f"{path}:one")() == 1


MISSING = [
    ("{folder}/no.py:make_it", "program file '{folder}/no.py' does not exist"),
    ("{folder}/folder.py:make_it", "program file '{folder}/folder.py' is a folder"),
]


@pytest.mark.parametrize(("place", "message"), MISSING)
def test_a_file_that_is_missing_is_refused(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "folder.py").mkdir()
    wanted = message.format(folder=tmp_path) + "; give path/to/file.py:function"
    assert refused_function(place.format(folder=tmp_path)) == wanted
    arguments = [f"task={place.format(folder=tmp_path)}"]
    assert refusal([*arguments, VOCABULARY]) == wanted
    assert refusal(arguments) == wanted, "what is missing first is the file, not its vocabulary"


def test_a_function_that_is_missing_is_refused_with_the_nearest(tmp_path: Path) -> None:
    text = "from os.path import join\n\n\ndef make_it():\n    pass\n\n\ndef helper():\n    pass\n"
    path = write_program(tmp_path, "mine", f"{text}\nNUMBER = 3\n")
    choices = "valid: helper, make_it"
    assert refused_function(f"{path}:make_its") == (
        f"'{path}' has no function 'make_its': did you mean 'make_it'? {choices}"
    )
    for name in ("NUMBER", "Zqxj"):
        assert refused_function(f"{path}:{name}") == f"'{path}' has no function '{name}': {choices}"
    assert refused_function("make_ti", f"{path}:make_it").endswith(f"'make_it'? {choices}")
    empty = write_program(tmp_path, "empty", "NUMBER = 3\n")
    assert refused_function(f"{empty}:make_it") == (
        f"'{empty}' has no function 'make_it', and no other function"
    )


@pytest.mark.parametrize("ending", ["", ":"])
def test_a_file_without_a_function_named_is_refused_with_its_first(
    tmp_path: Path, ending: str
) -> None:
    path = write_program(tmp_path, "mine", TOKENS)
    wanted = f"'{path}': name the function too, as in {path}:make_it"
    assert refused_function(f"{path}{ending}") == wanted
    assert refusal([f"task={path}", VOCABULARY]) == wanted
    empty = write_program(tmp_path, "empty", "")
    assert refused_function(f"{empty}{ending}").endswith(f"as in {empty}:make_it")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\ndef broken(:\n", r" \(line 2\): SyntaxError: invalid syntax \(mine\.py, line 2\)"),
        ("\n\n1 / 0\n", r" \(line 3\): ZeroDivisionError: division by zero"),
        ("import sys\n\nsys.exit(3)\n", r" \(line 3\): SystemExit: 3"),
        ("import no_such_module\n", r" \(line 1\): ModuleNotFoundError: No module named 'no_su.*'"),
        ("def f():\n    f()\n\n\nf()\n", r" \(line 2\): RecursionError: maximum recursion .*"),
        ("def f():\n  x = 1\n   y = 2\n", r" \(line 3\): IndentationError: unexpected indent .*"),
        ("raise ValueError('one\\ntwo')\n", r" \(line 1\): ValueError: one.*"),
        ("x = '\x00'\n", ".*: SyntaxError: source code .*null bytes"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_with_the_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = write_program(tmp_path, "mine", text)
    wanted = f"program file '{re.escape(str(path))}' cannot be imported{reason}"
    assert re.fullmatch(wanted, refused_function(f"{path}:make_it"))


def test_an_error_in_a_file_beside_is_told_by_the_line_that_imports_it(tmp_path: Path) -> None:
    write_program(tmp_path, "helper_that_fails", "\n\n\n1 / 0\n")
    path = write_program(tmp_path, "mine", "\nimport helper_that_fails\n")
    assert "(line 2): ZeroDivisionError" in refused_function(f"{path}:make_it")


# Tasks


def test_a_file_and_the_yaml_beside_it_are_a_task(tmp_path: Path) -> None:
    path = write_program(tmp_path, "larger", LARGER, f"vocabulary: [0, 1, 2]\n{LARGER_YAML}")
    config = compose([f"task={path}:make_larger", "task.max_length=3"]).task
    task = make_task(config)
    assert (task.name, task.vocabulary, config.held_out) == ("larger", (0, 1, 2), 0.25)
    assert list(task.alternatives) == ["larger_by_pairs"]
    assert task.program([2, 0, 1]) == task.alternatives["larger_by_pairs"]([2, 0, 1]) == [0, 2, 1]
    inputs = input_set(task, config)
    lists = [inputs.listed(row) for row in range(len(inputs))]
    assert len(lists) == 3 + 3 * 2 + 3 * 2 * 2 == inputs.total
    assert all(a != b for xs in lists for a, b in pairwise(xs))
    assert inputs.output == Categorical((0, 1, 2))


def test_a_numerical_program_has_the_tolerance_of_its_yaml(tmp_path: Path) -> None:
    path = write_program(tmp_path, "half", HALF, HALF_YAML)
    config = compose([f"task={path}:make_half_before", VOCABULARY, "task.max_length=3"]).task
    inputs = input_set(make_task(config), config)
    assert inputs.task.name == "half.half_before"
    assert inputs.output == Numerical(0.1)
    assert len(inputs) == 2 + 2 * 3 + 2 * 9
    assert inputs.undefined_share == pytest.approx((2 + 6 + 18) / (2 + 12 + 54))
    row = [inputs.listed(row) for row in range(len(inputs))].index([1, 2, 0])
    assert inputs.targets[row, 2:].tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("function", "name"), [("make_mine", "mine"), ("make_other", "mine.other"), ("mine", "mine")]
)
def test_a_task_is_named_after_its_file_and_function(
    tmp_path: Path, function: str, name: str
) -> None:
    text = TOKENS.replace("make_it", function)
    assert own(write_program(tmp_path, "mine", text), function).name == name


def test_a_recorded_config_gives_the_same_task_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path, "larger", LARGER, LARGER_YAML)
    monkeypatch.chdir(tmp_path)
    config = compose(["task=larger.py:make_larger", VOCABULARY, "task.max_length=3"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recorded = from_mapping(to_mapping(config), "record").task
    task = make_task(recorded)
    assert list(task.alternatives) == ["larger_by_pairs"]
    assert input_set(task, recorded).total == 21


def test_alternatives_and_restrict_are_looked_for_beside_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_program(tmp_path / "programs", "mine", TOKENS)
    others = "def make_copy():\n    from tracr.rasp import rasp\n\n    return rasp.tokens\n"
    write_program(tmp_path / "programs" / "more", "others", others)
    write_program(tmp_path / "programs", "rules", "def short(xs):\n    return len(xs) < 2\n")
    monkeypatch.chdir(tmp_path)
    keys = ("task.alternatives=[more/others.py:make_copy,sort]", "task.restrict=rules.py:short")
    task = own(path, "make_it", *keys)
    assert list(task.alternatives) == ["copy", "sort"]
    assert task.accepts is not None
    assert [task.accepts([0]), task.accepts([0, 1])] == [True, False]


def test_a_registered_task_takes_alternatives_and_restrict_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path, "larger", LARGER)
    monkeypatch.chdir(tmp_path)
    keys = ["task.alternatives=[larger.py:make_larger]", "task.restrict=larger.py:no_twins"]
    config = compose(["task=rank", "task.max_length=3", *keys]).task
    task = make_task(config)
    assert list(task.alternatives) == ["larger"]
    assert input_set(task, config).total == 4 + 4 * 3 + 4 * 3 * 3


@pytest.mark.parametrize(
    "names", ["one/mine.py:make_it,other/mine.py:make_it", "sort,sort", "make_mine"]
)
def test_two_programs_of_one_name_are_refused(tmp_path: Path, names: str) -> None:
    for folder in ("one", "other"):
        write_program(tmp_path / folder, "mine", TOKENS)
    path = write_program(tmp_path, "mine", TOKENS.replace("make_it", "make_mine"))
    message = refusal([f"task={path}:make_mine", VOCABULARY, f"task.alternatives=[{names}]"])
    assert message.startswith("task.alternatives: two programs are called '")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (
            "vocabulry: [1]",
            "unknown key 'task.vocabulry' ({path}): did you mean 'vocabulary'? valid keys of task:",
        ),
        ("- 1", "config file '{path}' must hold `key: value` pairs, not a list"),
        ("max_length: {a: 1}", "'task.max_length' ({path}) takes a value, not keys: {{'a': 1}}"),
        ("a: [", "config file '{path}' is not valid YAML or JSON: "),
    ],
)
def test_a_bad_yaml_beside_a_program_is_refused_by_its_name(
    tmp_path: Path, yaml: str, message: str
) -> None:
    path = write_program(tmp_path, "mine", TOKENS, yaml)
    wanted = message.format(path=path.with_suffix(".yaml"))
    assert refusal([f"task={path}:make_it", VOCABULARY]).startswith(wanted)


def test_an_empty_yaml_beside_a_program_says_nothing(tmp_path: Path) -> None:
    assert own(write_program(tmp_path, "mine", TOKENS, ""), "make_it").vocabulary == (0, 1, 2)


def test_a_program_without_a_vocabulary_says_where_to_give_it(tmp_path: Path) -> None:
    path = write_program(tmp_path, "mine", TOKENS)
    assert refusal([f"task={path}:make_it"]) == (
        "task 'mine.it' needs a vocabulary, as in 'task.vocabulary=[0,1,2]' (or in mine.yaml "
        "beside it)"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    raise ValueError('no')", "the function 'make_it' raises (line 5): ValueError: no"),
        ("    return helper()", "the function 'make_it' raises (line 9): ZeroDivisionError: "),
        ("    return 3", "the function 'make_it' returned an int: it must return an s-op"),
        ("    return None", "task 'mine.it': it returned None: it must return an s-op"),
        ("    return rasp.tokens * 0", "task 'mine.it': the program's output is 0 on every input"),
        (
            "    return rasp.Map(lambda t: 1 // t, rasp.tokens)",
            "task 'mine.it': the program raises on the input [0]: ZeroDivisionError: ",
        ),
    ],
)
def test_a_program_that_fails_is_refused(tmp_path: Path, body: str, message: str) -> None:
    head = "from tracr.rasp import rasp\n\n\ndef make_it():\n"
    text = f"{head}{body}\n\n\ndef helper():\n    return 1 / 0\n"
    path = write_program(tmp_path, "mine", text)
    assert refusal([f"task={path}:make_it", VOCABULARY]).startswith(message)


RULES = """\
import functools


def raises(xs):
    return xs.pop() > xs[0]


def two(limit, xs):
    return xs[1] > limit


as_partial = functools.partial(two, 0)


class Rule:
    def __call__(self, xs):
        return xs[1] > 0


as_object = Rule()
as_cached = functools.lru_cache(raises)


def of_lines(xs):
    raise ValueError("one\\ntwo")


def no_array_truth(xs):
    class Odd:
        def __bool__(self):
            raise TypeError("neither")

    return Odd()
"""


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("raises", " (line 5): IndexError: list index out of range"),
        ("as_partial", "IndexError: list index out of range"),
        ("as_object", "IndexError: list index out of range"),
        ("as_cached", "TypeError: unhashable type: 'list'"),
        ("of_lines", " (line 25): ValueError: one"),
        ("no_array_truth", "TypeError: neither"),
    ],
)
def test_a_predicate_that_raises_is_refused_with_the_input(
    tmp_path: Path, rule: str, reason: str
) -> None:
    write_program(tmp_path, "rules", RULES)
    path = write_program(tmp_path, "mine", TOKENS)
    place = f"rules.py:{rule}"
    message = refusal([f"task={path}:make_it", VOCABULARY, f"task.restrict={place}"])
    assert message.startswith(f"task.restrict={place} raises on [0]")
    assert reason in message


def test_a_predicate_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = write_program(tmp_path, "mine", TOKENS)
    arguments = [f"task={path}:make_it", VOCABULARY]
    missing = f"'{path}' has no function 'make_if': did you mean 'make_it'? valid: make_it"
    assert refusal([*arguments, "task.restrict=make_if"]) == (
        f"task.restrict=make_if: {missing}; or one of unique, none"
    )
    assert refusal([*arguments, "task.alternatives=[make_if]"]) == missing


def test_a_function_made_by_another_is_still_a_maker(tmp_path: Path) -> None:
    text = """\
import functools

from tracr.rasp import rasp


def make_shifted(by, vocabulary):
    return rasp.Map(lambda t: (t + by) % len(vocabulary), rasp.tokens)


make_next = functools.partial(make_shifted, 1)
"""
    task = own(write_program(tmp_path, "mine", text), "make_next")
    program: Any = task.program
    assert program([0, 1, 2]) == [1, 2, 0]
