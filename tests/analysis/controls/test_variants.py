"""Variants: the same program in other weights, validated on every input."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from support.references import corrupted, given_by
from support.references import fast_compiles as fast_compiles
from torch import Tensor

from algomatch.analysis.controls.variants import (
    NOISE_SCALES,
    hardest_noise,
    noised,
    permuted,
    reparametrised,
    rotated,
)
from algomatch.config.schema import TaskConfig
from algomatch.data.inputs import InputSet, input_set
from algomatch.data.tasks import make_task
from algomatch.infra.errors import UserError
from algomatch.models.bridges import make_native
from algomatch.models.compiling import Compiled
from algomatch.models.reference import Reference, build_reference, validate

TASKS = ("reverse", "sort", "hist", "most_freq", "shuffle_dyck", "frac_prevs", "previous_token")
LINEAR: dict[str, Callable[[Compiled, int], Compiled]] = {
    "rotated": rotated,
    "reparametrised": reparametrised,
    "permuted": permuted,
}


@cache
def reference_of(name: str) -> Reference:
    config = TaskConfig(name=name, max_length=6 if name == "shuffle_dyck" else 4)
    return build_reference(input_set(make_task(config), config))


def residual(compiled: Compiled, inputs: InputSet) -> Tensor:
    """Return the residual stream before the head, by a bridge with these weights."""
    bridge = compiled.bridge(inputs)
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(inputs.tokens, attention_mask=inputs.key_mask)
    last = compiled.shape["n_layers"] - 1
    stream: Tensor = cache[f"blocks.{last}.hook_resid_post"]
    return stream.double()


@pytest.mark.parametrize("variant", LINEAR)
@pytest.mark.parametrize("task", TASKS)
def test_every_variant_is_exact_on_every_input(task: str, variant: str) -> None:
    made = reference_of(task)
    for seed in (0, 1):
        changed = LINEAR[variant](made.compiled, seed)
        assert changed.digest != made.compiled.digest
        validation = validate(changed, made.inputs)
        assert validation.n == len(made.inputs)
        assert validation.exact, validation.counterexamples
        given, wanted = (
            given_by(changed.bridge(made.inputs), made.inputs),
            given_by(made.bridge, made.inputs),
        )
        real = made.inputs.key_mask
        torch.testing.assert_close(given[real], wanted[real], rtol=0, atol=1e-2)


@pytest.mark.parametrize("task", TASKS)
def test_a_noised_model_is_exact_at_its_hardest_scale_and_at_no_larger_one(task: str) -> None:
    made = reference_of(task)
    hardest = hardest_noise(made.compiled, made.inputs, 3)
    assert hardest is not None
    model, scale = hardest
    assert scale in NOISE_SCALES
    assert validate(model, made.inputs).exact
    assert model.digest == noised(made.compiled, 3, scale).digest
    for larger in NOISE_SCALES[: NOISE_SCALES.index(scale)]:
        assert not validate(noised(made.compiled, 3, larger), made.inputs).exact


def test_what_is_wrong_already_is_exact_under_no_noise() -> None:
    made = reference_of("reverse")
    wrong = corrupted(made.compiled, "layers.3.attn.k.weight", lambda w: -w)
    assert hardest_noise(wrong, made.inputs, 0) is None


@pytest.mark.parametrize("variant", LINEAR)
def test_the_seed_fixes_a_variant(variant: str) -> None:
    compiled = reference_of("hist").compiled
    make = LINEAR[variant]
    assert make(compiled, 5).digest == make(compiled, 5).digest != make(compiled, 6).digest
    assert noised(compiled, 5, 0.1).digest == noised(compiled, 5, 0.1).digest
    assert noised(compiled, 5, 0.1).digest != noised(compiled, 6, 0.1).digest


def test_the_compiled_model_itself_is_left_as_it_was() -> None:
    compiled = reference_of("hist").compiled
    before = {name: weight.clone() for name, weight in compiled.weights.items()}
    for make in LINEAR.values():
        make(compiled, 0)
    noised(compiled, 0, 1.0)
    assert all(torch.equal(before[name], weight) for name, weight in compiled.weights.items())


@pytest.mark.parametrize("condition", [1.0, 3.0, 20.0])
def test_the_residual_stream_is_multiplied_by_one_matrix_of_the_given_condition(
    condition: float,
) -> None:
    reference = reference_of("sort")
    old = residual(reference.compiled, reference.inputs)[reference.inputs.key_mask]
    again = reparametrised(reference.compiled, 2, condition)
    new = residual(again, reference.inputs)[reference.inputs.key_mask]
    # The embeddings show the matrix: they are the residual stream at the start.
    before, after = (
        torch.cat([c.weights["tok_embed.weight"], c.weights["pos.weight"]]).double()
        for c in (reference.compiled, again)
    )
    # Directions that no weight uses hold only rounding errors, so they are left out.
    matrix = torch.linalg.lstsq(
        torch.cat([before, old]), torch.cat([after, new]), rcond=1e-6, driver="gelsd"
    ).solution
    fitted = torch.cat([before, old]) @ matrix
    torch.testing.assert_close(fitted, torch.cat([after, new]), rtol=0, atol=1e-3)
    rank = int(torch.linalg.matrix_rank(torch.cat([before, old]), atol=1e-3))
    basis = torch.linalg.svd(torch.cat([before, old]), full_matrices=False).Vh[:rank]
    stretch = torch.linalg.svdvals(basis @ matrix)
    assert 1 - 1e-3 <= float(stretch.max() / stretch.min()) <= condition * (1 + 1e-3)
    assert float(stretch.max() / stretch.min()) >= 0.5 * condition


def test_a_rotation_keeps_lengths_and_leaves_no_dimension_alone() -> None:
    made = reference_of("sort")
    old, new = (residual(c, made.inputs) for c in (made.compiled, rotated(made.compiled, 0)))
    real = made.inputs.key_mask
    torch.testing.assert_close(new[real].norm(dim=-1), old[real].norm(dim=-1), rtol=1e-4, atol=0)
    assert ((old[real].abs() > 1e-3).float().mean(0) == 0).any()  # some dimension holds nothing
    assert ((new[real].abs() > 1e-3).float().mean(0) > 0.5).all()


def test_labels_move_with_their_dimensions_or_are_gone() -> None:
    made = reference_of("sort")
    compiled, moved = made.compiled, permuted(made.compiled, 0)
    assert moved.residual_labels != compiled.residual_labels
    places = [moved.residual_labels.index(label) for label in compiled.residual_labels]
    old, new = residual(compiled, made.inputs), residual(moved, made.inputs)
    torch.testing.assert_close(new[..., places], old, rtol=0, atol=1e-3)
    assert rotated(compiled, 0).residual_labels == ()
    assert reparametrised(compiled, 0).residual_labels == ()
    assert permuted(rotated(compiled, 0), 0).residual_labels == ()
    assert noised(compiled, 0, 0.1).residual_labels == compiled.residual_labels


def test_the_first_wrong_variable_is_named_by_labels_that_moved_and_not_without_labels() -> None:
    made = reference_of("sort")
    wrong = corrupted(made.compiled, "layers.1.mlp.fc_out.weight", lambda w: -w)
    cause = validate(wrong, made.inputs).cause
    assert cause.startswith("the first variable to be wrong is 'place'")
    assert validate(permuted(wrong, 0), made.inputs).cause == cause
    assert "no residual dimension has a label" in validate(rotated(wrong, 0), made.inputs).cause


def test_heads_and_neurons_change_places_as_a_whole() -> None:
    made = reference_of("shuffle_dyck")
    shape, width = made.compiled.shape, made.compiled.shape["d_head"]
    assert shape["n_heads"] > 1
    swapped = 0
    for seed in range(4):
        moved = permuted(made.compiled, seed)
        for layer in range(shape["n_layers"]):
            name = f"layers.{layer}.attn.q.bias"
            old, new = (c.weights[name].view(-1, width) for c in (made.compiled, moved))
            assert sorted(map(str, old.tolist())) == sorted(map(str, new.tolist()))
            keys = [
                c.weights[f"layers.{layer}.attn.k.weight"].view(-1, width, shape["d_model"])
                for c in (made.compiled, moved)
            ]
            norms, other = (n.norm(dim=-1).round(decimals=3).tolist() for n in keys)
            assert sorted(map(str, norms)) == sorted(map(str, other))
            swapped += norms != other
            fc = f"layers.{layer}.mlp.fc_in.bias"
            ours, theirs = made.compiled.weights[fc], moved.weights[fc]
            assert torch.equal(ours.sort().values, theirs.sort().values)
    assert swapped


def test_noise_is_relative_and_of_the_asked_size() -> None:
    compiled = reference_of("sort").compiled
    noisy = noised(compiled, 0, 0.01)
    ratios = torch.cat(
        [
            (noisy.weights[name][weight != 0] / weight[weight != 0] - 1)
            for name, weight in compiled.weights.items()
        ]
    )
    assert float(ratios.std()) == pytest.approx(0.01, rel=0.1)
    assert abs(float(ratios.mean())) < 0.002
    for name, weight in compiled.weights.items():
        assert (noisy.weights[name][weight == 0] == 0).all()
    assert noised(compiled, 0, 0.0).digest == compiled.digest


@pytest.mark.parametrize("value", [0.5, -1.0, float("nan"), float("inf")])
def test_no_such_condition_and_no_such_scale(value: float) -> None:
    compiled = reference_of("hist").compiled
    with pytest.raises(UserError, match=rf"condition={value} must be a finite number"):
        reparametrised(compiled, 0, value)
    if not value > 0 or value == float("inf"):
        with pytest.raises(UserError, match=rf"scale={value} must be a finite number"):
            noised(compiled, 0, value)


def test_a_variant_of_a_variant_is_exact_too() -> None:
    made = reference_of("sort")
    variant = permuted(reparametrised(rotated(made.compiled.sharp(), 0), 1), 2)
    assert variant.sharpened
    assert validate(variant, made.inputs).exact
    assert set(variant.weights) == set(make_native(made.bridge.cfg).state_dict())
