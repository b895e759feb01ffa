"""Deconfounded CKA: against independent implementations, known facts and known models."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from algomatch.analysis import similarity
from algomatch.analysis.activations import Recording, record, residual_sites
from algomatch.analysis.controls import RANDOM_INIT_SEEDS
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.setting import Setting
from algomatch.analysis.similarity import Variables, linear_cka, site_similarities
from algomatch.analysis.statistics import jackknife_interval
from algomatch.data.inputs import InputSet, Variable
from algomatch.data.outputs import IGNORE
from algomatch.models.bridges import make_bridge

Array = np.ndarray[Any, np.dtype[np.float64]]
seeds = st.integers(0, 2**31)


def gram_cka(x: Array, y: Array) -> float:
    """Return linear CKA by its definition: HSIC of the n-by-n Gram matrices, doubly centred."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n
    one, other = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    hsic = np.trace(one @ other)
    return float(hsic / np.sqrt(np.trace(one @ one) * np.trace(other @ other)))


def drawn(seed: int, n: int = 40) -> tuple[Array, Array]:
    """Return two representations of `n` cases that share something, off centre."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, generator.integers(1, 6))) + 3
    mixed = x @ generator.normal(size=(x.shape[1], 4))
    return x, mixed + generator.uniform(0, 3) * generator.normal(size=mixed.shape)


def cka(x: Array, y: Array) -> float:
    return linear_cka(torch.from_numpy(x), torch.from_numpy(y))


def orthogonal(seed: int, width: int) -> Array:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    return np.asarray(q, dtype=np.float64)


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_linear_cka_is_normalised_hsic_of_gram_matrices(seed: int) -> None:
    x, y = drawn(seed)
    assert cka(x, y) == pytest.approx(gram_cka(x, y), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(1e-3, 1e3))
def test_linear_cka_knows_itself_rotated_shifted_and_scaled(seed: int, scale: float) -> None:
    x, y = drawn(seed)
    assert cka(x, x) == pytest.approx(1, abs=1e-9)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-9)
    assert 0 <= cka(x, y) <= 1 + 1e-9
    moved = scale * y @ orthogonal(seed, y.shape[1]) - 5
    assert cka(x, moved) == pytest.approx(cka(x, y), abs=1e-6)


def test_linear_cka_of_one_column_each_is_the_squared_correlation() -> None:
    x, y = (part[:, :1] for part in drawn(3))
    assert cka(x, y) == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2, abs=1e-9)


def confounds(inputs: InputSet) -> Array:
    """Return token and position one-hots of the defined positions, built without torch."""
    where = np.argwhere(inputs.defined.numpy())
    tokens = inputs.tokens.numpy()[where[:, 0], where[:, 1]]
    one_hots = np.hstack([tokens[:, None] == np.arange(9), where[:, 1:] == np.arange(9)])
    return np.asarray(one_hots, dtype=np.float64)


def residuals(values: Array, inputs: InputSet) -> Array:
    """Return what scikit-learn's regression on token and position leaves of `values`."""
    design = confounds(inputs)
    fitted = LinearRegression().fit(design, values).predict(design)
    return np.asarray(values - fitted, dtype=np.float64)


def one_hot(values: Array) -> Array:
    return np.asarray(values[:, None] == np.unique(values), dtype=np.float64)


def unsorted(values: torch.Tensor, variables: Variables) -> Array:
    """Return `values`, one row a case, in the order of the inputs instead of the groups."""
    back = torch.empty_like(values)
    back[variables.order] = values
    return np.asarray(back.numpy(), dtype=np.float64)


@pytest.fixture(scope="module")
def variables(small: Setting) -> Variables:
    return similarity.prepare(small.inputs, small.config.seed)


@pytest.fixture(scope="module")
def recording(small: Setting) -> Recording:
    return record(make_bridge(small.shape), small.inputs, 2048)


@pytest.fixture(scope="module")
def every(recording: Recording, small: Setting) -> dict[str, torch.Tensor]:
    """Activations of a random init and of the reference, by a name of their own."""
    reference = small.reference_recording
    return {f"{of.bridge.cfg.n_layers}L {site}": of[site] for of in (recording, reference)
            for site in residual_sites(of.bridge)}  # fmt: skip


def values_at(site: torch.Tensor, variables: Variables) -> dict[str, float]:
    return {name: found[0] for name, found in site_similarities(site, variables).items()}


def test_the_one_hots_of_token_and_position_are_rank_deficient(
    small: Setting, variables: Variables
) -> None:
    design = confounds(small.inputs)
    used = design[:, design.any(0)]
    assert np.linalg.matrix_rank(used) == used.shape[1] - 1
    assert variables.basis.shape[1] == used.shape[1] - 1
    identity = variables.basis.T @ variables.basis
    torch.testing.assert_close(identity, torch.eye(len(identity), dtype=torch.float64))


def test_deconfounding_leaves_the_residuals_of_scikit_learns_regression(
    small: Setting, variables: Variables, every: Mapping[str, torch.Tensor]
) -> None:
    for site, values in every.items():
        cases = variables.cases(values).double()
        got = unsorted(similarity.deconfound(cases, variables.basis), variables)
        wanted = residuals(values[small.inputs.defined].double().numpy(), small.inputs)
        np.testing.assert_allclose(got, wanted, atol=1e-8, err_msg=site)


def test_a_variables_representation_is_its_deconfounded_one_hot(
    small: Setting, variables: Variables
) -> None:
    for name, part in variables.columns.items():
        values = small.inputs.variables[name].codes[small.inputs.defined].numpy()
        wanted = residuals(one_hot(values), small.inputs)
        got = unsorted(variables.representation[:, part], variables)
        assert gram_cka(got, wanted) == pytest.approx(1, abs=1e-9)
        assert (got**2).sum() == pytest.approx((wanted**2).sum())


def test_a_similarity_is_the_cka_of_data_deconfounded_apart(
    small: Setting, variables: Variables, every: Mapping[str, torch.Tensor]
) -> None:
    for site, values in every.items():
        rest = residuals(values[small.inputs.defined].double().numpy(), small.inputs)
        found = values_at(values, variables)
        assert set(found) == {"length", "opp_idx", "opp_idx-1", "reverse"}
        for name, value in found.items():
            codes = small.inputs.variables[name].codes[small.inputs.defined].numpy()
            wanted = cka(residuals(one_hot(codes), small.inputs), rest)
            assert value == pytest.approx(wanted, abs=1e-8), (site, name)


@settings(max_examples=20, deadline=None)
@given(seeds, st.lists(st.integers(1, 8), min_size=2, max_size=6))
def test_covariances_with_a_group_left_out_are_numpys_on_the_other_rows(
    seed: int, sizes: list[int]
) -> None:
    sizes = [*sizes, 2]  # at least two rows remain, whatever is left out
    generator, n = np.random.default_rng(seed), sum(sizes)
    x, y = generator.normal(size=(n, 3)) + 2, generator.normal(size=(n, 2)) - 1
    pair = torch.from_numpy(x), torch.from_numpy(y)
    got = similarity.covariances(*pair, tuple(sizes)).numpy()
    own = similarity.covariances(pair[0], None, tuple(sizes)).numpy()
    group = np.repeat(np.arange(len(sizes)), sizes)
    for left_out in range(len(sizes) + 1):  # the last leaves out nothing
        rows = group != left_out
        wanted = np.cov(np.hstack([x, y])[rows].T, bias=True) * rows.sum()
        np.testing.assert_allclose(got[left_out], wanted[:3, 3:], atol=1e-9)
        np.testing.assert_allclose(own[left_out], wanted[:3, :3], atol=1e-9)


def test_the_interval_is_the_jackknife_over_groups_of_inputs(
    variables: Variables, every: Mapping[str, torch.Tensor]
) -> None:
    inputs_of_cases = torch.nonzero(variables.inputs.defined)[variables.order, 0].numpy()
    group = np.repeat(np.arange(len(variables.group_sizes)), variables.group_sizes)
    assert len(variables.group_sizes) == similarity.GROUPS
    for one in np.unique(inputs_of_cases):  # all positions of an input are left out together
        assert len(set(group[inputs_of_cases == one])) == 1
    for site, values in every.items():
        rest = similarity.deconfound(variables.cases(values).double(), variables.basis).numpy()
        found = site_similarities(values, variables)
        for name, part in variables.columns.items():
            code = variables.representation[:, part].numpy()
            left_out = [cka(code[group != g], rest[group != g]) for g in range(group.max() + 1)]
            low, high = jackknife_interval(found[name][0], torch.tensor(left_out).double())
            wanted = (max(0.0, low), min(1.0, high))
            assert found[name][1:] == pytest.approx(wanted, abs=1e-6), (site, name)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_similarity_does_not_depend_on_the_basis_of_the_site(
    seed: int, variables: Variables, every: Mapping[str, torch.Tensor]
) -> None:
    generator = np.random.default_rng(seed)
    for values in every.values():
        site, width = values.double(), values.shape[-1]
        wanted = site_similarities(site, variables)
        rotated = site @ torch.from_numpy(orthogonal(seed, width))
        permuted = site[..., torch.from_numpy(generator.permutation(width))]
        shifted = 7 * site + torch.from_numpy(generator.normal(size=width))
        for moved in (rotated, permuted, shifted):
            for name, found in site_similarities(moved, variables).items():
                assert found == pytest.approx(wanted[name], abs=1e-9)


@settings(max_examples=5, deadline=None)
@given(seed=seeds)
def test_similarity_does_not_depend_on_the_order_of_the_inputs(
    seed: int, small: Setting, variables: Variables, every: Mapping[str, torch.Tensor]
) -> None:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(small.inputs)))
    inputs = small.inputs
    moved = replace(
        inputs,
        tokens=inputs.tokens[order],
        key_mask=inputs.key_mask[order],
        targets=inputs.targets[order],
        lengths=inputs.lengths[order],
        held_out=inputs.held_out[order],
        variables={
            name: replace(variable, codes=variable.codes[order])
            for name, variable in inputs.variables.items()
        },
    )
    other = similarity.prepare(moved, small.config.seed)
    for site in every.values():
        wanted = values_at(site, variables)
        assert values_at(site[order], other) == pytest.approx(wanted, abs=1e-9)


def test_similarity_does_not_depend_on_the_names_of_the_tokens_and_values(
    small: Setting, variables: Variables, every: Mapping[str, torch.Tensor]
) -> None:
    inputs = small.inputs

    def renamed(variable: Variable) -> Variable:
        codes = len(variable.values) - 1 - variable.codes
        return replace(variable, codes=torch.where(variable.defined, codes, IGNORE))

    other_names = {name: renamed(variable) for name, variable in inputs.variables.items()}
    other = similarity.prepare(replace(inputs, tokens=8 - inputs.tokens, variables=other_names), 0)
    for site in every.values():
        assert values_at(site, other) == pytest.approx(values_at(site, variables), abs=1e-9)


def test_similarity_does_not_depend_on_the_batch_size(
    small: Setting, variables: Variables, recording: Recording
) -> None:
    again = record(recording.bridge, small.inputs, 7)
    for site in residual_sites(recording.bridge):
        wanted = values_at(recording[site], variables)
        assert values_at(again[site], variables) == pytest.approx(wanted, abs=1e-6)


def test_tokens_and_positions_are_confounded_and_have_no_rows(
    small: Setting, recording: Recording
) -> None:
    assert set(similarity.confounded(small)) == {"tokens", "indices"}
    rows = [row for row in similarity.measure(recording, small) if "_cka" in row.measure]
    subjects = {row.subject.split("@")[0] for row in rows}
    assert subjects == {"length", "opp_idx", "opp_idx-1", "reverse"}


def test_a_site_of_token_and_position_alone_gives_nothing(
    small: Setting, variables: Variables, recording: Recording
) -> None:
    assert site_similarities(recording["blocks.0.hook_resid_pre"], variables) == {}
    reference = small.reference_recording["blocks.0.hook_resid_pre"]
    assert site_similarities(reference, variables) == {}


def test_a_site_whose_rest_is_rounding_gives_nothing(
    variables: Variables, recording: Recording
) -> None:
    embedding = recording["blocks.0.hook_resid_pre"]
    assert site_similarities(torch.ones_like(embedding), variables) == {}
    assert site_similarities(torch.full_like(embedding, 0.1), variables) == {}
    assert site_similarities(torch.zeros_like(embedding), variables) == {}
    assert site_similarities(embedding + 1000, variables) == {}


@pytest.mark.parametrize("name", ["length", "opp_idx", "reverse"])
@pytest.mark.parametrize("share", [1.0, 0.01])
def test_a_variable_on_top_of_token_and_position_is_found_whole(
    name: str, share: float, small: Setting, variables: Variables
) -> None:
    generator, inputs = torch.Generator().manual_seed(0), small.inputs
    codes = inputs.variables[name].codes.clamp(min=0).long()
    site = share * torch.nn.functional.one_hot(codes).double()
    for values in (inputs.tokens, torch.arange(inputs.tokens.shape[1])):
        table = torch.randn(9, site.shape[-1], generator=generator, dtype=torch.float64)
        site = site + table[values]
    assert values_at(site, variables)[name] == pytest.approx(1, abs=1e-9)


def test_variables_that_determine_each_other_cannot_be_told_apart(
    variables: Variables, every: Mapping[str, torch.Tensor]
) -> None:
    for site in every.values():
        found = values_at(site, variables)
        assert found["opp_idx"] == pytest.approx(found["opp_idx-1"], abs=1e-9)


def test_noise_is_similar_to_nothing(small: Setting, variables: Variables) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(*small.inputs.tokens.shape, 16, generator=generator)
    assert max(values_at(noise, variables).values()) < 0.05


def written_at(label: str, small: Setting) -> str:
    """Return the first site where the reference's residual dimensions of a label hold anything."""
    columns = [
        i
        for i, name in enumerate(small.reference.compiled.residual_labels)
        if re.fullmatch(rf"{re.escape(label)}:.+", name)
    ]
    assert columns
    recording = small.reference_recording
    return next(
        site
        for site in residual_sites(small.reference.bridge)
        if recording[site][small.inputs.real][:, columns].abs().max() > 0.5
    )


def test_the_reference_holds_length_whole_where_tracr_writes_it(
    small: Setting, variables: Variables
) -> None:
    found = {
        site: values_at(small.reference_recording[site], variables)["length"]
        for site in residual_sites(small.reference.bridge)
    }
    assert written_at("length", small) == "blocks.0.hook_resid_post"
    assert found["blocks.0.hook_resid_mid"] < 0.6
    assert found["blocks.0.hook_resid_post"] == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("name", ["opp_idx", "opp_idx-1"])
def test_the_reference_holds_the_mirror_position_from_where_tracr_writes_it(
    name: str, small: Setting, variables: Variables
) -> None:
    sites = residual_sites(small.reference.bridge)
    first = sites.index(written_at("opp_idx", small))
    assert sites[first] == "blocks.1.hook_resid_post"
    found = [values_at(small.reference_recording[site], variables)[name] for site in sites]
    assert max(found[:first]) < 0.3
    assert min(found[first:]) > 0.6


def test_the_reference_holds_reverse_only_from_where_tracr_writes_it(
    small: Setting, variables: Variables
) -> None:
    sites = residual_sites(small.reference.bridge)
    first = sites.index(written_at("reverse", small))
    assert sites[first] == "blocks.3.hook_resid_mid"
    found = [values_at(small.reference_recording[site], variables)["reverse"] for site in sites]
    assert max(found[:first]) < 0.01
    assert min(found[first:]) > 0.5


def plain_weights(bridge: Any) -> dict[str, torch.Tensor]:
    """Return a NativeModel's weights from inside its bridge, under their own names."""
    state = bridge.original_model.named_parameters()
    return {name.replace("_original_component.", ""): value.detach() for name, value in state}


def test_a_rotated_reference_has_the_similarities_of_the_reference(
    small: Setting, variables: Variables
) -> None:
    shape = copy.copy(small.reference.bridge.cfg)
    rotation = torch.from_numpy(orthogonal(0, shape.d_model))
    weights = plain_weights(small.reference.bridge)
    for name, value in weights.items():
        writes = re.search(r"\.(attn\.o|mlp\.fc_out)\.", name)
        if writes:  # the residual is their rows' and their bias' space
            weights[name] = (rotation.T @ value.double()).float()
        elif value.dim() == 2:  # embeddings and readers: it is their columns' space
            weights[name] = (value.double() @ rotation).float()
    rotated = record(make_bridge(shape, weights), small.inputs, 2048)
    defined = small.inputs.defined
    wanted = small.reference_recording.logits.argmax(-1)[defined]
    assert torch.equal(rotated.logits.argmax(-1)[defined], wanted)
    for site in residual_sites(rotated.bridge):
        assert not torch.allclose(rotated[site], small.reference_recording[site], atol=0.1)
        got = values_at(rotated[site], variables)
        wanted_ = values_at(small.reference_recording[site], variables)
        assert got == pytest.approx(wanted_, abs=1e-3)


@pytest.fixture(scope="module")
def rows(small: Setting, recording: Recording) -> dict[tuple[str, str], Measurement]:
    return by_name(recording, small)


def by_name(recording: Recording, setting: Setting) -> dict[tuple[str, str], Measurement]:
    """Return the rows by the metric's short name and the subject."""
    return {
        (row.measure.removeprefix("similarity/"), row.subject): row
        for row in similarity.measure(recording, setting)
    }


def test_a_random_init_is_far_below_the_reference(
    rows: Mapping[tuple[str, str], Measurement],
) -> None:
    for name, reference in (("length", 0.99), ("opp_idx", 0.8), ("reverse", 0.6)):
        assert rows["best_deconfounded_cka_reference", name].value > reference
        control = rows["best_deconfounded_cka_random_init", name]
        assert rows["best_deconfounded_cka", name].value < 0.3
        assert control.ci_high is not None
        assert control.ci_high < 0.3


def test_the_best_site_is_the_highest_row_with_its_own_interval(
    small: Setting,
    variables: Variables,
    rows: Mapping[tuple[str, str], Measurement],
) -> None:
    for name in variables.columns:
        best = rows["best_deconfounded_cka", name]
        at_sites = [
            row for (measure, subject), row in rows.items()
            if measure == "deconfounded_cka" and subject.startswith(f"{name}@")
        ]  # fmt: skip
        assert len(at_sites) == 4
        highest = max(at_sites, key=lambda row: row.value)
        assert replace(best, measure="", subject="") == replace(highest, measure="", subject="")
        reference = [
            site_similarities(small.reference_recording[site], variables)[name]
            for site in residual_sites(small.reference.bridge)
        ]
        row = rows["best_deconfounded_cka_reference", name]
        assert (row.value, row.ci_low, row.ci_high) == max(reference)


def hand_made_controls(shape: Any, count: int) -> list[Any]:
    """Return random inits of a shape, made by the rule alone."""
    bridges = []
    for i in range(count):
        one = copy.copy(shape)
        one.seed = RANDOM_INIT_SEEDS + i
        bridges.append(make_bridge(one))
    return bridges


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_the_control_rows_are_of_models_of_the_learned_models_very_shape(
    direction: str, small: Setting, variables: Variables
) -> None:
    shape = copy.copy(small.shape)
    shape.attention_dir = direction
    setting = Setting(small.inputs, small.reference, shape, small.config)
    setting.once("variables", lambda: variables)
    rows = by_name(record(make_bridge(shape), small.inputs, 2048), setting)
    controls = [
        record(bridge, small.inputs, 2048)
        for bridge in hand_made_controls(shape, small.config.random_inits)
    ]
    sites = residual_sites(controls[0].bridge)
    for name in variables.columns:
        bests = [0.0] * len(controls)
        for site in sites:
            values = [values_at(control[site], variables)[name] for control in controls]
            row = rows["deconfounded_cka_random_init", f"{name}@{site}"]
            assert row.value == pytest.approx(np.mean(values), abs=1e-9)
            assert (row.ci_low, row.ci_high) == pytest.approx((min(values), max(values)), abs=1e-9)
            bests = [max(pair) for pair in zip(bests, values, strict=True)]
            assert row.value != rows["deconfounded_cka", f"{name}@{site}"].value
        row = rows["best_deconfounded_cka_random_init", name]
        assert row.value == pytest.approx(np.mean(bests), abs=1e-9)
        assert (row.ci_low, row.ci_high) == pytest.approx((min(bests), max(bests)), abs=1e-9)


def test_the_control_lines_are_the_same_at_every_checkpoint_and_for_every_run(
    small: Setting, rows: Mapping[tuple[str, str], Measurement]
) -> None:
    def control_lines(setting: Setting, seed: int) -> list[Measurement]:
        shape = copy.copy(setting.shape)
        shape.seed = seed
        found = by_name(record(make_bridge(shape), small.inputs, 2048), setting)
        return [row for (measure, _), row in found.items() if measure.endswith("random_init")]

    first = [row for (measure, _), row in rows.items() if measure.endswith("random_init")]
    assert len(first) == 4 * 4 + 4
    assert control_lines(small, 5) == first
    other_run = copy.copy(small.shape)
    other_run.seed = 6
    fresh = Setting(small.inputs, small.reference, other_run, small.config)
    assert control_lines(fresh, 6) == first


def test_an_attention_only_model_has_rows_after_each_layer_alone(small: Setting) -> None:
    shape = copy.copy(small.shape)
    shape.attn_only = True
    setting = Setting(small.inputs, small.reference, shape, small.config)
    rows = by_name(record(make_bridge(shape), small.inputs, 2048), setting)
    sites = {subject.split("@")[1] for _, subject in rows if "@" in subject}
    assert sites == {"blocks.0.hook_resid_post", "blocks.1.hook_resid_post"}
    for measure in ("deconfounded_cka", "deconfounded_cka_random_init"):
        assert sum(name == measure for name, _ in rows) == 2 * 4


def test_the_share_beyond_token_and_position_is_what_regression_leaves(
    small: Setting, variables: Variables, recording: Recording
) -> None:
    shares = {
        row.subject: row.value
        for row in similarity.measure(recording, small)
        if row.measure == "similarity/deconfounded_share"
    }
    assert list(shares) == residual_sites(recording.bridge)
    for site, share in shares.items():
        values = variables.cases(recording[site]).double()
        explained = LinearRegression().fit(variables.basis, values).predict(variables.basis)
        left = float(((values - torch.from_numpy(explained)) ** 2).sum())
        assert share == pytest.approx(left / float(((values - values.mean(0)) ** 2).sum()))
        assert 0 < share < 1
