"""The reference: it has Tracr's residuals, is validated by the interpreter, and is cached."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from support.references import (
    LEQ,
    TRUE,
    compile_with_tracr,
    corrupted,
    decoded,
    given_by,
    interpreted,
    make_inputs,
    make_length,
    make_share,
    small_task,
)
from support.references import fast_compiles as fast_compiles
from support.references import one_level as one_level
from support.references import own_cache as own_cache
from torch import Tensor
from tracr.rasp import rasp
from transformer_lens.utilities import tracr as converter

from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import InputSet, encode_vocabulary
from algomatch.data.interpreter import Value
from algomatch.data.outputs import IGNORE, Categorical, Numerical
from algomatch.data.programs import make_frac_prevs, make_hist, make_reverse, make_sort
from algomatch.data.registered_tasks import REGISTRY
from algomatch.data.tasks import BOS, Task, make_task
from algomatch.infra.errors import UserError
from algomatch.models import reference
from algomatch.models.compiling import Compiled, compile_program
from algomatch.models.reference import (
    Reference,
    Validation,
    build_reference,
    validate,
)


def build(task: Task, max_inputs: int = 20_000) -> Reference:
    return build_reference(make_inputs(task, max_inputs))


def make_same() -> Any:
    return rasp.Map(lambda x: x, rasp.tokens)


def make_mean() -> Any:
    """Return the mean of the tokens so far; Tracr expects no value between tokens."""
    before = rasp.Select(rasp.indices, rasp.indices, LEQ)
    return rasp.Aggregate(before, rasp.tokens).named("mean")


def make_mostly() -> Any:
    """Return whether most tokens are `a`; Tracr expects the shares 0 and 1/n, but not 2/3."""
    return rasp.Map(lambda x: x > 0.6, make_share("a")).named("mostly")


def previous_by(distance: int) -> Any:
    back = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - distance)
    return rasp.Aggregate(back, rasp.tokens).named("previous")


def make_others(distance: int = 1) -> Any:
    """Count the positions whose previous token differs, or that have no previous token."""
    differ = rasp.Select(previous_by(distance), rasp.tokens, lambda key, query: key != query)
    return rasp.SelectorWidth(differ).named("others")


# Every registered task


@dataclass(frozen=True)
class Case:
    """A registered task's reference, and Tracr's haiku model of the same program."""

    name: str
    reference: Reference
    haiku: Any

    @property
    def inputs(self) -> InputSet:
        return self.reference.inputs


@pytest.fixture(scope="module", params=list(REGISTRY))
def case(request: pytest.FixtureRequest) -> Case:
    task = make_task(TaskConfig(name=request.param))
    made = build(task, 2_000)
    return Case(request.param, made, compile_with_tracr(task, made.compiled.mlp_exactness))


def test_a_registered_tasks_reference_is_exact_on_every_input(case: Case) -> None:
    inputs = case.inputs
    assert case.reference.exact
    assert inputs.exhaustive
    assert (case.reference.validation.n, case.reference.validation.n_wrong) == (len(inputs), 0)
    assert case.reference.validation.counterexamples == ()
    assert inputs.defined[inputs.lengths > 2].any(1).all() or case.name == "induction"
    assert inputs.output.right(given_by(case.reference.bridge, inputs), inputs.targets)[
        inputs.defined
    ].all()


def test_the_bridge_says_what_tracrs_evaluator_says(case: Case) -> None:
    said = decoded(case.reference.bridge, case.inputs)
    for row in range(0, len(said), max(1, len(said) // 60)):
        wanted = interpreted(case.inputs.task, case.inputs.listed(row))
        for value, other in zip(said[row], wanted, strict=True):
            assert other is None or value == pytest.approx(other, abs=1e-5), case.inputs.listed(row)


def test_the_bridge_gives_the_input_sets_classes_in_their_order(case: Case) -> None:
    inputs, bridge = case.inputs, case.reference.bridge
    labels = list(case.reference.compiled.residual_labels)
    name = list(inputs.task.variables)[-1]
    if isinstance(inputs.output, Categorical):
        wanted = [labels.index(f"{name}:{value}") for value in inputs.output.values]
    else:
        wanted = [labels.index(name)]
    assert bridge.cfg.d_vocab_out == inputs.output.width == len(wanted)
    with torch.inference_mode():
        given, cache = bridge.run_with_cache(
            inputs.tokens[-20:], attention_mask=inputs.key_mask[-20:]
        )
    last = cache[f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post"]
    assert torch.equal(given, last[..., wanted])


def test_the_bridge_decodes_to_what_haiku_decodes(case: Case) -> None:
    inputs = case.inputs
    said = decoded(case.reference.bridge, inputs)
    rows = torch.nonzero(inputs.lengths == 2)[:, 0].tolist()  # short, so that they cost little
    for row in rows[:: max(1, len(rows) // 5)]:
        theirs = case.haiku.apply([BOS, *inputs.listed(row)]).decoded[1:]
        for place, (ours, their) in enumerate(zip(said[row], theirs, strict=True)):
            if inputs.defined[row, 1 + place]:
                assert ours == pytest.approx(their, abs=1e-5), inputs.listed(row)


def test_every_weight_is_tracrs_to_the_bit(case: Case) -> None:
    compiled = compile_program(case.inputs.task, case.reference.compiled.mlp_exactness)
    label, model = case.inputs.task.program.label, case.haiku
    if compiled.outputs is None:  # the converter takes it for a category with one value
        labels = [f"{x}:" if x == label else x for x in model.residual_labels]
        single = SimpleNamespace(encoding_map={"": 0})
        model = replace(model, output_encoder=single, residual_labels=labels)
    theirs = converter.make_tracr_transformer_bridge_state_dict(model, label)
    assert list(theirs) == list(compiled.weights)
    for name, weight in theirs.items():
        assert weight.numpy().tobytes() == compiled.weights[name].numpy().tobytes(), name


WITH_RESIDUALS = ("reverse", "pair_balance")


@pytest.mark.parametrize("case", WITH_RESIDUALS, indirect=True)
def test_the_bridge_has_haikus_residuals_after_every_sublayer(case: Case) -> None:
    inputs, bridge = case.inputs, case.reference.bridge
    longest = torch.nonzero(inputs.lengths == inputs.task.max_length)[:, 0]
    shorter = torch.nonzero(inputs.lengths == 2)[:, 0]  # padded in the bridge, not in haiku
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
    names = [
        f"blocks.{layer}.hook_resid_{place}"
        for layer in range(bridge.cfg.n_layers)
        for place in ("mid", "post")
    ]
    for row in (*longest[:: len(longest) // 4].tolist(), *shorter[:4].tolist()):
        listed = inputs.listed(row)
        theirs = case.haiku.apply([BOS, *listed]).residuals
        assert len(theirs) == len(names)
        for name, wanted in zip(names, theirs, strict=True):
            ours = cache[name][row, : len(listed) + 1].numpy()
            np.testing.assert_allclose(ours, np.asarray(wanted)[0], rtol=0, atol=1e-5, err_msg=name)


def test_the_bridges_token_ids_are_tracrs(case: Case) -> None:
    assert dict(case.inputs.token_ids) == case.haiku.input_encoder.encoding_map


def test_residual_labels_carry_the_variables_names_and_no_counters(case: Case) -> None:
    ours, theirs = case.reference.compiled.residual_labels, case.haiku.residual_labels
    assert len(ours) == len(theirs) == case.reference.bridge.cfg.d_model
    names = {sop.label: name for name, sop in case.inputs.task.variables.items()}
    held = {label.partition(":")[0] for label in ours}
    assert set(names.values()) - {"tokens", "indices"} <= held
    for label, old in zip(ours, theirs, strict=True):
        own = max((x for x in names if old.startswith(x)), key=len, default="")
        assert label == names.get(own, "") + old.removeprefix(own)


LONGER = {
    "reverse over 30 tokens, 20 long": Task("reverse", make_reverse(), tuple(range(30)), 1, 20),
    "sort over 10 tokens, 12 long": Task("sort", make_sort(range(10), 12), tuple(range(10)), 1, 12),
    "hist, 15 long": Task("hist", make_hist(), ("a", "b", "c", "d"), 1, 15),
}


@pytest.mark.parametrize("which", LONGER)
def test_a_longer_reference_is_exact_on_a_stratified_sample(which: str) -> None:
    task = LONGER[which]
    made = build(task, 1_000)
    assert made.exact
    assert not made.inputs.exhaustive
    assert set(made.inputs.lengths.tolist()) == set(task.lengths)
    said = decoded(made.bridge, made.inputs)
    oracle: dict[str, Callable[[list[Any]], list[Any]]] = {
        "reverse": lambda xs: xs[::-1],
        "sort": sorted,
        "hist": lambda xs: [xs.count(x) for x in xs],
    }
    for row, values in enumerate(said):
        assert values == oracle[task.name](made.inputs.listed(row))


def test_a_reference_is_exact_on_held_out_lengths_too() -> None:
    task = Task("reverse", make_reverse(), ("a", "b", "c"), 1, 12)
    inputs = make_inputs(task, 1_000, held_out=0.1, lengths=(9, 10, 11, 12))
    made = build_reference(inputs)
    assert made.exact
    assert made.validation.n == len(inputs)
    assert inputs.held_out[inputs.lengths >= 9].all()
    assert 0 < int(inputs.held_out[inputs.lengths < 9].sum()) < int((inputs.lengths < 9).sum())
    for row, values in enumerate(decoded(made.bridge, inputs)):
        assert values == inputs.listed(row)[::-1]


# Validation


@pytest.fixture(scope="module")
def small() -> Compiled:
    return compile_program(small_task(), 100)


@pytest.fixture(scope="module")
def small_inputs() -> InputSet:
    return make_inputs(small_task())


Change = Callable[[Tensor], Tensor]
CORRUPTIONS: dict[str, tuple[str, Change]] = {
    "classes swapped in the head": ("head.weight", lambda w: w.flip(0)),
    "a head that says nothing": ("head.weight", torch.zeros_like),
    "an MLP that is off": ("layers.0.mlp.fc_out.weight", torch.zeros_like),
    "an MLP that reads nothing": ("layers.1.mlp.fc_in.weight", torch.zeros_like),
    "a biased MLP": ("layers.2.mlp.fc_out.bias", lambda w: w + torch.arange(len(w))),
    "attention to anything": ("layers.3.attn.q.weight", torch.zeros_like),
    "attention to the others": ("layers.3.attn.k.weight", lambda w: -w),
    "attention that moves nothing": ("layers.3.attn.v.weight", torch.zeros_like),
    "tokens that look alike": ("tok_embed.weight", lambda w: w.roll(1, 0)),
    "no positions": ("pos.weight", torch.zeros_like),
    "a weight that is not a number": ("pos.weight", lambda w: w * float("nan")),
    "an infinite weight": ("head.weight", lambda w: w / 0),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_a_reference_with_a_wrong_weight_is_not_exact(
    what: str, small: Compiled, small_inputs: InputSet
) -> None:
    assert validate(small, small_inputs).exact
    validation = validate(corrupted(small, *CORRUPTIONS[what]), small_inputs)
    assert not validation.exact
    assert 0 < validation.n_wrong <= validation.n == len(small_inputs) == 14
    assert 1 <= len(validation.counterexamples) <= 5
    assert validation.cause


def test_counterexamples_show_input_and_both_outputs(
    small: Compiled, small_inputs: InputSet
) -> None:
    validation = validate(corrupted(small, "head.weight", lambda w: w.flip(0)), small_inputs)
    assert validation.n_wrong == 14
    assert validation.counterexamples == (
        "['p'] gives ['q'], the program ['p']",
        "['q'] gives ['p'], the program ['q']",
        "['p', 'p'] gives ['q', 'q'], the program ['p', 'p']",
        "['p', 'q'] gives ['p', 'q'], the program ['q', 'p']",
        "['q', 'p'] gives ['q', 'p'], the program ['p', 'q']",
    )


@pytest.mark.parametrize("batch", [1, 3, 13, 14])
def test_the_batch_size_does_not_change_what_is_found(
    batch: int, small: Compiled, small_inputs: InputSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = corrupted(small, "layers.3.attn.k.weight", lambda w: -w)
    whole = validate(wrong, small_inputs)
    monkeypatch.setattr(reference, "BATCH", batch)
    validation = validate(wrong, small_inputs)
    assert (validation.n, validation.n_wrong) == (whole.n, whole.n_wrong)
    assert validation.counterexamples == whole.counterexamples


@given(keep=st.lists(st.booleans(), min_size=14, max_size=14).filter(any))
@settings(max_examples=25, deadline=None)
def test_only_the_chosen_inputs_are_looked_at(
    small: Compiled, small_inputs: InputSet, keep: list[bool]
) -> None:
    inputs, wrong = small_inputs, corrupted(small, "head.weight", lambda w: w.flip(0))
    rows = torch.nonzero(torch.tensor(keep))[:, 0]
    validation = validate(wrong, inputs, rows)
    assert (validation.n, validation.n_wrong) == (len(rows), len(rows))
    for text, row in zip(validation.counterexamples, rows.tolist(), strict=False):
        assert text.startswith(f"{inputs.listed(row)} gives ")


def test_an_output_that_tracr_foresees_and_no_input_has_is_wrong() -> None:
    task = Task("length", make_length(), ("a", "b"), 2, 3)
    inputs, compiled = make_inputs(task), compile_program(task, 100)
    assert compiled.outputs == (0, 1, 2, 3)
    assert isinstance(inputs.output, Categorical)
    assert inputs.output.values == (2, 3)

    def always_0(head: Tensor) -> Tensor:
        return torch.cat([2 * head.sum(0, keepdim=True), head[1:]])

    wrong = corrupted(compiled, "head.weight", always_0)
    assert inputs.output.right(given_by(wrong.bridge(inputs), inputs), inputs.targets)[
        inputs.defined
    ].all(), "among the classes that occur it would have been right"
    validation = validate(wrong, inputs)
    assert validation.n_wrong == validation.n == 12
    assert validation.counterexamples[0] == "['a', 'a'] gives [0, 0], the program [2, 2]"


def test_undefined_positions_do_not_count(small: Compiled, small_inputs: InputSet) -> None:
    wrong = corrupted(small, "head.weight", lambda w: w.flip(0))
    targets = small_inputs.targets.clone()
    targets[1:] = IGNORE
    validation = validate(wrong, replace(small_inputs, targets=targets))
    assert (validation.n, validation.n_wrong) == (14, 1)
    assert validation.counterexamples == ("['p'] gives ['q'], the program ['p']",)
    targets[0] = IGNORE
    assert validate(wrong, replace(small_inputs, targets=targets)).exact


def test_only_the_defined_positions_are_shown() -> None:
    task = Task("previous", previous_by(1), ("a", "b"), 1, 3)
    inputs, compiled = make_inputs(task), compile_program(task, 100)
    assert validate(compiled, inputs).exact
    assert (inputs.targets[:, 1] == IGNORE).all()
    validation = validate(corrupted(compiled, "head.weight", lambda w: w.flip(0)), inputs)
    assert validation.n_wrong == 12, "lists of one token have nothing to be wrong at"
    assert validation.counterexamples[0] == "['a', 'a'] gives ['b'], the program ['a']"


# Programs that Tracr compiles wrongly


@dataclass(frozen=True)
class Wrong:
    """A program that Tracr compiles wrongly, the first wrong variable and why."""

    task: Task
    example: str
    variable: str
    why: str
    max_inputs: int = 20_000


WRONG: dict[str, Wrong] = {
    "a selector width at full length": Wrong(
        Task("length", make_length(), ("a", "b"), 9, 10),
        r"\['.', .*\] gives \[9, .*\], the program \[10, .*\]",
        "length",
        "a selector width, whose MLP cannot tell 1/n from 1/(n+1), at full length first",
        40,
    ),
    "a share that Tracr does not foresee": Wrong(
        Task("mostly", make_mostly(), ("a", "b"), 1, 3),
        r"\['a', 'a', 'b'\] gives \[False, .*\], the program \[True, .*\]",
        "mostly",
        "it reads the number 'share', of which Tracr foresees the shares 0 and 1/n only "
        "(inexact numerical MLP)",
    ),
    "a variable that is undefined at some positions": Wrong(
        Task("others", make_others(), ("a", "b"), 1, 3),
        r"\['a'\] gives \[0\], the program \[1\]",
        "others",
        "it reads 'previous', which is undefined on some inputs",
    ),
    "a mean of several tokens": Wrong(
        Task("mean", make_mean(), (0, 1), 1, 3),
        r"\[0, 1\] gives \[0, [01]\], the program \[0, 0\.5\]",
        "mean",
        "an aggregate, which in Tracr cannot select several positions of a category",
    ),
}


@pytest.mark.usefixtures("one_level")
@pytest.mark.parametrize("what", WRONG)
def test_a_program_that_tracr_compiles_wrongly_is_refused_with_the_variable_and_the_cause(
    what: str, own_cache: Path
) -> None:
    wrong = WRONG[what]
    message = (
        f"^task '{wrong.task.name}': the compiled reference disagrees with the RASP interpreter "
        rf"on [1-9]\d* of \d+ inputs, at every mlp_exactness tried, e\.g\. .*{wrong.example}.*; "
        f"the first variable to be wrong is '{wrong.variable}': "
    )
    texts = []
    for _ in ("compiled", "from the cache, which keeps what the compiler made, right or wrong"):
        with pytest.raises(UserError, match=message) as caught:
            build(wrong.task, wrong.max_inputs)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert wrong.why in texts[0]
    assert 1 <= texts[0].count(" gives ") <= 5
    assert "\n" not in texts[0]
    assert "task.allow_inexact=true" in texts[0]


@pytest.mark.usefixtures("one_level")
def test_the_variable_that_is_wrong_first_is_named_not_those_that_read_it() -> None:
    doubled = rasp.Map(lambda n: 2 * n, make_others()).named("doubled")
    last = rasp.SequenceMap(lambda n, x: (n, x), doubled, rasp.tokens).named("last")
    with pytest.raises(UserError, match="the first variable to be wrong is 'others': it reads"):
        build(Task("last", last, ("a", "b"), 1, 3))


@pytest.mark.usefixtures("one_level")
def test_a_program_that_reads_what_is_never_defined_is_refused() -> None:
    with pytest.raises(UserError, match="wrong is 'others': it reads 'previous', which is undef"):
        build(Task("others", make_others(5), ("a", "b"), 1, 2))


@pytest.mark.usefixtures("one_level")
def test_an_exact_mean_is_not_taken_for_the_wrong_variable() -> None:
    """The interpreter gives 2.0 where Tracr's label says 2."""
    everywhere = rasp.Select(rasp.tokens, rasp.tokens, TRUE)
    mean = rasp.Aggregate(everywhere, make_length()).named("mean_length")
    both = rasp.SequenceMap(lambda a, b: (a, b), mean, make_others()).named("both")
    inputs = make_inputs(Task("both", both, ("a", "b"), 2, 3))
    assert [str(value) for value in inputs.variables["mean_length"].values] == ["2.0", "3.0"]
    with pytest.raises(UserError, match="the first variable to be wrong is 'others'"):
        build_reference(inputs)


@pytest.mark.usefixtures("one_level")
@pytest.mark.parametrize("token", [":", "a:b", "tokens:a"])
def test_a_token_with_a_colon_is_not_taken_for_the_wrong_variable(token: str) -> None:
    with pytest.raises(UserError, match="the first variable to be wrong is 'others'"):
        build(Task("others", make_others(), (token, "b"), 1, 3))


@pytest.mark.usefixtures("one_level")
def test_flags_are_not_taken_for_the_wrong_variable() -> None:
    """True equals 1: a label may hold either of two equal values."""
    is_b = rasp.Map(lambda x: x == "b", rasp.tokens).named("is_b")
    number = rasp.SequenceMap(lambda flag, i: flag if i else int(flag), is_b, rasp.indices)
    differ = rasp.Select(previous_by(1), rasp.tokens, lambda key, query: key != query)
    both = rasp.SequenceMap(
        lambda n, flag: (n, flag),
        rasp.SelectorWidth(differ).named("others"),
        number.named("number"),
    )
    with pytest.raises(UserError, match="the first variable to be wrong is 'others'"):
        build(Task("both", both.named("both"), ("a", "b"), 1, 3))


# Exactness


def test_tracrs_default_exactness_is_too_coarse_for_12_tokens_and_is_not_used() -> None:
    task = Task("reverse", make_reverse(), ("a", "b"), 1, 12)
    inputs = make_inputs(task, 300)
    assert not validate(compile_program(task, 100), inputs).exact
    made = build_reference(inputs)
    assert made.exact
    assert made.compiled.mlp_exactness == 1000


def test_exactness_is_raised_until_the_program_is_exact() -> None:
    task = Task("length", make_length(), ("a", "b"), 33, 34)  # 1/33 - 1/34 is below 1/1000
    inputs = make_inputs(task, 20)
    assert not validate(compile_program(task, 1000), inputs).exact
    made = build_reference(inputs)
    assert made.exact
    assert made.compiled.mlp_exactness == 10_000


@pytest.mark.parametrize("levels", [(20, 100, 50), (100, 20)])
def test_of_inexact_references_the_one_with_fewest_wrong_inputs_is_taken(
    levels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("length", make_length(), ("a", "b"), 1, 12)
    inputs = make_inputs(task, 200)
    made_at = {x: compile_program(task, x) for x in levels}
    n_wrong = {
        x: min(validate(compiled, inputs).n_wrong for compiled in (made, made.sharp()))
        for x, made in made_at.items()
    }
    assert 0 < n_wrong[100] < min(n_wrong[x] for x in levels if x != 100)
    monkeypatch.setattr(reference, "_exactness_levels", lambda longest: levels)
    with pytest.raises(UserError, match=f"on {n_wrong[100]} of {len(inputs)} inputs"):
        build_reference(inputs)
    made = build_reference(inputs, allow_inexact=True)
    assert not made.exact
    assert made.compiled.mlp_exactness == 100
    assert made.validation.n_wrong == n_wrong[100]
    right = inputs.output.right(given_by(made.bridge, inputs), inputs.targets)
    assert int((~right & inputs.defined).any(1).sum()) == n_wrong[100]


def test_an_exact_reference_stays_exact_where_inexact_ones_are_allowed() -> None:
    made = build_reference(make_inputs(small_task()), allow_inexact=True)
    assert made.exact
    assert made.compiled.mlp_exactness == 100


def test_a_class_that_tracr_does_not_foresee_has_a_column_that_says_nothing() -> None:
    inputs = make_inputs(Task("mean", make_mean(), (0, 1), 1, 2))
    made = build_reference(inputs, allow_inexact=True)
    assert isinstance(inputs.output, Categorical)
    assert inputs.output.values == (0, 0.5, 1)
    given = given_by(made.bridge, inputs)
    assert given.shape[-1] == 3
    assert (given[..., 1] == 0).all()
    assert (given[..., 0] != 0).any()


# Tracr's heads


def test_heads_are_as_wide_as_the_values_they_move() -> None:
    """Tracr makes heads as wide as keys and queries only, and fails."""
    pair = rasp.SequenceMap(lambda x, i: (x, i), rasp.tokens, rasp.indices).named("pair")
    before = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
    task = Task("wide", rasp.Aggregate(before, pair).named("wide"), tuple(range(6)), 1, 4)
    with pytest.raises(ValueError, match="could not broadcast"):
        compile_with_tracr(task, 100)
    made = build(task, 500)
    assert made.exact
    for row, values in enumerate(decoded(made.bridge, made.inputs)):
        listed = made.inputs.listed(row)
        assert values[1:] == [(x, i) for i, x in enumerate(listed[:-1])]


def test_sharp_attention_is_the_same_but_for_scores_that_the_heads_width_does_not_divide(
    small: Compiled, small_inputs: InputSet
) -> None:
    sharp = small.sharp()
    assert (small.sharpened, sharp.sharpened) == (False, True)
    assert sharp.digest != small.digest
    assert validate(sharp, small_inputs).exact
    for name, weight in small.weights.items():
        factor = small.shape["d_head"] ** 0.5 if ".attn.q." in name else 1.0
        torch.testing.assert_close(sharp.weights[name], weight * factor)


def test_attention_that_is_too_soft_is_sharpened(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("hist", make_hist(), ("a", "b", "c"), 1, 4)
    inputs, hard = make_inputs(task), compile_program(task, 100)
    soft = hard
    for name in hard.weights:
        if ".attn.q." in name:
            soft = corrupted(soft, name, lambda w: w * 0.02)
    assert not validate(soft, inputs).exact
    monkeypatch.setattr(reference, "compile_program", lambda *_: soft)
    first, again = build_reference(inputs), build_reference(inputs)
    for made in (first, again):
        assert made.exact
        assert made.compiled.sharpened
        assert made.compiled.mlp_exactness == 100
    assert (first.from_cache, again.from_cache) == (False, True)
    assert same_weights(first, again)
    monkeypatch.setattr(reference, "compile_program", lambda *_: hard)
    monkeypatch.setenv("ALGOMATCH_CACHE", str(own_cache / "another"))
    assert not build_reference(inputs).compiled.sharpened


def test_the_exactness_does_not_depend_on_what_is_in_the_cache(own_cache: Path) -> None:
    task = small_task()
    path = reference._cache_path(task, 10_000)
    assert path is not None
    reference._write_cache(path, compile_program(task, 10_000))
    assert build(task).compiled.mlp_exactness == 100
    assert build(task).compiled.mlp_exactness == 100


# What is refused


TOO_LARGE = {
    "sort_freq": r"'key' maps 61 x 60 pairs of values",
    "most_freq": r"'best_at' maps 61 x 60 pairs of values",
    "double_hist": r"'hist_at_first' maps 61 x 61 pairs of values",
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_sequence_map_of_too_many_pairs_is_refused_at_once(name: str) -> None:
    task = make_task(TaskConfig(name=name, min_length=59, max_length=60))
    message = (
        f"^task '{name}': {TOO_LARGE[name]}; above 2,500 Tracr takes minutes and gigabytes: lower "
        "task.max_length=60 or shorten the 4-token task.vocabulary$"
    )
    before = time.process_time()
    with pytest.raises(UserError, match=message):
        build(task, 4)
    assert time.process_time() - before < 5


# The cache


def cached_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def proofs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def same_weights(built: Reference, other: Reference) -> bool:
    ours, theirs = built.bridge.state_dict(), other.bridge.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reference]:
    """The small task's reference, and the cache folder that it was written to."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALGOMATCH_CACHE", str(folder))
        return folder, build(small_task())


@pytest.fixture
def filled_cache(built: tuple[Path, Reference], own_cache: Path) -> Path:
    """A cache that holds the small task's reference and its validation."""
    shutil.copytree(built[0], own_cache, dirs_exist_ok=True)
    return own_cache


def test_the_second_reference_comes_from_the_cache_and_is_the_same(own_cache: Path) -> None:
    first, second = build(small_task()), build(small_task())
    assert (first.from_cache, second.from_cache) == (False, True)
    assert same_weights(first, second)
    assert second.compiled.digest == first.compiled.digest
    for name in ("shape", "outputs", "residual_labels", "mlp_exactness"):
        assert getattr(second.compiled, name) == getattr(first.compiled, name)
    assert second.validation == first.validation
    assert len(cached_files(own_cache)) == len(proofs(own_cache)) == 1
    assert len([path for path in own_cache.rglob("*") if path.is_file()]) == 2


def test_an_inexact_validation_comes_out_of_the_cache_whole(own_cache: Path) -> None:
    inputs = make_inputs(WRONG["a mean of several tokens"].task)
    first, second = (build_reference(inputs, allow_inexact=True) for _ in range(2))
    assert second.from_cache
    assert second.validation == first.validation
    assert not second.exact
    assert second.validation.counterexamples


@pytest.mark.parametrize(
    "vocabulary", [(2, 1), (0.5, -1.0), (True, False), ("a", 1), ("'", '"'), ("\\", "\n")]
)
def test_values_come_out_of_the_cache_with_their_types(
    vocabulary: tuple[Value, ...], own_cache: Path
) -> None:
    task = Task("same", make_same(), vocabulary, 1, 2)
    first, second = build(task), build(task)
    assert second.from_cache
    assert repr(second.compiled.outputs) == repr(first.compiled.outputs)
    assert {*(second.compiled.outputs or ())} == {*vocabulary}


def plus(n: int) -> Any:
    return rasp.SequenceMap(lambda i, x: (i + n, x), rasp.indices, rasp.tokens).named("plus")


def test_another_program_or_task_is_not_taken_from_the_cache(own_cache: Path) -> None:
    program = rasp.SequenceMap(lambda i, x: (i + 1, x), rasp.indices, rasp.tokens).named("plus")
    two = rasp.SequenceMap(lambda i, x: (i + 2, x), rasp.indices, rasp.tokens).named("plus")
    task = Task("plus", program, ("a", "b"), 1, 2)
    others = {
        "a constant": replace(task, program=two),
        "a constant around the function": replace(task, program=plus(3)),
        "another such constant": replace(task, program=plus(4)),
        "a token": replace(task, vocabulary=("a", "c")),
        "one more token": replace(task, vocabulary=("a", "b", "c")),
        "a token's type": replace(task, vocabulary=("a", 1)),
        "that type again": replace(task, vocabulary=("a", 1.0)),
        "the length": replace(task, max_length=3),
        "the mask": replace(task, causal=True),
        "the name": replace(task, program=program.named("other")),
    }
    build(task)
    for what, other in others.items():
        assert not build(other).from_cache, what
        assert build(other).from_cache, what
    same = rasp.SequenceMap(lambda i, x: (i + 1, x), rasp.indices, rasp.tokens).named("plus")
    assert build(replace(task, program=same, min_length=2, name="renamed")).from_cache
    assert build(replace(task, program=plus(3))).from_cache


@pytest.mark.slow
def test_sets_have_one_reference_in_every_process(own_cache: Path) -> None:
    script = """
from support.references import make_inputs
from tracr.rasp import rasp
from algomatch.data.tasks import Task
from algomatch.models.reference import build_reference

letters = rasp.Map(lambda token: frozenset((token, "x", "y")), rasp.tokens).named("letters")
pairs = rasp.SequenceMap(lambda some, i: (frozenset(some | {"xyz"[i]}), i), letters, rasp.indices)
whole = rasp.Map(lambda pair: pair[0] | {"z"} if pair[1] else frozenset(), pairs, simplify=False)
made = build_reference(make_inputs(Task("sets", whole.named("whole"), ("a", "b"), 1, 2)))
labels = [label for label in made.compiled.residual_labels if label.startswith("whole")]
print(made.from_cache, made.exact, made.compiled.digest, labels, len(made.compiled.outputs))
"""
    printed = []
    for seed, name in (("1", "one"), ("2", "other"), ("3", "one")):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        environment["ALGOMATCH_CACHE"] = str(own_cache / name)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.split(maxsplit=1))
    assert [from_cache for from_cache, _ in printed] == ["False", "False", "True"]
    assert len({rest for _, rest in printed}) == 1
    assert "{'a', 'x', 'y', 'z'}" in printed[0][1]


def test_a_length_that_a_causal_task_cannot_see_is_not_taken_from_the_cache(
    own_cache: Path,
) -> None:
    left = rasp.SequenceMap(lambda n, i: n - i, rasp.length, rasp.indices).named("left")
    task = Task("left", left, ("a", "b"), 3, 3, causal=True)
    assert build(task).exact
    assert build(task).from_cache
    with pytest.raises(UserError, match="no position of a causal task sees how long the list is"):
        build(replace(task, min_length=1))


def test_a_variables_name_inside_the_program_is_part_of_the_key(own_cache: Path) -> None:
    def program(name: str) -> Any:
        return rasp.Map(lambda x: x, rasp.Map(lambda x: x, rasp.tokens, False).named(name), False)

    task = Task("same", program("one"), ("a", "b"), 1, 2)
    first = build(task)
    other = build(replace(task, program=program("two")))
    assert not other.from_cache
    assert "one:a" in first.compiled.residual_labels
    assert "two:a" in other.compiled.residual_labels
    assert build(replace(task, program=program("one"))).from_cache


MIXED = (1, "a", 2)


@pytest.mark.slow
def test_another_process_makes_the_same_references_and_takes_ours_without_jax(
    own_cache: Path,
) -> None:
    made = build(small_task())
    task = Task("frac_prevs", make_frac_prevs(MIXED), MIXED, 1, 2)
    script = f"""
import json, sys
import torch
from algomatch.data.inputs import all_inputs, encode, encode_vocabulary, program_outputs, split
from algomatch.data.programs import make_frac_prevs, make_reverse
from algomatch.data.tasks import Task
from algomatch.models.compiling import compile_program
from algomatch.models.reference import build_reference
from tracr.rasp import rasp

torch.set_num_threads(1)
for _ in range(7):
    rasp.Map(abs, rasp.tokens)  # its counters go on from elsewhere
task = Task("reverse", make_reverse(), ("p", "q"), 1, 3)
raw = all_inputs(task, 100, 0)
made = build_reference(encode(raw, program_outputs(raw), split(raw, 0.0, [], 0)))
found = {{
    "jax": "jax" in sys.modules or "haiku" in sys.modules,
    "cached": made.from_cache,
    "validation": repr(made.validation),
    "classes": made.bridge.cfg.d_vocab_out,
}}
task = Task("frac_prevs", make_frac_prevs({MIXED!r}), {MIXED!r}, 1, 2)
compiled = compile_program(task, 100)
ids = [[token, index] for token, index in encode_vocabulary(task).items()]
found["compiled"] = [ids, compiled.residual_labels, compiled.digest]
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "4", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    report = json.loads(done.stdout)
    assert report.pop("jax") is False
    assert report.pop("cached") is True
    assert report.pop("validation") == repr(made.validation)
    assert report.pop("classes") == 2
    ids = [[token, index] for token, index in encode_vocabulary(task).items()]
    compiled = compile_program(task, 100)
    assert report.pop("compiled") == [ids, list(compiled.residual_labels), compiled.digest]
    assert not report


@pytest.mark.parametrize("vocabulary", [MIXED, ("b", 0.5, True), (3, "3a", "a3", 30)])
@pytest.mark.parametrize("make", [make_hist, make_reverse])
def test_a_mixed_vocabulary_has_the_same_ids_everywhere_and_an_exact_reference(
    vocabulary: tuple[Value, ...], make: Callable[[], Any]
) -> None:
    task = Task("mixed", make(), vocabulary, 1, 3)
    made = build(task)
    assert made.exact
    assert dict(made.inputs.token_ids) == encode_vocabulary(task)
    assert sorted(encode_vocabulary(task).values()) == list(range(len(vocabulary) + 2))
    for row, values in enumerate(decoded(made.bridge, made.inputs)):
        assert values == interpreted(task, made.inputs.listed(row))
    assert_tokens_are_where_their_labels_say(made)


def assert_tokens_are_where_their_labels_say(made: Reference) -> None:
    places = made.compiled.residual_labels
    for token, index in encode_vocabulary(made.inputs.task).items():
        embedded = made.compiled.weights["tok_embed.weight"][index]
        assert embedded[places.index(f"tokens:{token}")] == 1, token


# 9 < 10 as numbers and '10' < '1z' < '9' as texts: Tracr's order is not transitive.
CYCLIC = [(9 + 11 * n, f"{10 + 11 * n}z", 100 + 11 * n) for n in range(6)]


@pytest.mark.usefixtures("one_level")
@pytest.mark.parametrize("vocabulary", CYCLIC)
def test_a_vocabulary_that_tracr_cannot_order_is_refused_or_labelled_right(
    vocabulary: tuple[Value, ...],
) -> None:
    task = Task("mixed", make_hist(), vocabulary, 1, 2)
    with contextlib.suppress(UserError):
        assert_tokens_are_where_their_labels_say(build(task))


def test_other_names_for_the_same_program_are_part_of_the_key() -> None:
    task, other = small_task(), small_task()
    assert reference._cache_path(task, 100) == reference._cache_path(other, 100)
    other.__dict__["variables"] = {f"{name}_": sop for name, sop in task.variables.items()}
    assert reference._cache_path(task, 100) != reference._cache_path(other, 100)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated in its header": lambda content: content[:50],
    "truncated in its weights": lambda content: content[:-100],
    "other bytes": lambda content: b"\xff" * len(content),
    "a bit flipped in its weights": lambda content: (
        content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    ),
    "no header of ours": lambda content: content.replace(b'"algomatch"', b'"something"'),
    "a header without its shape": lambda content: content.replace(b"shape", b"sharp"),
    "a header with another shape": lambda content: content.replace(
        b'n_layers\\": 4', b'n_layers\\": 3'
    ),
    "a header with other outputs": lambda content: content.replace(b"('p', 'q')", b"('q', 'p')"),
    "a header with other labels": lambda content: content.replace(b"tokens:p", b"tokens:r"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_file_is_not_read(damage: str, filled_cache: Path) -> None:
    (path,) = cached_files(filled_cache)
    assert reference._read_cache(path) is not None
    whole = path.read_bytes()
    damaged = DAMAGE[damage](whole)
    assert damaged != whole, whole[:900]
    path.write_bytes(damaged)
    assert reference._read_cache(path) is None


@pytest.mark.parametrize("damage", ["truncated in its weights", "a header with other outputs"])
def test_a_damaged_cache_file_is_compiled_anew(
    damage: str, filled_cache: Path, built: tuple[Path, Reference]
) -> None:
    (path,) = cached_files(filled_cache)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    again = build(small_task())
    assert not again.from_cache
    assert same_weights(built[1], again)
    assert build(small_task()).from_cache, "the file was not mended"


def rewrite(path: Path, name: str, change: Change | None, sealed: bool) -> None:
    """Change or drop a weight of a cached file, with or without a new seal."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = safetensors.torch.load_file(path)
    if change is None:
        del weights[name]
    else:
        weights[name] = change(weights[name]).contiguous()
    if sealed:
        metadata["digest"] = reference._digest(metadata["algomatch"], weights)
    path.write_bytes(safetensors.torch.save(weights, metadata))


@pytest.mark.parametrize("name", ["head.weight", "layers.3.attn.v.weight"])
@pytest.mark.parametrize("change", [None, lambda w: w.flip(0)])
def test_a_cached_file_with_wrong_weights_is_not_read(
    name: str, change: Change | None, filled_cache: Path
) -> None:
    (path,) = cached_files(filled_cache)
    rewrite(path, name, lambda w: w.clone(), sealed=False)
    assert reference._read_cache(path) is not None
    rewrite(path, name, change, sealed=False)
    assert reference._read_cache(path) is None


@pytest.mark.parametrize("what", ["classes swapped in the head", "an MLP that is off"])
def test_a_wrong_reference_that_passes_for_whole_is_not_used(what: str, filled_cache: Path) -> None:
    """Its seal is right, but the validation beside it is of other weights."""
    task = small_task()
    for above, exactness in ((1_000, 100), (10_000, 1_000), (None, 10_000)):
        path = reference._cache_path(task, exactness)
        assert path is not None
        if not path.exists():
            reference._write_cache(path, compile_program(task, exactness))
        rewrite(path, *CORRUPTIONS[what], sealed=True)
        if above is not None:
            again = build(task)
            assert again.exact
            assert again.compiled.mlp_exactness == above, "the next level was compiled"
    with pytest.raises(UserError, match="disagrees with the RASP interpreter"):
        build(task)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("ALGOMATCH_CACHE", str(blocked))
    for _ in range(2):
        made = build(small_task())
        assert made.exact
        assert not made.from_cache
    assert blocked.read_text() == "no folder"


def test_a_program_without_a_fingerprint_is_not_cached(own_cache: Path) -> None:
    lock = threading.Lock()
    program = rasp.Map(lambda x: x if lock is not None else None, rasp.tokens)
    task = Task("locked", program, ("a", "b"), 1, 2)
    assert not build(task).from_cache
    assert not build(task).from_cache
    assert cached_files(own_cache) == proofs(own_cache) == []


def test_a_written_reference_is_readable(built: tuple[Path, Reference]) -> None:
    folder, made = built
    (path,) = cached_files(folder)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["algomatch"])
    assert header["outputs"] == "('p', 'q')"
    assert header["mlp_exactness"] == made.compiled.mlp_exactness
    assert header["shape"]["n_layers"] == made.bridge.cfg.n_layers


# The cache of validations


@dataclass
class Counter:
    """The number of validations on all inputs, and on a few."""

    full: int = 0
    partial: int = 0

    def taken(self) -> tuple[int, int]:
        counted = self.full, self.partial
        self.full = self.partial = 0
        return counted


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()

    def counted(compiled: Compiled, inputs: InputSet, among: Tensor | None = None) -> Validation:
        if among is None:
            counter.full += 1
        else:
            counter.partial += 1
        return validate(compiled, inputs, among)

    monkeypatch.setattr(reference, "validate", counted)
    return counter


def test_the_second_build_validates_a_few_inputs_only(own_cache: Path, counter: Counter) -> None:
    first = build(small_task())
    assert counter.taken() == (1, 0)
    second = build(small_task())
    assert counter.taken() == (0, 1)
    assert second.validation == first.validation
    assert second.validation.n == 14


def test_the_few_inputs_are_spread_over_all_of_them(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task("reverse", make_reverse(), ("a", "b", "c", "d"), 1, 5)
    inputs = make_inputs(task)
    build_reference(inputs)
    seen: list[list[int]] = []

    def recorded(compiled: Compiled, inputs: InputSet, among: Tensor | None = None) -> Validation:
        assert among is not None
        seen.append(among.tolist())
        return validate(compiled, inputs, among)

    monkeypatch.setattr(reference, "validate", recorded)
    assert build_reference(inputs).validation.n == len(inputs)
    (rows,) = seen
    assert rows == sorted(set(rows))
    assert (rows[0], rows[-1]) == (0, len(inputs) - 1)
    assert len(rows) == 256
    assert max(np.diff(rows)) <= len(inputs) // 200


PROOF_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "no JSON": lambda content: b"\xff\x00" * 40,
    "another JSON": lambda content: b"[1, 2]",
    "a number": lambda content: b"7",
    "fields missing": lambda content: b"{}",
    "another count": lambda content: content.replace(b'n\\": 14', b'n\\": 13'),
    "more wrong": lambda content: content.replace(b'n_wrong\\": 0', b'n_wrong\\": 3'),
    "another key": lambda content: content.replace(
        b'key\\": \\"' + content.partition(b'key\\": \\"')[2][:1], b'key\\": \\"g'
    ),
}


@pytest.mark.parametrize("damage", PROOF_DAMAGE)
def test_a_damaged_proof_is_ignored_and_mended(
    damage: str, filled_cache: Path, built: tuple[Path, Reference], counter: Counter
) -> None:
    (path,) = proofs(filled_cache)
    whole = path.read_bytes()
    damaged = PROOF_DAMAGE[damage](whole)
    assert damaged != whole, whole
    path.write_bytes(damaged)
    again = build(small_task())
    assert again.from_cache
    assert counter.taken() == (1, 0)
    assert again.validation == built[1].validation
    assert path.read_bytes() == whole


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_a_proof_with_any_bit_flipped_is_no_proof(
    built: tuple[Path, Reference], place: int, bit: int
) -> None:
    (path,) = proofs(built[0])
    key = f"{built[1].compiled.digest}{built[1].inputs.digest()}"
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    broken = path.with_name("broken")
    broken.write_bytes(bytes(content))
    true = reference._read_proof(path, key)
    assert true == Validation(14, 0, None, (), "")
    assert reference._read_proof(broken, key) in (None, true)  # both spell true: one with an escape
    assert reference._read_proof(path, f"{key}0") is None


def sealed(text: str) -> bytes:
    return json.dumps({"text": text, "digest": reference._sha(text)}).encode()


@pytest.mark.parametrize(
    "text", ["7", "null", "[]", "{}", '"text"', '{"key": 1}', '{"key": "K", "n": 1}', "{"]
)
def test_a_sealed_proof_of_something_else_is_no_proof(text: str, tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    path.write_bytes(sealed(text))
    assert reference._read_proof(path, "K") is None


def test_a_proof_of_other_inputs_is_not_used(filled_cache: Path, counter: Counter) -> None:
    others = {
        "fewer": make_inputs(small_task(), 10),
        "longer ones only": make_inputs(replace(small_task(), min_length=2)),
        "other lists": make_inputs(replace(small_task(), accepts=lambda xs: xs != ["p"])),
    }
    for what, inputs in others.items():
        made = build_reference(inputs)
        assert made.from_cache, what
        assert made.validation.n == len(inputs), what
        assert counter.taken() == (1, 0), what
    build(small_task())
    assert counter.taken() == (0, 1)


def test_a_proof_of_another_tolerance_is_not_used(own_cache: Path, counter: Counter) -> None:
    task = Task("share", make_share("a"), ("a", "b"), 1, 3)
    for tolerance in (None, 0.01, 1e-6):
        inputs = make_inputs(replace(task, tolerance=tolerance))
        assert isinstance(inputs.output, Numerical)
        build_reference(inputs)
        assert counter.taken() == (1, 0), tolerance
        build_reference(inputs)
        assert counter.taken() == (0, 1), tolerance


def test_the_split_has_no_part_in_a_proof(filled_cache: Path, counter: Counter) -> None:
    build_reference(make_inputs(small_task(), held_out=0.5, lengths=(3,)))
    assert counter.taken() == (0, 1)


def test_a_proof_is_not_trusted_where_a_few_inputs_disagree_with_it(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(small_task())
    path = own_cache / "wrong.safetensors"
    wrong = corrupted(compile_program(small_task(), 100), "head.weight", lambda w: w.flip(0))
    with monkeypatch.context() as patch:
        patch.setattr(reference, "validate", lambda *_: Validation(14, 0, None, (), ""))
        assert reference._validated(wrong, inputs, path).exact
    assert len(proofs(own_cache)) == 1
    for _ in range(2):
        assert reference._validated(wrong, inputs, path).n_wrong == 14
    assert len(proofs(own_cache)) == 1, "the false proof was replaced"


def test_without_a_cache_every_build_validates_on_all_inputs(counter: Counter) -> None:
    inputs = make_inputs(small_task())
    compiled = build_reference(inputs).compiled
    counter.taken()
    assert reference._validated(compiled, inputs, None).exact
    assert counter.taken() == (1, 0)


# A causal task


def test_a_causal_task_has_a_causal_reference() -> None:
    odd = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, TRUE)).named("rank")
    program = rasp.SequenceMap(lambda n, t: t if n % 2 else "even", odd, rasp.tokens).named("odd")
    task = Task("odd", program, ("a", "b"), 1, 4, causal=True)
    made = build(task)
    inputs = made.inputs
    assert made.exact
    assert made.bridge.cfg.attention_dir == "causal"
    before = given_by(made.bridge, inputs)
    whole = inputs.lengths == 4
    changed = inputs.tokens.clone()
    changed[whole, 3] = changed[whole, 3].roll(1)
    after = given_by(made.bridge, replace(inputs, tokens=changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])
    for row, values in enumerate(decoded(made.bridge, inputs)):
        assert values == interpreted(task, inputs.listed(row))
    both_ways = build(replace(task, causal=False))
    assert both_ways.exact
    assert both_ways.bridge.cfg.attention_dir == "bidirectional"
