"""Controls: random inits of the learned model's shape, and programs of other tasks."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.controls.known_models import learned_by_heart
from algomatch.analysis.controls.other_tasks import other_references, shared_variables
from algomatch.config.composition import compose
from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import InputSet, difference, input_set, shuffled
from algomatch.data.outputs import IGNORE
from algomatch.data.tasks import make_task, other_tasks
from algomatch.infra.errors import UserError
from algomatch.models.bridges import make_bridge
from algomatch.models.reference import Reference
from algomatch.models.shapes import RANDOM_INIT_SEEDS, random_inits

SHAPES: dict[str, dict[str, Any]] = {
    "bidirectional": {},
    "causal": {"attention_dir": "causal"},
    "attn_only": {"attn_only": True},
    "without LN": {"normalization_type": None, "act_fn": "gelu"},
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest, small: MeasurementContext) -> Any:
    made = copy.copy(small.shape)
    for name, value in SHAPES[request.param].items():
        setattr(made, name, value)
    return made


def weights(bridge: Any) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in bridge.original_model.named_parameters()
        if value.dim() == 2  # norms and biases always start at the same values
    }


def test_controls_have_the_learned_models_very_shape(shape: Any) -> None:
    own = make_bridge(shape)
    for control in random_inits(shape, 2, 0, "cpu"):
        for field in fields(own.cfg):
            if field.name != "seed":
                drawn, other = getattr(control.cfg, field.name), getattr(own.cfg, field.name)
                assert drawn == other, field.name
        assert control.cfg.attention_dir == shape.attention_dir
        sizes = {name: value.shape for name, value in weights(own).items()}
        assert {name: value.shape for name, value in weights(control).items()} == sizes


def test_controls_attend_as_the_learned_model_does(shape: Any, small: MeasurementContext) -> None:
    tokens = small.inputs.tokens[small.inputs.rows("all", 4)][[0, -1]].clone()
    tokens[1, :4] = tokens[0, :4]
    assert tokens[0, 4] != tokens[1, 4]
    (control,) = random_inits(shape, 1, 0, "cpu")
    first, second = control(tokens, attention_mask=torch.ones_like(tokens, dtype=torch.bool))
    reaches_back = not torch.allclose(first[:4], second[:4], atol=1e-4)
    assert reaches_back == (shape.attention_dir == "bidirectional")


def test_controls_are_nobodys_start(shape: Any) -> None:
    controls = random_inits(shape, 3, 0, "cpu")
    starts = []
    for seed in range(3):
        variant = copy.copy(shape)
        variant.seed = seed
        starts.append(make_bridge(variant))
    models = [weights(bridge) for bridge in [*controls, *starts]]
    for i, one_model in enumerate(models):
        for other_model in models[:i]:
            for name, value in one_model.items():
                assert not torch.allclose(value, other_model[name]), name


def test_controls_are_drawn_as_the_learned_model_is(shape: Any) -> None:
    starts = []
    for seed in range(5):
        variant = copy.copy(shape)
        variant.seed = seed
        starts.append(weights(make_bridge(variant)))
    controls = [weights(bridge) for bridge in random_inits(shape, 5, 0, "cpu")]
    for name in starts[0]:
        own, drawn = (torch.stack([model[name] for model in ms]) for ms in (starts, controls))
        assert float(drawn.std()) == pytest.approx(float(own.std()), rel=0.3), name
        assert float(drawn.mean()) == pytest.approx(0, abs=5 * float(own.std()) * len(own) ** -0.5)


def test_controls_depend_on_the_analysis_seed_and_nothing_else(shape: Any) -> None:
    state, before = torch.get_rng_state(), copy.deepcopy(vars(shape))
    first = random_inits(shape, 2, 0, "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert vars(shape) == before
    other_run = copy.copy(shape)
    other_run.seed = 17
    torch.manual_seed(5)
    for control, again in zip(first, random_inits(other_run, 2, 0, "cpu"), strict=True):
        for name, value in weights(control).items():
            assert torch.equal(value, weights(again)[name])
    for control, other in zip(first, random_inits(shape, 2, 1, "cpu"), strict=True):
        for name, value in weights(control).items():
            assert not torch.allclose(value, weights(other)[name]), name


def test_more_controls_begin_with_the_fewer(shape: Any) -> None:
    few, more = random_inits(shape, 1, 2, "cpu"), random_inits(shape, 3, 2, "cpu")
    assert len(more) == 3
    for name, value in weights(few[0]).items():
        assert torch.equal(value, weights(more[0])[name])
    assert [bridge.cfg.seed for bridge in more] == [3 * RANDOM_INIT_SEEDS + i for i in range(3)]


def test_the_setting_observes_as_many_controls_as_configured(small: MeasurementContext) -> None:
    sources = list(small.random_sources())
    assert len(sources) == small.config.random_inits == 2
    for source, bridge in zip(sources, random_inits(small.shape, 2, 0, "cpu"), strict=True):
        assert source.inputs is small.inputs
        with torch.inference_mode():
            logits = bridge(small.inputs.tokens, attention_mask=small.inputs.key_mask)
        got = source.at(slice(0, len(small.inputs))).logits
        torch.testing.assert_close(got, logits, atol=1e-6, rtol=0)


def test_no_control_takes_a_gradient(small: MeasurementContext) -> None:
    for bridge in random_inits(small.shape, 1, 0, "cpu"):
        assert not any(p.requires_grad for p in bridge.original_model.parameters())


def inputs_of(name: str, *changes: str) -> tuple[InputSet, TaskConfig]:
    given = (f"task={name}", "task.vocabulary=[a,b,c]", "task.max_length=4", *changes)
    config = compose(given).task
    return input_set(make_task(config), config), config


def values_of(inputs: InputSet) -> dict[str, list[Any]]:
    """The value of each variable at every position, None where undefined."""
    values: dict[str, list[Any]] = {}
    for name, variable in inputs.variables.items():
        codes = variable.codes[inputs.real].tolist()
        values[name] = [None if code == IGNORE else variable.values[code] for code in codes]
    return values


def says(values: list[Any], other: list[Any]) -> bool:
    """Whether the first variable determines the other."""
    table: dict[Any, Any] = {}
    return all(table.setdefault(a, b) == b for a, b in zip(values, other, strict=True))


def shared_by_tables(inputs: InputSet, theirs: InputSet) -> list[str]:
    ours, others = values_of(inputs), values_of(theirs)
    where = torch.nonzero(inputs.real)[:, 1].tolist()
    trivial = list(zip(inputs.tokens[inputs.real].tolist(), where, strict=True))
    telling = [values for values in others.values() if not says(trivial, values)]
    return [
        name for name, values in ours.items()
        if not says(trivial, values) and any(says(other, values) for other in telling)
    ]  # fmt: skip


KNOWN = {
    ("reverse", "palindrome"): {"length", "opp_idx", "opp_idx-1", "reverse"},
    ("reverse", "hist"): set(),
    ("reverse", "length"): {"length"},
    ("hist", "double_hist"): {"hist"},
    ("previous_token", "hist"): set(),
}


@pytest.mark.parametrize("pair", KNOWN)
def test_shared_variables_of_pairs_that_are_known(pair: tuple[str, str]) -> None:
    inputs, other = (inputs_of(name, "task.causal=false")[0] for name in pair)
    shared = shared_variables(inputs, other)
    assert set(shared) == KNOWN[pair]
    assert shared == shared_by_tables(inputs, other)
    assert set(shared_variables(inputs, inputs)) >= set(shared)


TASKS = ("reverse", "frac_prevs", "previous_token")


@pytest.mark.parametrize("name", TASKS)
def test_the_other_tasks_share_no_variable_where_there_are_such(name: str) -> None:
    inputs, config = inputs_of(name)
    made = {}
    for task in other_tasks(inputs.task):
        try:
            made[task.name] = input_set(task, config)
        except UserError:
            continue
    shared = {other: shared_by_tables(inputs, theirs) for other, theirs in made.items()}
    free = [other for other in made if not shared[other]]
    references = other_references(inputs, config, 2)
    assert len(free) >= 2  # otherwise the next check is vacuous
    assert len(references) == 2
    chosen = names_of(references, inputs)
    assert len(chosen) == 2
    assert set(chosen) <= set(free)
    for reference in references:
        cfg = reference.bridge.cfg
        assert (cfg.n_ctx, cfg.d_vocab) == (inputs.task.n_ctx, len(inputs.token_ids))
        assert reference.validation.n_wrong == 0


def names_of(references: list[Reference], inputs: InputSet) -> list[str]:
    """The tasks of the compiled references, identified by their residual labels."""
    names = []
    for reference in references:
        for task in other_tasks(inputs.task):
            labels = reference.compiled.residual_labels
            if any(label.split(":")[0] == task.program.name for label in labels):
                names.append(task.name)
                break
    return names


def test_the_other_tasks_do_not_depend_on_how_much_is_measured() -> None:
    wanted = None
    for changes in ((), ("task.max_inputs=60",), ("task.held_out=0.4",), ("task.split_seed=3",),
                    ("task.tolerance=0.1", "task.max_inputs=100")):  # fmt: skip
        inputs, config = inputs_of("reverse", *changes)
        labels = [
            reference.compiled.residual_labels for reference in other_references(inputs, config, 2)
        ]
        wanted = wanted or labels
        assert labels == wanted, changes


def test_a_task_with_the_same_outputs_is_no_other_task() -> None:
    """On lists of one token many tasks have the same outputs: reversed or sorted, it stays."""
    inputs, config = inputs_of("reverse", "task.max_length=1")
    sort = next(other for other in other_tasks(inputs.task) if other.name == "sort")
    assert difference(inputs, input_set(sort, config)) is None
    references = other_references(inputs, config, 3)
    assert references
    for reference in references:
        assert difference(inputs, reference.inputs) is not None


def test_the_control_of_shuffled_labels_has_learned_those_and_not_the_tasks(
    small: MeasurementContext,
) -> None:
    config = compose(["trainer.max_steps=60", "trainer.learning_rate=0.01",
                      "trainer.batch_size=64", "trainer.warmup_steps=5"])  # fmt: skip
    control = learned_by_heart(small.inputs, small.shape, config, lambda step, steps: None)
    with torch.inference_mode():
        logits = control.bridge(small.inputs.tokens, attention_mask=small.inputs.key_mask)
    rights = []
    for labels in (shuffled(small.inputs, config.analysis.seed), small.inputs):
        right = (logits.argmax(-1) == labels.targets) | ~labels.defined
        rights.append(float(right.all(-1).double().mean()))
    assert control.note == f"{rights[0]:.1%} of its own labels right after 60 steps"
    assert rights[0] > rights[1] + 0.05


def test_none_are_made_where_none_are_asked_for(small: MeasurementContext) -> None:
    _, config = inputs_of("reverse")
    assert other_references(small.inputs, config, 0) == []
    assert len(other_references(small.inputs, config, 1)) == 1
