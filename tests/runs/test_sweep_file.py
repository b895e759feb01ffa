"""Sweep files: how they are read, their cells, and the messages for bad files."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from algomatch.config.composition import configs_dir, flattened, to_mapping
from algomatch.config.schema import FREE_SETTINGS
from algomatch.data.registered_tasks import task_names
from algomatch.infra.errors import UserError
from algomatch.report.terminal.sweep_outcome import print_sweep
from algomatch.runs.sweep_cells import SweepOutcome, plan
from algomatch.runs.sweep_file import DISTRIBUTIONS, KEYS, read_sweep

SHIPPED = sorted((configs_dir().parent / "sweeps").glob("*.yaml"))
ARCHITECTURES = sorted(path.stem for path in (configs_dir() / "model").glob("*.yaml"))
DRAWS = 2000


def written(folder: Path, values: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return path


def draws(folder: Path, fields: dict[str, Any], seed: int = 0) -> list[Any]:
    file = written(folder, {"method": "random", "parameters": {"x": fields}})
    return [cell["x"] for cell in read_sweep(file).cells(DRAWS, seed)]


names = st.sampled_from(["task", "model", "trainer", "seed", "a", "b"])
leaves = st.one_of(
    st.fixed_dictionaries({"value": st.integers()}),
    st.fixed_dictionaries({"values": st.lists(st.integers(), min_size=1, max_size=3, unique=True)}),
    st.builds(
        lambda low, more: {"min": low, "max": low + more}, st.integers(-3, 3), st.integers(0, 2)
    ),
)
nested = st.recursive(
    leaves,
    lambda inner: st.fixed_dictionaries(
        {"parameters": st.dictionaries(names, inner, min_size=1, max_size=2)}
    ),
    max_leaves=4,
)


def listed(fields: dict[str, Any]) -> list[Any]:
    """All settings of a tree of parameters, by recursion."""
    if "parameters" in fields:
        keys = list(fields["parameters"])
        several = [listed(fields["parameters"][key]) for key in keys]
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*several)]
    if "value" in fields:
        return [fields["value"]]
    if "values" in fields:
        return list(fields["values"])
    return list(range(fields["min"], fields["max"] + 1))


@given(st.dictionaries(names, nested, min_size=1, max_size=3))
def test_a_grid_is_the_product_of_its_nested_parameters(
    tmp_path_factory: pytest.TempPathFactory, parameters: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("grid")
    file = read_sweep(written(folder, {"method": "grid", "parameters": parameters}))
    assert file.cells() == listed({"parameters": parameters})


def test_random_draws_depend_on_seed_and_index_alone(tmp_path: Path) -> None:
    fields = {"x": {"min": 0.0, "max": 1.0}, "y": {"values": [1, 2, 3]}}
    file = read_sweep(written(tmp_path, {"method": "random", "run_cap": 9, "parameters": fields}))
    assert file.cells() == file.cells(20)[:9]
    assert file.cells(seed=1) != file.cells(seed=0)
    assert len({cell["x"] for cell in file.cells(50)}) == 50


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"min": 0.5, "max": 2.0}, stats.uniform(0.5, 1.5)),
        ({"distribution": "log_uniform", "min": -3, "max": 1},
         stats.loguniform(math.exp(-3), math.e)),
        ({"distribution": "inv_log_uniform", "min": -1, "max": 3},
         stats.loguniform(math.exp(-3), math.e)),
        ({"distribution": "log_uniform_values", "min": 0.01, "max": 10},
         stats.loguniform(0.01, 10)),
        ({"distribution": "inv_log_uniform_values", "min": 0.01, "max": 10},
         stats.loguniform(0.01, 10)),
        ({"distribution": "normal", "mu": 3, "sigma": 2}, stats.norm(3, 2)),
        ({"distribution": "normal"}, stats.norm(0, 1)),
        ({"distribution": "log_normal", "mu": 0.5, "sigma": 0.3},
         stats.lognorm(0.3, scale=math.exp(0.5))),
        ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5)),
    ],
)  # fmt: skip
def test_draws_are_distributed_as_scipy_says(
    tmp_path: Path, fields: dict[str, Any], expected: Any
) -> None:
    drawn = draws(tmp_path, fields)
    assert all(type(value) is float for value in drawn)
    assert stats.kstest(drawn, expected.cdf).pvalue > 1e-3
    lower, upper = expected.support()
    assert lower <= min(drawn) <= max(drawn) <= upper


@pytest.mark.parametrize("name", [n for n in DISTRIBUTIONS if n.startswith("q_")])
def test_what_is_rounded_is_a_multiple_near_the_draw(tmp_path: Path, name: str) -> None:
    plain = name.removeprefix("q_")
    bounds: dict[str, Any] = {"min": 1, "max": 3} if "uniform" in name else {}
    raw = draws(tmp_path, {"distribution": plain, **bounds})
    for step, kind in ((0.25, float), (1, int)):
        drawn = draws(tmp_path, {"distribution": name, "q": step, **bounds})
        assert all(type(value) is kind for value in drawn)
        assert np.allclose(np.asarray(drawn) / step, np.round(np.asarray(drawn) / step))
        assert np.abs(np.asarray(drawn) - np.asarray(raw)).max() <= step / 2 + 1e-12


def test_values_are_drawn_with_their_probabilities(tmp_path: Path) -> None:
    drawn = draws(tmp_path, {"values": ["a", "b", "c"], "probabilities": [0.7, 0.3, 0]})
    assert stats.binomtest(drawn.count("a"), DRAWS, 0.7).pvalue > 1e-3
    assert set(drawn) == {"a", "b"}
    even = draws(tmp_path, {"values": ["a", None]})
    assert stats.binomtest(even.count("a"), DRAWS, 0.5).pvalue > 1e-3
    whole = draws(tmp_path, {"min": 2, "max": 4})
    assert set(whole) == {2, 3, 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("parameters: {a: {value: 1}}", "method=None.*valid: bayes, grid, random"),
        ({"method": "gird", "parameters": {"a": {"value": 1}}}, "did you mean 'grid'"),
        ({"method": "grid"}, "has no parameters"),
        ({"method": "grid", "parameter": {"a": {"value": 1}}}, "did you mean 'parameters'"),
        ({"method": "grid", "parameters": {"a": 3}}, "'a'.* must hold `value`, `values`"),
        ({"method": "grid", "parameters": {"a": {"valeus": [1]}}}, "'a'.*did you mean 'values'"),
        ({"method": "grid", "parameters": {"a": {"values": []}}}, "at least one value"),
        ({"method": "grid", "parameters": {"a": {"values": [1, 1]}}}, "different from each other"),
        ({"method": "grid", "parameters": {"a": {"min": 1}}}, "'a'.*needs `value`, `values`"),
        ({"method": "grid", "parameters": {"a": {"min": 3, "max": 1}}},
         "min=3 must not exceed max=1"),
        ({"method": "grid", "parameters": {"a": {"min": 0.1, "max": 1.0}}}, "'a'.*a grid needs"),
        ({"method": "grid", "parameters": {"model.d_model": {"value": 8}}},
         r"nest it, as in `model: \{parameters: \{d_model"),
        ({"method": "grid", "parameters": {"a": {"distribution": "unifrom", "min": 1, "max": 2}}},
         "did you mean 'uniform'"),
        ({"method": "random", "parameters": {"a": {"distribution": "uniform", "min": 1}}},
         "uniform takes min, max, not min"),
        ({"method": "random",
          "parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
         "min=0 of log_uniform_values must be above 0"),
        ("{method: random, parameters: {a: {distribution: uniform, min: 1e-4, max: 1}}}",
         "min='1e-4' must be a finite number .YAML reads 1e-3 as a text; write 1.0e-3"),
        ({"method": "random", "parameters": {"a": {"values": [1, 2], "probabilities": [0.5, 0.6]}}},
         "one for each value, sum 1"),
        ({"method": "random", "parameters": {"a": {"distribution": "normal", "sigma": 0}}},
         "sigma=0 must be above 0"),
        ({"method": "random", "parameters": {"a": {"value": 1}}}, "give it a run_cap, or --count"),
        ({"method": "random", "run_cap": 0, "parameters": {"a": {"value": 1}}}, "run_cap=0"),
        ({"method": "bayes", "parameters": {"a": {"value": 1}}}, "needs a server.*`wandb sweep"),
        ("method: [", "not valid YAML"),
        ("just text", "must hold `method` and `parameters`"),
    ],
)  # fmt: skip
def test_a_bad_file_gets_one_clear_error(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_sweep(written(tmp_path, content)).cells()


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_sweep(tmp_path / "none.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_file_plans_runs_that_are_all_different(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert values.keys() <= {*KEYS}
    assert values["command"][-2:] == ["--config", "${args_json_file}"]
    planned = plan(path)
    configs = [to_mapping(cell.config) | {"run_dir": None} for cell in planned.cells]
    assert len({str(config) for config in configs}) == len(configs) > 10
    assert all(cell.config.tracking.tags == [path.stem] for cell in planned.cells)


@pytest.mark.slow
def test_the_shipped_files_sweep_what_they_say() -> None:
    by_name = {path.stem: plan(path).cells for path in SHIPPED}
    studies = {"study", "study_no_norm", "study_small"}
    assert by_name.keys() == {"architectures", "lengths", "tasks", "optimisation", *studies}
    cells = by_name["architectures"]
    kinds = {(c.config.model.name, c.config.model.normalization, c.config.seed) for c in cells}
    assert kinds == set(itertools.product(ARCHITECTURES, ("LN", "none"), range(5)))
    tasks = {(c.config.task.name, c.config.model.name) for c in by_name["tasks"]}
    assert tasks == set(itertools.product(task_names(), ("1L", "2L_attn_only", "4L")))
    fixed = {c.config.task.min_length == c.config.task.max_length for c in by_name["lengths"]}
    assert fixed == {True, False}
    assert len({c.config.trainer.learning_rate for c in by_name["optimisation"]}) == 40
    settings = {
        name: [flattened(c.config, FREE_SETTINGS) for c in by_name[name]] for name in studies
    }
    assert [len(settings[name]) for name in sorted(studies)] == [175, 50, 20]
    assert all(setting in settings["study"] for setting in settings["study_small"])
    assert {s["model.normalization"] for s in settings["study_no_norm"]} == {"none"}


def test_each_cell_has_its_own_values_of_what_is_swept(tmp_path: Path) -> None:
    steps = {"parameters": {"max_steps": {"values": [5, 6]}}}
    swept = {"seed": {"values": [0, 4, 9]}, "trainer": steps}
    path = written(tmp_path, {"method": "grid", "parameters": swept})
    cells = plan(path, ["trainer.batch_size=3"]).cells
    pairs = [(cell.config.seed, cell.config.trainer.max_steps) for cell in cells]
    assert pairs == [(seed, most) for seed in (0, 4, 9) for most in (5, 6)]
    assert {cell.config.trainer.batch_size for cell in cells} == {3}
    assert len({cell.folder for cell in cells}) == 6


def test_settings_given_for_all_runs_may_not_be_swept_ones(tmp_path: Path) -> None:
    path = written(tmp_path, {"method": "grid", "parameters": {"seed": {"values": [0, 1]}}})
    assert [c.config.trainer.max_steps for c in plan(path, ["trainer.max_steps=7"]).cells] == [7, 7]
    with pytest.raises(UserError, match="the sweep sets seed itself"):
        plan(path, ["seed=3"])
    with pytest.raises(UserError, match="the sweep sets run_dir itself"):
        plan(path, ["run_dir=here"])
    bad = {"method": "grid", "parameters": {"seed": {"value": 1}, "sed": {"value": 0}}}
    path = written(tmp_path, bad)
    with pytest.raises(UserError, match=r"cell 0 of .*did you mean 'seed'"):
        plan(path)


@pytest.mark.parametrize(
    ("word", "read"),
    [("no", "false: "), ("On", "true: "), ("1_000", "1000: write 1000, or "),
     ("0x10", "16: write 16, or "), ("12:30", "750: write 750, or "), ("017", "15: write 15, or "),
     ("2024-01-01", "a date: "), ("2024-01-01t10:00:00", "a date: ")],
)  # fmt: skip
@pytest.mark.parametrize("fields", ["value: [{}, b]", "values: [[{}, b], [c, d]]"])
def test_a_word_that_wandb_reads_as_something_else_is_refused(
    word: str, read: str, fields: str, tmp_path: Path
) -> None:
    def text(token: str) -> str:
        inner = f"vocabulary: {{{fields.format(token)}}}"
        return f"method: grid\nparameters: {{task: {{parameters: {{{inner}}}}}}}\n"

    with pytest.raises(UserError) as caught:
        read_sweep(written(tmp_path, text(word)))
    message = str(caught.value)
    assert message.startswith("task.parameters.vocabulary.value")
    assert f"W&B reads {word} as {read}quote it, '{word}'" in message
    settings = plan(written(tmp_path, text(f"'{word}'")), [], tmp_path / "runs").cells[0].config
    assert settings.task.vocabulary == [word, "b"]


def of_key(key: str, text: str) -> str:
    for name in reversed(key.split(".")[1:]):
        text = f"parameters: {{{name}: {{{text}}}}}"
    return f"method: grid\nparameters: {{{key.partition('.')[0]}: {{{text}}}}}\n"


@pytest.mark.parametrize("word", ["1e3", "1.50", ".5", "1e-07", "+1", "0o17", ".inf", "true", "~"])
@pytest.mark.parametrize("fields", ["value: [{}, b]", "values: [[c, d], [{}, b]]", "whole"])
def test_a_token_of_a_sweep_file_is_what_was_typed(word: str, fields: str, tmp_path: Path) -> None:
    def text(token: str) -> str:
        if fields == "whole":
            return of_key("task", f"value: {{vocabulary: [{token}, b]}}")
        return of_key("task.vocabulary", fields.format(token))

    with pytest.raises(UserError, match=r"^task\..*vocabulary.*in sweep file") as caught:
        plan(written(tmp_path, text(word)))
    advised = f"['{word}', b]"
    assert f"quote it, {advised}" in str(caught.value)
    cells = plan(written(tmp_path, text(word).replace(f"[{word}, b]", advised))).cells
    assert cells[-1].config.task.vocabulary == [word, "b"]


@pytest.mark.parametrize(
    ("key", "word", "expected"),
    [("model.attn_only", "no", False), ("task.causal", "On", True), ("model.attn_only", "y", True),
     ("trainer.max_steps", "1_000", 1000), ("model.d_model", "0x10", 16),
     ("trainer.learning_rate", "1e-3", 1e-3)],
)  # fmt: skip
def test_what_a_key_gives_the_same_meaning_is_no_ambiguity(
    key: str, word: str, expected: Any, tmp_path: Path
) -> None:
    config = plan(written(tmp_path, of_key(key, f"values: [{word}]"))).cells[0].config
    assert flattened(config)[key] == expected


@pytest.mark.parametrize(
    ("key", "word", "advice"),
    [("trainer.max_steps", "12:30", "as 750: write 750$"),
     ("trainer.max_steps", "017", "as 15: write 15, or quote it, '017'$"),
     ("tracking.project", "no", "as false: quote it, 'no'$"),
     ("tracking.project", "2024-13-45", "not valid YAML: month must be in 1..12")],
)  # fmt: skip
def test_what_is_advised_can_be_given_to_the_key(
    key: str, word: str, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=advice):
        plan(written(tmp_path, of_key(key, f"value: {word}")))


def test_runs_of_different_settings_are_different_rows(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("")
    cells = ["[1, 2]", "['1', '2']", "[a.b, c]", "[a, b.c]"]
    text = (
        "method: grid\nparameters:\n  seed: {values: [0, 1]}\n  task: {parameters: {"
        "name: {value: NAME}, vocabulary: {values: [" + ", ".join(cells) + "]}}}\n"
    )
    for name in ("reverse", f"{tmp_path}/own.py:make_it"):
        file = written(tmp_path, text.replace("NAME", name))
        out = io.StringIO()
        print_sweep(
            SweepOutcome(plan(file, [], tmp_path / "runs"), {}, None), Console(file=out, width=200)
        )
        rows = [line for line in out.getvalue().splitlines() if "0 of 2" in line]
        assert len(set(rows)) == len(cells), out.getvalue()


@pytest.mark.parametrize("word", ["y", "a", "7", "2.5", "0o17", "1e3x"])
def test_other_words_are_read_as_wandb_reads_them(word: str, tmp_path: Path) -> None:
    text = f"method: grid\nparameters: {{x: {{values: [{word}, b]}}}}\n"
    first = read_sweep(written(tmp_path, text)).cells()[0]["x"]
    assert (first, str(first)) == (yaml.safe_load(word), word)
