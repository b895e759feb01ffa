"""Configs: precedence of the layers, what is refused, and the messages."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import algomatch
from algomatch.analysis.measures.registered_measures import check_measures, measured
from algomatch.config import schema
from algomatch.config.composition import (
    compose,
    configs_dir,
    flattened,
    from_mapping,
    group_names,
    read_yaml,
    to_mapping,
    to_yaml,
)
from algomatch.config.naming import group_name, run_name, run_title
from algomatch.config.schema import GROUPS, Config
from algomatch.data.tasks import make_task
from algomatch.infra.errors import FaultError, UserError

SHIPPED = [(group, name) for group in GROUPS for name in group_names(group)]


def value_of(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def write(folder: Path, text: str, name: str = "my.yaml") -> Path:
    """A config file with this text."""
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "overrides", "key", "expected"),
    [
        pytest.param(None, [], "tracking.tags", [], id="schema"),
        pytest.param(None, [], "model.n_layers", 2, id="group file"),
        pytest.param(None, ["model=4L"], "model.n_layers", 4, id="group file over schema"),
        pytest.param("model: 4L", [], "model.n_layers", 4, id="group named by the file"),
        pytest.param(
            "model: {name: 4L, n_layers: 3}", [], "model.n_layers", 3, id="file over group file"
        ),
        pytest.param("trainer: {max_steps: 5}", [], "trainer.max_steps", 5, id="file over root"),
        pytest.param("trainer: {max_steps: 5}", [], "trainer.batch_size", 256, id="file merges"),
        pytest.param(
            "seed: 5\ntask: {max_length: 3}", ["task.max_length=4"], "task.max_length", 4,
            id="command line over file",
        ),
        pytest.param("seed: 5", ["task.max_length=4"], "seed", 5, id="file beside command line"),
        pytest.param(None, ["seed=1", "seed=2"], "seed", 2, id="the last argument"),
        pytest.param(None, ["model.n_layers=9", "model=4L"], "model.n_layers", 9, id="any order"),
        pytest.param(
            None, ["model={name: 4L, d_model: 32}"], "model.d_model", 32, id="inline mapping"
        ),
        pytest.param(
            "task: {vocabulary: [x, y, z]}", ["task.vocabulary=[a,b]"], "task.vocabulary",
            ["a", "b"], id="lists are replaced",
        ),
    ],
)  # fmt: skip
def test_the_stronger_layer_wins(
    tmp_path: Path, text: str | None, overrides: list[str], key: str, expected: object
) -> None:
    file = None if text is None else write(tmp_path, text)
    assert value_of(compose(overrides, file), key) == expected


def test_train_yaml_is_over_the_schema(tmp_path: Path) -> None:
    package = tmp_path / "algomatch"
    shutil.copytree(configs_dir(), package / "configs")
    source = Path(algomatch.__file__).parent
    shutil.copy(source / "__init__.py", package)
    for room in ("infra", "config"):
        shutil.copytree(source / room, package / room)
    root = package / "configs" / "train.yaml"
    text = root.read_text()
    assert "max_steps: 1000" in text
    root.write_text(text.replace("max_steps: 1000", "max_steps: 77"))
    finished = subprocess.run(
        [sys.executable, "-c", "from algomatch.config import composition as c; print(c.__file__, "
         "c.compose().trainer.max_steps, c.compose(['trainer.max_steps=5']).trainer.max_steps)"],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert finished.stdout.split() == [str(package / "config" / "composition.py"), "77", "5"]


def test_a_json_file_says_the_same_as_a_yaml_file(tmp_path: Path) -> None:
    values = {"model": {"name": "4L", "d_model": 32}, "seed": 3, "trainer": {"learning_rate": 1e-4}}
    yaml = write(
        tmp_path, "model: {name: 4L, d_model: 32}\nseed: 3\ntrainer:\n  learning_rate: 0.0001\n"
    )
    as_json = write(tmp_path, json.dumps(values), "my.json")
    assert compose([], yaml) == compose([], as_json)
    assert compose([], as_json).model.d_model == 32
    assert compose([], str(as_json)) == compose([], as_json)


@pytest.mark.parametrize(("group", "name"), SHIPPED)
def test_a_shipped_file_composes_and_all_its_values_arrive(group: str, name: str) -> None:
    config = compose([f"{group}={name}"])
    assert compose([f"{group}.name={name}"]) == config
    shipped = read_yaml(configs_dir() / group / f"{name}.yaml")
    assert shipped or (group, name) == ("analysis", "full"), "the schema says it already"
    composed = to_mapping(config)[group]
    assert {key: composed[key] for key in shipped} == shipped
    assert composed["name"] == shipped.get("name", name)
    make_task(config.task)
    check_measures(measured(config.analysis))


def test_every_shipped_file_is_a_group_files_or_the_root() -> None:
    files = {str(p.relative_to(configs_dir())) for p in configs_dir().rglob("*") if p.is_file()}
    yaml = {name for name in files if "__pycache__" not in name and not name.endswith(".py")}
    assert yaml == {"train.yaml", *(f"{group}/{name}.yaml" for group, name in SHIPPED)}
    root = read_yaml(configs_dir() / "train.yaml")
    composed = to_mapping(compose())
    for key, value in root.items():
        whole = composed[key]
        both = {name: whole[name] for name in value} if isinstance(value, dict) else whole
        assert both == value, key


@pytest.mark.parametrize(
    ("text", "overrides", "d_model"),
    [
        ("model: {name: 4L, d_model: 32}", ["model=2L"], 64),
        ("model: {name: 4L, d_model: 32}", ["model.name=2L"], 64),
        ("model: {name: 4L, d_model: 32}", ["model=4L"], 32),
        ("model: {name: 4L, d_model: 32}", [], 32),
        ("model: {name: 4L, d_model: 32}", ["model=2L", "model.d_model=16"], 16),
        ("model: {d_model: 32}", ["model=2L"], 32),
        ("model: {d_model: 32}", [], 32),
        ("model: null", ["model=2L"], 64),
    ],
)
def test_a_files_fields_go_with_the_name_they_stand_beside(
    tmp_path: Path, text: str, overrides: list[str], d_model: int
) -> None:
    config = compose(overrides, write(tmp_path, text))
    assert config.model.d_model == d_model
    if overrides:
        assert config.model.name == overrides[0].partition("=")[2]


def recorded(config: Config, folder: Path) -> list[Config]:
    """The config read back from YAML (run folder) and from JSON (checkpoint header)."""
    path = write(folder, to_yaml(config), "config.yaml")
    as_json = json.loads(json.dumps(to_mapping(config)))
    return [from_mapping(read_yaml(path), "config.yaml"), from_mapping(as_json, "header")]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        *([f"{group}={name}"] for group, name in SHIPPED),
        ["task.vocabulary=['1', 'null', 'yes', '', '~', '1e3', 'a: b', ' ', '#', \"it's\"]"],
        ["task.vocabulary=[0, 1, 2.5, no, é]"],
        ["task.held_out_lengths=[1,3]", "tracking.tags=[x,'1']", "run_dir=runs/a b"],
        ["task.causal=true", "task.tolerance=0.125", "task.restrict=unique"],
        ["task.alternatives=[]", "task.allow_inexact=true", "task.causal=false"],
        ["task.alternatives=[sort,'own file.py:f']", "task.restrict='own file.py:g'"],
    ],
    ids=str,
)
def test_a_config_reads_back_as_it_was(tmp_path: Path, overrides: list[str]) -> None:
    config = compose(overrides)
    assert recorded(config, tmp_path) == [config, config]
    for again in recorded(config, tmp_path):  # 1, 1.0 and True are equal, but not the same token
        before, after = config.task.vocabulary or [], again.task.vocabulary or []
        assert [type(token) for token in after] == [type(token) for token in before]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    learning_rate=st.floats(0, 1e6),
    held_out=st.floats(0, 1, exclude_max=True),
    target=st.none() | st.floats(0, 1, exclude_min=True),
    vocabulary=st.none() | st.lists(st.integers() | st.floats(allow_nan=False), min_size=2),
)
def test_numbers_read_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    learning_rate: float,
    held_out: float,
    target: float | None,
    vocabulary: list[float] | None,
) -> None:
    values = to_mapping(compose())
    values["seed"] = seed
    values["trainer"] |= {"learning_rate": learning_rate, "target_accuracy": target}
    values["task"] |= {"held_out": held_out, "vocabulary": vocabulary}
    config = from_mapping(values, "values")
    assert (config.seed, config.trainer.learning_rate) == (seed, learning_rate)
    assert recorded(config, tmp_path_factory.mktemp("config")) == [config, config]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("sed=1", ["unknown key 'sed'", "did you mean 'seed'?", "valid keys: analysis, model, r"]),
        ("zzz=1", ["unknown key 'zzz'", "valid keys: analysis, model, run_dir, runs_dir, seed"]),
        (
            "trainer.maxsteps=1",
            ["unknown key 'trainer.maxsteps'", "did you mean 'max_steps'?", "keys of trainer: acc"],
        ),
        ("model.heads=3", ["'model.heads'", "'n_heads'?", "valid keys of model: act_fn, attn_on"]),
        ("task..name=x", ["unknown key 'task.'", "valid keys of task: allow_inexact, alt"]),
        (".=1", ["unknown key ''", "valid keys: analysis"]),
        ("a[0]=1", ["unknown key 'a[0]'", "valid keys: analysis"]),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_and_the_valid_ones(
    override: str, parts: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    for part in [*parts, "(command line)"]:
        assert part in str(caught.value)
    assert ("did you mean" in str(caught.value)) == any("?" in part for part in parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sed: 1", ["unknown key 'sed' (", "my.yaml", "did you mean 'seed'?"]),
        ("trainer: {lr: 1}", ["unknown key 'trainer.lr' (", "my.yaml", "valid keys of trainer:"]),
        ("model: {1: 2}", ["unknown key 'model.1' (", "my.yaml", "valid keys of model:"]),
        ("1: 2", ["unknown key '1' (", "my.yaml", "valid keys: analysis"]),
        ("task: {vocabulary: {a: 1}}", ["'task.vocabulary' (", "my.yaml"]),
        ("trainer: 5", ["'trainer' (", "my.yaml", "must hold keys, not 5"]),
        ("trainer: null", ["'trainer' (", "my.yaml", "must hold keys, not None"]),
        ("trainer: [1]", ["'trainer' (", "my.yaml", "must hold keys, not [1]"]),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose([], write(tmp_path, text))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("model=5L", "unknown model '5L': did you mean '4L'? valid: 1L, 1L_attn_only, 2L, "),
        ("model=[4L]", "unknown model '['4L']': did you mean '4L'? valid: 1L"),
        ("analysis=ful", "unknown analysis 'ful': did you mean 'full'? valid: accuracy_only, full"),
        ("tracking=xyz", "unknown tracking 'xyz': valid: disabled, offline, online"),
        ("tracking=../model/1L", "unknown tracking '../model/1L': valid: disabled, "),
    ],
)
def test_an_unknown_group_file_is_refused(override: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    assert str(caught.value).startswith(text)


def test_a_task_without_a_file_is_left_to_the_registry() -> None:
    assert compose(["task=revers"]).task.name == "revers"


LOW = [
    ("task.min_length", 1), ("task.max_length", 1), ("task.split_seed", 0), ("task.max_inputs", 1),
    ("model.n_layers", 1), ("model.d_model", 1), ("model.n_heads", 1), ("model.d_head", 1),
    ("model.d_mlp", 1), ("trainer.max_steps", 1), ("trainer.batch_size", 1),
    ("trainer.warmup_steps", 0), ("trainer.steps_after_target", 0), ("trainer.checkpoints", 1),
    ("trainer.log_every", 1),
    ("trainer.evaluate_every", 1), ("analysis.batch_size", 1), ("analysis.bootstrap", 20),
    ("analysis.match_cases", 20), ("analysis.circuit_cases", 20), ("analysis.circuit_steps", 1),
    ("analysis.match_checkpoint_cases", 20),
    ("analysis.random_inits", 1), ("analysis.other_tasks", 0),
    ("analysis.explain_depth", 1), ("analysis.explain_inputs", 20),
    ("analysis.state_cases", 40), ("analysis.state_inits", 0), ("analysis.state_expressions", 10),
    ("analysis.seed", 0), ("seed", 0), ("threads", 1),
]  # fmt: skip
LOW_FLOATS = [
    ("trainer.learning_rate", 0), ("trainer.weight_decay", 0), ("trainer.gradient_clip", 0),
    ("trainer.save_every_seconds", 0), ("tracking.init_timeout_seconds", 1),
    ("tracking.finish_timeout_seconds", 1), ("analysis.solved", 0), ("analysis.margin", 0),
    ("analysis.match_realised", 0), ("analysis.match_partly", 0),
    ("analysis.match_selector", 0), ("analysis.circuit_threshold", 0),
    ("analysis.circuit_faithful", 0), ("analysis.explain_at", 0),
    ("analysis.state_sufficient", 0),
]  # fmt: skip
SHARES = (
    "solved", "margin", "match_realised", "match_partly", "match_selector", "circuit_faithful",
    "explain_at", "state_sufficient",
)  # fmt: skip
CHOICES = {
    "model.act_fn=rely": "model.act_fn=rely: did you mean 'relu'? valid: gelu, gelu_new, relu, sil",
    "model.normalization=rms": "model.normalization=rms: valid: LN, none",
    "trainer.schedule=cosin": "trainer.schedule=cosin: did you mean 'cosine'? valid: constant, cos",
    "trainer.accelerator=gpus": "trainer.accelerator=gpus: did you mean 'gpu'? valid: auto, cpu, ",
    "tracking.mode=0": "tracking.mode=0: valid: disabled, offline, online",
    "tracking.artifacts=best": "tracking.artifacts=best: valid: all, best_and_latest, none",
    "tracking.unreachable=wait": "tracking.unreachable=wait: valid: offline, stop",
}
BETWEEN = {
    "model.n_heads=3": "model.n_heads=3 must divide model.d_model=64 (one of 1, 2, 4, 8, 16, 32, "
    "64), or set model.d_head",
    "task.min_length=4 task.max_length=3": "task.min_length=4 must not exceed task.max_length=3",
    "task.name=a:b": "task.name=a:b must be letters, digits, '_', '.' and '-' only: it names files",
    "analysis.state_seconds=0": "analysis.state_seconds=0.0 must be above 0",
    "task.tolerance=0": "task.tolerance=0.0 must be above 0, or null",
    **{
        f"task.held_out={share}": f"task.held_out={share} must be at least 0 and below 1"
        for share in ("-0.1", "1.0", "nan", "inf")
    },
    **{
        f"analysis.{key}=1.5": f"analysis.{key}=1.5 must be at least 0 and at most 1"
        for key in SHARES
    },
    **{
        f"trainer.target_accuracy={target}": f"trainer.target_accuracy={target} must be above 0 "
        "and at most 1, or null"
        for target in ("0.0", "1.01", "nan")
    },
}
BROKEN = {
    **{f"{k}={low - 1}": f"{k}={low - 1} must be at least {low}" for k, low in LOW},
    **{
        f"{k}={bad}": f"{k}={bad} must be at least {low}"
        for k, low in LOW_FLOATS
        for bad in (low - 0.5, "nan", "inf")
    },
    **{
        f"{k}={2**63}": f"{k}={2**63} must be at least 0 and below 2**63"
        for k in ("seed", "analysis.seed")
    },
    **CHOICES,
    **BETWEEN,
}


@pytest.mark.parametrize("overrides", BROKEN)
def test_a_broken_rule_names_the_key_the_value_and_the_rule(overrides: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(overrides.split())
    message = str(caught.value)
    assert message.startswith(BROKEN[overrides])
    assert message.splitlines() == [message]


def test_every_rule_has_an_example_that_breaks_it() -> None:
    with_rules = {
        key for key, own in schema.settings()
        if schema.setting_of(own).bounds or schema.setting_of(own).choices
    }  # fmt: skip
    examples = {message.partition("=")[0] for message in BROKEN.values()}
    assert examples == {*with_rules, "model.n_heads", "task.min_length", "task.name"}
    uppers = {f"{key}={value}" for key, own in schema.settings()
              if (bounds := schema.setting_of(own).bounds) is not None
              for value in (bounds.most, bounds.below) if value is not None}  # fmt: skip
    assert {key.partition("=")[0] for key in uppers} == {
        *(f"analysis.{key}" for key in SHARES), "seed", "analysis.seed", "task.held_out",
        "trainer.target_accuracy",
    }  # fmt: skip


@pytest.mark.parametrize("key", [key for key, _ in schema.settings()])
def test_nothing_changes_a_config_once_it_is_composed(key: str) -> None:
    config = compose()
    group, _, name = key.rpartition(".")
    with pytest.raises(FrozenInstanceError):
        setattr(getattr(config, group) if group else config, name, "changed")


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{key}={low}" for key, low in [*LOW, *LOW_FLOATS]],
        ["task.held_out=0"],
        [f"seed={2**63 - 1}", f"analysis.seed={2**63 - 1}"],
        ["task.held_out=0.99"],
        ["trainer.target_accuracy=1"],
        ["trainer.target_accuracy=null"],
        ["model.n_heads=3", "model.d_head=5"],
        ["task.min_length=3", "task.max_length=3"],
        ["model.d_model=100000000000"],  # refused quickly, without trying all its divisors
    ],
    ids=str,
)
@pytest.mark.timeout(20)
def test_values_on_the_bound_are_taken(overrides: list[str]) -> None:
    compose(overrides)


WHOLE = "must be a whole number"
KINDS = {
    "seed=1.5": f"seed=1.5 {WHOLE} (seed of the initialisation and the batches)",
    "seed=true": f"seed=true {WHOLE} (seed of",
    "seed=abc": f"seed=abc {WHOLE} (seed of",
    "seed=null": f"seed=null {WHOLE} (seed of",
    "seed==1": f"seed==1 {WHOLE} (seed of",
    "seed=12:30": f"seed=12:30 {WHOLE} (seed of",
    "model.d_model=1e2": f"model.d_model=1e2 {WHOLE} (dimensions of the residual stream)",
    "model.d_head=wide": f"model.d_head=wide {WHOLE} (dimensions of a head), or null",
    "model.n_heads=": f"model.n_heads=null {WHOLE} (attention heads of a block)",
    "model.attn_only=maybe": "model.attn_only=maybe must be true or false",
    "model.attn_only=2": "model.attn_only=2 must be true or false",
    "model.attn_only=[true]": "model.attn_only=[true] must be true or false",
    "trainer.max_steps=null": f"trainer.max_steps=null {WHOLE} (training steps)",
    "trainer.checkpoints=[1,10,100]": f"trainer.checkpoints=[1, 10, 100] {WHOLE} (how many "
    "checkpoints are kept besides step 0)",
    "trainer.learning_rate=fast": "trainer.learning_rate=fast must be a number",
    "trainer.learning_rate=[1]": "trainer.learning_rate=[1] must be a number",
    "trainer.learning_rate=true": "trainer.learning_rate=true must be a number",
    "task.vocabulary=abc": "task.vocabulary=abc must be a list, as in 'task.vocabulary=[abc]', or "
    "null",
    "task.held_out_lengths=null": "task.held_out_lengths=null must be a list, as in "
    "'task.held_out_lengths=[1,2]'",
    "task.held_out_lengths=3": "task.held_out_lengths=3 must be a list, as in "
    "'task.held_out_lengths=[3]'",
    "task.held_out_lengths=[1,a]": f"task.held_out_lengths[1]=a {WHOLE}",
    "task.held_out_lengths=[[1]]": f"task.held_out_lengths[0]=[1] {WHOLE}",
    "analysis.measures=accuracy": "analysis.measures=accuracy must be a list, as in "
    "'analysis.measures=[accuracy]', or null",
    "runs_dir=null": "runs_dir=null must be a text: quote it, 'null' (in a shell "
    "\"runs_dir='null'\")",
    "run_dir=[1]": "run_dir=[1] must be a text, or null",
    "tracking.tags=[[a]]": "tracking.tags[0]=[a] must be a text",
    "task.tolerance=small": "task.tolerance=small must be a number, or null",
    "task.causal=maybe": "task.causal=maybe must be true or false, or null",
    "task.allow_inexact=null": "task.allow_inexact=null must be true or false",
    "task.alternatives=sort": "task.alternatives=sort must be a list, as in "
    "'task.alternatives=[sort]', or null",
    "task.restrict=[unique]": "task.restrict=[unique] must be a text, or null",
}


@pytest.mark.parametrize("override", KINDS)
def test_a_value_of_the_wrong_kind_is_refused_with_key_value_and_rule(override: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    message = str(caught.value)
    assert message.startswith(KINDS[override])
    assert KINDS[override].endswith("(seed of") or message == KINDS[override]


def test_every_whole_number_says_what_it_counts() -> None:
    for key, value in flattened(compose()).items():
        if type(value) is int or key.endswith(("_length", "d_head", "d_mlp")):
            with pytest.raises(UserError, match=rf"^{key}=many must be a whole number \(\w.+\)"):
                compose([f"{key}=many"])


@pytest.mark.parametrize(
    ("override", "key", "given"),
    [
        ("trainer.max_steps.foo=1", "trainer.max_steps", "{'foo': 1}"),
        ("task.vocabulary={a: 1}", "task.vocabulary", "{'a': 1}"),
        ("seed.a=1", "seed", "{'a': 1}"),
    ],
)
def test_keys_below_a_value_are_refused(override: str, key: str, given: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    assert str(caught.value).startswith(f"'{key}' (command line) takes a value, not keys: {given}")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("seed", "argument 'seed' is not of the form key=value"),
        ("", "argument '' is not of the form key=value"),
        ("=3", "argument '=3' is not of the form key=value"),
        ("seed={", "argument 'seed={' cannot be read: "),
        ("seed=[1", "argument 'seed=[1' cannot be read: "),
        ("seed='", "argument 'seed='' cannot be read: "),
        ("model=${nope}", "argument 'model=${nope}' cannot be read: Interpolation key 'nope'"),
        ("seed=${nope}", "argument 'seed=${nope}' cannot be read: Interpolation key 'nope'"),
        ("seed=${seed}", "argument 'seed=${seed}' cannot be read: Recursive interpolation"),
    ],
)
def test_a_malformed_argument_is_refused(override: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"- 1\n- 2\n", "must hold `key: value` pairs"),
        (b"5\n", "must hold `key: value` pairs"),
        (b"a: [\n", "is not valid YAML or JSON: "),
        (b'{"seed": 1', "is not valid YAML or JSON: "),
        (b"seed: 1\nseed: 2\n", "is not valid YAML or JSON: "),
        (b"seed: 1\n---\nseed: 2\n", "is not valid YAML or JSON: "),
        (b"a: &a [*a]\n", "is not valid YAML or JSON: "),
        (b"seed: ${nope}\n", "is not valid YAML or JSON: Interpolation key 'nope' not found"),
        (b"\xff\xfe\x00\x01\x02", "is not valid YAML or JSON: "),
        (b"\x00\x01\x02", "is not valid YAML or JSON: "),
        (b"\xe9\n", "is not valid YAML or JSON: 'utf-8' codec"),
    ],
    ids=repr,
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        compose([], path)
    assert str(caught.value).startswith(f"config file '{path}' {text}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config file '.*nope\.yaml' does not exist"):
        compose([], tmp_path / "nope.yaml")
    with pytest.raises(UserError, match=r"config file '.*' is a folder; give a YAML or JSON file"):
        compose([], tmp_path)
    below = write(tmp_path, "seed: 1") / "x.yaml"
    with pytest.raises(FaultError, match=r"cannot read config file '.*x\.yaml': Not a directory"):
        compose([], below)


@pytest.mark.parametrize("content", ["", "{}", "# nothing\n"])
def test_an_empty_file_changes_nothing(tmp_path: Path, content: str) -> None:
    assert compose([], write(tmp_path, content)) == compose()


@pytest.mark.parametrize("way", ["file", "argument"])
def test_yaml_makes_no_objects_and_runs_nothing(tmp_path: Path, way: str) -> None:
    touched = tmp_path / "touched"
    value = f"!!python/object/apply:os.system ['touch {touched}']"
    file = write(tmp_path, f"seed: {value}\n") if way == "file" else None
    overrides = [] if file else [f"seed={value}"]
    with pytest.raises(UserError, match="could not determine a constructor for the tag"):
        compose(overrides, file)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"sed": 1}, "unknown key 'sed' (config.yaml): did you mean 'seed'?"),
        ({"model": {"heads": 1}}, "unknown key 'model.heads' (config.yaml): did you mean"),
        ({"model": "4L"}, "'model' (config.yaml) must hold keys, not '4L'"),
        ({"seed": "x"}, "seed=x must be a whole number"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"trainer": {"learning_rate": math.nan}}, "trainer.learning_rate=nan must be at least 0"),
    ],
)
def test_a_damaged_record_of_a_config_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        from_mapping(values, "config.yaml")
    assert str(caught.value).startswith(text)


def test_a_record_is_not_composed_from_group_files_again() -> None:
    values = to_mapping(compose(["model=4L"]))
    values["model"]["name"] = "a file that is gone by now"
    config = from_mapping(values, "config.yaml")
    assert (config.model.name, config.model.n_layers) == ("a file that is gone by now", 4)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("own.py:make_it", "own.it"),
        ("own.py:make_own", "own"),
        ("own.py:it", "own.it"),
        ("own.py:own", "own"),
        ("own.py", "own"),
        ("below/own.py:make_it", "own.it"),
        ("./below/../own.py:make_it", "own.it"),
    ],
)
def test_a_users_program_is_named_by_its_file_and_function_and_kept_by_its_whole_path(
    place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    path, _, function = place.partition(".py")
    whole = f"{(tmp_path / path).resolve()}.py:{function[1:]}"
    for config in (compose([f"task={place}"]), compose([], write(tmp_path, f"task: {place}"))):
        assert (config.task.name, config.task.program) == (name, whole)
    assert compose([f"task={place}", "seed=3"]).seed == 3
    assert compose([f"task={{name: {place}, max_length: 4}}"]).task.max_length == 4
    assert recorded(compose([f"task={place}"]), tmp_path)[0].task.program == whole


@pytest.mark.parametrize(
    "override",
    ["task.program=own.py:make_it", "task.restrict=own.py:is_it", "task.alternatives=[own.py:f]"],
)
def test_a_file_that_is_named_by_a_relative_path_is_recorded_by_its_whole_path(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path.resolve() / "own.py:") in to_yaml(compose(["task=rank", override]))


BESIDE = "vocabulary: [x, y, z]\nmax_length: 3\ntolerance: 0.25\nalternatives: [make_other]\n"


def test_the_yaml_file_beside_a_program_fills_its_task(tmp_path: Path) -> None:
    write(tmp_path, BESIDE + "restrict: is_it\ncausal: true\nallow_inexact: true\n", "own.yaml")
    task = compose([f"task={tmp_path}/own.py:make_it"]).task
    assert (task.vocabulary, task.max_length, task.tolerance) == (["x", "y", "z"], 3, 0.25)
    assert (task.alternatives, task.restrict) == (["make_other"], "is_it")
    assert (task.causal, task.allow_inexact) == (True, True)
    assert task.held_out == 0.1  # the schema gives the fields it leaves open
    assert compose([f"task={tmp_path}/other.py:make_it"]).task.tolerance is None


@pytest.mark.parametrize(
    ("beside", "text", "overrides", "tolerance"),
    [
        ("tolerance: 0.25", None, [], 0.25),
        ("tolerance: 0.25", None, ["task.tolerance=0.5"], 0.5),
        ("tolerance: 0.25", "task: {tolerance: 0.5}", [], 0.5),
        ("tolerance: 0.25", "task: {tolerance: 0.5}", ["task.tolerance=0.75"], 0.75),
        ("tolerance: 0.25", "task: {name: sort, tolerance: 0.5}", [], 0.25),  # the value of sort
        ("", None, ["task.tolerance=0.5"], 0.5),
    ],
)
def test_what_is_given_is_over_the_yaml_file_beside_a_program(
    beside: str, text: str | None, overrides: list[str], tolerance: float, tmp_path: Path
) -> None:
    write(tmp_path, beside, "own.yaml")
    file = None if text is None else write(tmp_path, text)
    config = compose([f"task={tmp_path}/own.py:make_it", *overrides], file)
    assert config.task.tolerance == tolerance


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            "tolerence: 1",
            ["unknown key 'task.tolerence' (", "mean 'tolerance'? valid keys of task"],
        ),
        ("task: {tolerance: 1}", ["unknown key 'task.task' (", "valid keys of task: allow_"]),
        ("vocabulary: {a: 1}", ["'task.vocabulary' (", "takes a value, not keys"]),
        ("- 1", ["config file '", "must hold `key: value` pairs"]),
        ("a: [", ["config file '", "is not valid YAML or JSON"]),
    ],
)
def test_a_mistake_in_the_yaml_file_beside_a_program_names_the_file(
    content: str, parts: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path, content, "own.yaml")
    with pytest.raises(UserError) as caught:
        compose([f"task={tmp_path}/own.py:make_it"])
    for part in [*parts, str(path)]:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_new_keys_leave_everything_open_unless_they_are_given() -> None:
    task = compose().task
    assert (task.causal, task.restrict, task.tolerance, task.alternatives) == (None,) * 4
    assert task.allow_inexact is False
    task = compose(["task.causal=true", "task.alternatives=[]", "task.tolerance=1e-3"]).task
    assert (task.causal, task.alternatives, task.tolerance) == (True, [], 1e-3)


@pytest.mark.parametrize(
    ("overrides", "name", "title"),
    [
        ([], "reverse-2L_attn_only-seed0", "2L_attn_only on reverse, seed 0"),
        (
            ["model.n_layers=3", "seed=4"],
            "reverse-2L_attn_only-n_layers3-seed4",
            "2L_attn_only with n_layers 3 on reverse, seed 4",
        ),
        (
            ["model=4L", "model.normalization=none", "model.act_fn=gelu", "model.d_mlp=8"],
            "reverse-4L-noLN-d_mlp8-act_fn.gelu-seed0",
            "4L with d_mlp 8, act_fn gelu, no LayerNorm on reverse, seed 0",
        ),
        (
            ["model.attn_only=false", "model.d_head=5"],
            "reverse-2L_attn_only-attn_only.false-d_head5-seed0",
            "2L_attn_only with attn_only false, d_head 5 on reverse, seed 0",
        ),
        (
            ["task=sort", "task.vocabulary=[3,4]", "task.held_out=0.25", "task.alternatives=[]"],
            "sort-vocabulary3.4-held_out0.25-2L_attn_only-seed0",
            "2L_attn_only on sort with vocabulary [3, 4], held_out 0.25, seed 0",
        ),
        (
            ["task.held_out_lengths=[2,3]", "trainer.max_steps=7", "analysis.solved=0.5"],
            "reverse-held_out_lengths2.3-2L_attn_only-seed0",
            "2L_attn_only on reverse with held_out_lengths [2, 3], seed 0",
        ),
    ],
)
def test_a_run_is_named_by_what_was_trained(overrides: list[str], name: str, title: str) -> None:
    config = compose(overrides)
    assert run_name(config) == name
    assert run_title(config, "on") == title


ALIKE: list[list[Any]] = [  # vocabularies that are equal once joined
    [1, 2], ["1", 2], ["1", "2"], [1.0, 2], [1, 0, 2], ["1.0", 2], ["1", "0", "2"], [1.5], [1, 5],
    ["a.b", "c"], ["a", "b.c"], ["a", "b", "c"], ["a b", "c"], ["", "a"], ["a"], ["a", ""], [],
]  # fmt: skip


def test_different_vocabularies_have_different_names() -> None:
    config = compose()
    for name in (run_name, group_name):
        names = list[str]()
        for vocabulary in ALIKE:
            task = replace(config.task, vocabulary=list(vocabulary))
            names.append(name(replace(config, task=task)))
        assert len(set(names)) == len(ALIKE), names
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in names)


@settings(max_examples=30, deadline=None)
@given(
    vocabulary=st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(),
                        min_size=2),
    n_layers=st.integers(1, 9),
    learning_rate=st.floats(0, 1),
)  # fmt: skip
def test_names_are_short_safe_and_of_one_setting(
    vocabulary: list[Any], n_layers: int, learning_rate: float
) -> None:
    config = compose(["model=4L"])
    config = replace(
        config,
        task=replace(config.task, vocabulary=vocabulary),
        model=replace(config.model, n_layers=n_layers),
        trainer=replace(config.trainer, learning_rate=learning_rate),
    )
    for name in (run_name(config), group_name(config)):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)  # valid for W&B's artifacts and every shell
        assert len(name) <= 120
    first_run, first_group = run_name(config), group_name(config)
    config = replace(config, task=replace(config.task, vocabulary=[*vocabulary, "?"]))
    assert run_name(config) != first_run
    assert group_name(config) != first_group
