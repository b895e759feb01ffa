"""Values stay as typed: tokens and texts that YAML 1.1 would read as another type."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from algomatch.config.composition import compose, from_mapping, read_yaml, to_mapping, to_yaml
from algomatch.config.printed_commands import task_words
from algomatch.config.schema import Config
from algomatch.infra.errors import UserError

TEXTS = [  # booleans, times and dates in YAML 1.1, plain text here
    "no", "No", "NO", "yes", "on", "off", "Off", "y", "n", "12:30", "1:2:3.5", "2024-01-01",
    "nan", "inf", "0b2", "1_0.5", "-", "=", ".", "a b", "é", "A", "BOS1", "(", "none", "False_",
]  # fmt: skip
NUMBERS: dict[str, int | float] = {
    "0": 0, "7": 7, "-1": -1, "2.5": 2.5, "-0.5": -0.5, "1000.0": 1000.0, "1e+22": 1e22,
    "1.0e+22": 1e22, "1e-07": 1e-7,
}  # fmt: skip
REFUSED = {
    **dict.fromkeys(("true", "True", "FALSE"), "tokens must be strings or numbers"),
    **dict.fromkeys(("null", "~", "Null"), "tokens must be strings or numbers"),
    "1_000": "may be a text or the number 1000: write 1000, or",
    "0x10": "may be a text or the number 16: write 16, or",
    "0o17": "may be a text or the number 15: write 15, or",
    "017": "may be a text or the number 17: write 17, or",
    "1e3": "may be a text or the number 1000.0: write 1000.0, or",
    ".5": "may be a text or the number 0.5: write 0.5, or",
    "5.": "may be a text or the number 5.0: write 5.0, or",
    "+1": "may be a text or the number 1: write 1, or",
    "-0": "may be a text or the number 0: write 0, or",
    "1.50": "may be a text or the number 1.5: write 1.5, or",
    ".nan": "a token must not be nan:",
    ".inf": "a number must be finite:",
    "1e999": "a number must be finite:",
}
WORDS = [*TEXTS, *NUMBERS, *REFUSED]
WAYS = ("argument", "yaml", "block", "json", "beside")


def cases(words: Iterable[str]) -> list[tuple[str, str]]:
    """Every word as an argument, and some words in every way."""
    known = list(words)
    some = [(word, way) for word in known[::5] for way in WAYS[1:]]
    return [*((word, "argument") for word in known), *some]


def given_as(way: str, word: str, folder: Path, key: str = "vocabulary") -> Config:
    """The config with a list of an unquoted word and a text, given in one of the ways."""
    if way == "argument":
        return compose([f"task.{key}=[{word},zz]"])
    if way == "beside":
        (folder / "own.yaml").write_text(f"{key}: [{word}, zz]\n")
        return compose([f"task={folder}/own.py:make_it"])
    file = folder / "my.yaml"
    if way == "json":
        file.write_text(f'{{"task": {{"{key}": [{word}, "zz"]}}}}')
    elif way == "yaml":
        file.write_text(f"task: {{{key}: [{word}, zz]}}\n")
    else:
        file.write_text(f"task:\n  {key}:\n  - {word}\n  - zz\n")
    return compose([], file)


@pytest.mark.parametrize(("word", "way"), cases([*TEXTS, *NUMBERS]))
def test_an_unquoted_token_is_what_was_typed(word: str, way: str, tmp_path: Path) -> None:
    token = (given_as(way, word, tmp_path).task.vocabulary or [])[0]
    expected = NUMBERS.get(word, word)
    assert (token, type(token)) == (expected, type(expected))


@pytest.mark.parametrize(("word", "way"), cases(REFUSED))
def test_what_may_be_meant_otherwise_is_refused_until_it_is_quoted(
    word: str, way: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        given_as(way, word, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"task.vocabulary[0]={word}")
    assert REFUSED[word] in message
    assert "quote it, ['" in message
    shell = message.partition('(in a shell "')[2].partition('"')[0]
    quoted = compose([shell]).task.vocabulary
    assert quoted == [word, "zz"]


@pytest.mark.parametrize(
    ("typed", "tokens"),
    [
        ('"it\'s",1e3,.5', ["it's", "1e3", ".5"]),
        ("01,02,03", ["01", "02", "03"]),
        ("true,false,null", ["true", "false", "null"]),
        ("a: b,c", ["a: b", "c"]),
        ("017,1,it's,'a\"b'", ["017", 1, "it's", 'a"b']),
        ("1e3,'1','\\${x}',\"a\\nb\"", ["1e3", "1", "${x}", "a\nb"]),
        ("0x10,[a],$a!", ["0x10", "[a]", "$a!"]),
    ],
)
def test_the_advised_list_is_what_was_typed(typed: str, tokens: list[Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        compose([f"task.vocabulary=[{typed}]"])
    inside, _, after = str(caught.value).partition("quote it, ")[2].partition(" (in a shell ")
    (tmp_path / "my.yaml").write_text(f"task: {{vocabulary: {inside}}}\n")
    argument = shlex.split(after.partition(" (unquoted")[0].removesuffix(")"))
    for config in (compose([], tmp_path / "my.yaml"), compose(argument)):
        assert kinds(config.task.vocabulary or []) == kinds(tokens)


def test_a_token_that_a_server_made_a_boolean_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"W&B reads yes, no, on and off as booleans too"):
        compose(given={"task": {"vocabulary": [False, "a"]}})


plain = st.text("nyoeaffNYx0123456789._:+-~", min_size=1, max_size=6)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(WORDS) | plain)
@example("0_")
@example("9" * 5000)
def test_no_token_is_silently_another(word: str) -> None:
    token, said = None, ""
    try:
        (token, _) = compose([f"task.vocabulary=[{word},zz]"]).task.vocabulary or []
    except UserError as refused:
        said = str(refused)
    if said:
        assert re.search(r"quote it|cannot be read|tokens must be strings", said)
        return
    exact = str(token).replace("e", ".0e") if isinstance(token, float) else ""
    assert word in (str(token), exact)


texts = st.sampled_from(WORDS) | plain | st.text(st.characters(exclude_categories=["Cs"]))
several = st.lists(texts | st.integers() | st.floats(allow_nan=False), min_size=2, max_size=6)


def kinds(values: list[Any]) -> list[tuple[type, Any]]:
    return [(type(value), value) for value in values]


@settings(deadline=None, max_examples=25)
@given(several)
@example(["\x85", "a\nb", "???", " a ", "<<", "!!str a", "${x}"])
def test_a_recorded_vocabulary_reads_back_as_the_same_tokens(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("record") / "config.yaml"
    config = from_mapping(to_mapping(compose()) | {"task": {"vocabulary": vocabulary}}, "values")
    path.write_text(to_yaml(config), encoding="utf-8")
    assert kinds(from_mapping(read_yaml(path), "record").task.vocabulary or []) == kinds(vocabulary)
    if any("$" in str(token) or token in (float("inf"), -float("inf")) for token in vocabulary):
        return
    assert kinds(compose([], path).task.vocabulary or []) == kinds(vocabulary)
    by_others: Any = OmegaConf.to_container(OmegaConf.load(path))
    assert kinds(by_others["task"]["vocabulary"]) == kinds(vocabulary)


@settings(deadline=None, max_examples=25)
@given(
    several.filter(lambda tokens: all(str(t).isprintable() and "$" not in str(t) for t in tokens))
)
def test_a_record_of_an_earlier_version_reads_as_before(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("record") / "config.yaml"
    values = to_mapping(compose()) | {"task": {"vocabulary": [*vocabulary, True, False]}}
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(values)), encoding="utf-8")
    read = from_mapping(read_yaml(path), "record").task.vocabulary or []
    assert kinds(read) == kinds([*vocabulary, True, False])


@pytest.mark.parametrize(
    "word", ["on", "no", "1e3", "123", "1_000", "0x10", "12:30", "true", "nan"]
)
def test_a_text_is_what_was_typed(word: str, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(f"tracking: {{tags: [{word}], project: {word}}}\nrun_dir: {word}\n")
    given = [f"tracking.tags=[{word}]", f"tracking.project={word}", f"run_dir={word}"]
    for config in (compose(given), compose([], file)):
        assert (config.tracking.tags, config.tracking.project) == ([word], word)
        assert config.run_dir == word
    assert compose([f"task.name={word}"] if ":" not in word else []).task.name in (word, "reverse")


@pytest.mark.parametrize("word", ["on", "no", "1e3", "123"])
def test_a_group_is_named_by_what_was_typed(word: str) -> None:
    with pytest.raises(UserError, match=rf"^unknown model '{word}': "):
        compose([f"model={word}"])
    assert compose([f"task={word}"]).task.name == word


def test_numbers_and_booleans_are_read_where_they_belong(tmp_path: Path) -> None:
    given = ["trainer.learning_rate=1e-3", "trainer.max_steps=1_000", "model.attn_only=no",
             "task.causal=null", "task.held_out_lengths=[3]",
             "trainer.gradient_clip=.5"]  # fmt: skip
    config = compose(given)
    assert (config.trainer.learning_rate, config.trainer.max_steps) == (1e-3, 1000)
    assert (config.model.attn_only, config.task.causal) == (False, None)
    assert (config.task.held_out_lengths, config.trainer.gradient_clip) == ([3], 0.5)
    sent = tmp_path / "args.json"  # in the spelling of `wandb agent`
    sent.write_text(json.dumps({"trainer": {"learning_rate": "1e-3", "max_steps": 1000}}))
    assert compose([], sent).trainer == compose(given[:2]).trainer


def test_what_is_interpolated_is_as_before(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("seed: 3\nthreads: ${seed}\nrun_dir: runs/no-${seed}\ntracking: {tags: [on]}\n")
    config = compose([], file)
    assert (config.threads, config.run_dir, config.tracking.tags) == (3, "runs/no-3", ["on"])


@pytest.mark.parametrize("word", ["${x}", "${", "${a b}"])
def test_a_reference_to_nothing_is_told_from_a_text(word: str, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(f"task: {{vocabulary: ['{word}', a]}}\n")
    for arguments, path in (([f"task.vocabulary=['{word}',a]"], None), ([], file)):
        with pytest.raises(UserError) as caught:
            compose(arguments, path)
        said = str(caught.value)
        assert "`${...}` is read as a reference to another key; the text is `\\${...}`" in said
    file.write_text(f"task: {{vocabulary: ['\\{word}', a]}}\n")
    for config in (compose([f"task.vocabulary=['\\{word}',a]"]), compose([], file)):
        assert config.task.vocabulary == [word, "a"]


def test_a_recorded_reference_is_the_text_that_it_was(tmp_path: Path) -> None:
    config = compose(["task.vocabulary=['\\${x}','\\${seed}',a]"])
    record = tmp_path / "config.yaml"
    record.write_text(to_yaml(config))
    (tmp_path / "run.json").write_text("{}")
    assert compose([], record).task.vocabulary == ["${x}", "${seed}", "a"]


def test_a_printed_command_gives_the_same_tokens() -> None:
    vocabulary = ["${x}", "\\${x}", "it's", "1e3", "no", 1, "a"]
    task = replace(compose().task, vocabulary=vocabulary)
    given = compose(task_words(task)).task
    assert kinds(given.vocabulary or []) == kinds(vocabulary)
