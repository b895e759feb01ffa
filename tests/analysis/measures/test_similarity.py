"""Similarity to the program and reference: against other implementations and controls."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from support import plain
from support.models import Rows, orthogonal, rotated, rows_of, site_as_recording, with_config
from support.plain import Array, gram_cka, one_hot, residuals

from algomatch.analysis.activations import Recording, record, residual_sites
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.controls.other_tasks import other_references
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures import similarity
from algomatch.analysis.measures.similarity import SiteSimilarities, cases_of, compare
from algomatch.analysis.statistics import jackknife_interval
from algomatch.config.composition import compose
from algomatch.data.inputs import Variable, input_set
from algomatch.data.outputs import IGNORE
from algomatch.data.tasks import make_task
from algomatch.models.bridges import make_bridge
from algomatch.models.shapes import RANDOM_INIT_SEEDS

seeds = st.integers(0, 2**31)
COMPARABLE = ("length", "opp_idx", "opp_idx-1", "reverse")
SITE = "blocks.0.hook_resid_post"
PLAIN: Mapping[str, Callable[[Array, Array], float]] = {
    "plain_cka": gram_cka, "procrustes": plain.procrustes, "svcca": plain.svcca
}  # fmt: skip


@pytest.fixture(scope="module")
def recording(small: MeasurementContext) -> Recording:
    return record(make_bridge(small.shape), small.inputs, 2048)


@pytest.fixture(scope="module")
def reference(small: MeasurementContext) -> Recording:
    source = small.reference_source
    assert isinstance(source, Recording)
    return source


@pytest.fixture(scope="module")
def every(recording: Recording, reference: Recording) -> dict[str, torch.Tensor]:
    """Residuals of a random init and of the reference, by a unique name."""
    return {f"{of.bridge.cfg.n_layers}L {site}": of[site] for of in (recording, reference)
            for site in residual_sites(of.bridge)}  # fmt: skip


def found_at(site: torch.Tensor, context: MeasurementContext) -> SiteSimilarities:
    """The comparison of a site that holds these values with the program."""
    return compare(site_as_recording(site, context), context)


def values_at(site: torch.Tensor, context: MeasurementContext) -> dict[str, float]:
    return {name: value[0] for (name, _), value in found_at(site, context).variables.items()}


def everything_at(site: torch.Tensor, context: MeasurementContext) -> dict[tuple[str, str], float]:
    """All similarities of a site, to variables and reference sites, except the sampled RSA."""
    comparison = found_at(site, context)
    values = {("variable", name): value[0] for (name, _), value in comparison.variables.items()}
    for measure, pairs in comparison.sites.items():
        if measure != "rsa":
            values |= {(measure, theirs): value[0] for (theirs, _), value in pairs.items()}
    return values


def at_cases(site: torch.Tensor, context: MeasurementContext) -> Array:
    return np.asarray(site[context.inputs.defined].double().numpy())


def codes_of(name: str, context: MeasurementContext) -> Any:
    return context.inputs.variables[name].codes[context.inputs.defined].numpy()


def test_a_similarity_is_the_cka_of_data_deconfounded_apart(
    small: MeasurementContext, every: Mapping[str, torch.Tensor]
) -> None:
    for site, values in every.items():
        rest = residuals(at_cases(values, small), small.inputs)
        similarities = values_at(values, small)
        assert set(similarities) == set(COMPARABLE)
        for name, value in similarities.items():
            code = residuals(one_hot(codes_of(name, small)), small.inputs)
            assert value == pytest.approx(gram_cka(code, rest), abs=1e-7), (site, name)


def test_sites_are_compared_as_numpy_and_scipy_compare_them(
    small: MeasurementContext, recording: Recording, reference: Recording
) -> None:
    comparison = compare(recording, small)
    pairs = [(site, other) for site in residual_sites(reference.bridge)
             for other in residual_sites(recording.bridge)]  # fmt: skip
    assert len(pairs) == 8 * 4
    for measure in similarity.OF_SITES:
        assert list(comparison.sites[measure]) == pairs
    for theirs, ours in pairs:
        x, y = at_cases(reference[theirs], small), at_cases(recording[ours], small)
        rests = residuals(x, small.inputs), residuals(y, small.inputs)
        got = {name: comparison.sites[name][theirs, ours][0] for name in similarity.OF_SITES}
        assert got["deconfounded_cka"] == pytest.approx(gram_cka(*rests), abs=1e-6)
        for name, by_hand in PLAIN.items():
            assert got[name] == pytest.approx(by_hand(x, y), abs=1e-6), (name, theirs, ours)


def test_rsa_is_of_one_position_of_each_sampled_input(
    small: MeasurementContext, recording: Recording, reference: Recording
) -> None:
    at, inputs = cases_of(small.inputs, small.config.seed).sampled, small.inputs
    assert (at > 0).all()  # fewer inputs than the sample's limit
    assert inputs.defined[torch.arange(len(inputs)), at].all()
    every_row = torch.arange(len(inputs))
    pairs = compare(recording, small).sites["rsa"]
    for (theirs, ours), value in pairs.items():
        sides = [of[every_row, at].double().numpy() for of in (reference[theirs], recording[ours])]
        assert value[0] == pytest.approx(plain.rsa(*sides), abs=1e-5)


def test_of_many_inputs_a_sample_is_compared_by_rsa() -> None:
    config = compose(["task=shift_by", "task.vocabulary=[a,b,c,d]", "task.max_length=5"]).task
    inputs = input_set(make_task(config), config)
    cases = cases_of(inputs, 0)
    rows = torch.nonzero(cases.sampled >= 0)[:, 0]
    assert len(rows) == similarity.RSA_CASES < len(inputs)
    assert inputs.defined[rows, cases.sampled[rows]].all()
    assert not torch.equal(cases_of(inputs, 1).sampled, cases.sampled)
    sizes = torch.bincount(cases.groups)
    assert len(sizes) == similarity.GROUPS
    assert int(sizes.max() - sizes.min()) <= 1


def jackknife_by_hand(code: Array, rest: Array, group: Any) -> tuple[float, float]:
    left_out = [gram_cka(code[group != g], rest[group != g]) for g in range(similarity.GROUPS)]
    low, high = jackknife_interval(gram_cka(code, rest), torch.tensor(left_out).double())
    return max(0.0, low), min(1.0, high)


def groups_of_cases(context: MeasurementContext) -> Any:
    groups = cases_of(context.inputs, context.config.seed).groups
    return groups[torch.nonzero(context.inputs.defined)[:, 0]].numpy()


def test_the_interval_is_the_jackknife_over_groups_of_inputs(
    small: MeasurementContext, every: Mapping[str, torch.Tensor]
) -> None:
    group = groups_of_cases(small)
    for site, values in list(every.items())[::3]:
        rest = residuals(at_cases(values, small), small.inputs)
        for (name, _), estimate in found_at(values, small).variables.items():
            code = residuals(one_hot(codes_of(name, small)), small.inputs)
            wanted = jackknife_by_hand(code, rest, group)
            assert estimate[1:] == pytest.approx(wanted, abs=1e-6), (site, name)


def test_the_interval_of_two_sites_and_of_the_matched_ones_too(
    small: MeasurementContext, recording: Recording, reference: Recording
) -> None:
    group, comparison, inputs = groups_of_cases(small), compare(recording, small), small.inputs
    ours = {s: residuals(at_cases(recording[s], small), inputs) for s in comparison.order}
    theirs = {s: residuals(at_cases(reference[s], small), inputs)
              for s in residual_sites(reference.bridge)}  # fmt: skip
    best = []
    for site, x in theirs.items():
        values = {other: gram_cka(x, y) for other, y in ours.items()}
        highest = max(values, key=lambda other: values[other])
        best.append((x, ours[highest]))
        got = comparison.sites["deconfounded_cka"][site, highest]
        wanted = values[highest], *jackknife_by_hand(x, ours[highest], group)
        assert got == pytest.approx(wanted, abs=1e-6), site
    assert comparison.together is not None
    value = float(np.mean([gram_cka(x, y) for x, y in best]))
    left_out = [
        np.mean([gram_cka(x[group != g], y[group != g]) for x, y in best])
        for g in range(similarity.GROUPS)
    ]
    low, high = jackknife_interval(value, torch.tensor(np.array(left_out)))
    assert comparison.together == pytest.approx((value, low, high), abs=1e-6)
    assert comparison.matched("deconfounded_cka") == comparison.together
    for name in similarity.PLAIN:
        pairs = comparison.sites[name]
        highs = [max(pairs[site, other][0] for other in comparison.order) for site in theirs]
        matched = comparison.matched(name)
        assert matched is not None
        assert matched[0] == pytest.approx(np.mean(highs))
        assert matched[1:] == (None, None)


@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_similarity_does_not_depend_on_the_basis_of_the_site(
    seed: int, small: MeasurementContext, every: Mapping[str, torch.Tensor]
) -> None:
    generator = np.random.default_rng(seed)
    for values in list(every.values())[::3]:
        site, width = values.double(), values.shape[-1]
        wanted = everything_at(site, small)
        turned = site @ torch.from_numpy(orthogonal(seed, width))
        permuted = site[..., torch.from_numpy(generator.permutation(width))]
        shifted = 7 * site + torch.from_numpy(generator.normal(size=width))
        for moved in (turned, permuted, shifted):
            assert everything_at(moved, small) == pytest.approx(wanted, abs=1e-6)


def moved_reference(
    small: MeasurementContext, reference: Recording, turn: Any
) -> MeasurementContext:
    """A context in which only the reference's residual stream is transformed."""
    held = {
        name: turn(values.double()) if "resid" in name else values
        for name, values in reference.activations.items()
    }
    context = with_config(small)
    context.__dict__["reference_source"] = replace(reference, activations=held)
    return context


def test_similarity_does_not_depend_on_the_basis_of_the_reference(
    small: MeasurementContext, recording: Recording, reference: Recording
) -> None:
    width = reference.bridge.cfg.d_model
    rotation = torch.from_numpy(orthogonal(0, width))
    order = torch.from_numpy(np.random.default_rng(0).permutation(width))
    wanted = compare(recording, small)
    for turn in (lambda x: x @ rotation, lambda x: x[..., order], lambda x: 3 * x + 1):
        comparison = compare(recording, moved_reference(small, reference, turn))
        for measure, pairs in wanted.sites.items():
            got = {pair: value[0] for pair, value in comparison.sites[measure].items()}
            values = {pair: value[0] for pair, value in pairs.items()}
            tolerance = 1e-3 if measure == "rsa" else 1e-6  # rounding breaks near-ties
            assert got == pytest.approx(values, abs=tolerance), measure


@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_similarity_does_not_depend_on_the_order_of_the_inputs(
    seed: int, small: MeasurementContext, recording: Recording, reference: Recording
) -> None:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(small.inputs)))
    inputs = small.inputs.at(order)
    context = MeasurementContext(inputs, small.reference, small.shape, small.config)
    context.__dict__["reference_source"] = replace(reference.at(order), inputs=inputs)
    for site in residual_sites(recording.bridge):
        wanted = everything_at(recording[site], small)
        got = everything_at(recording[site][order], context)
        assert got == pytest.approx(wanted, abs=1e-9)


def test_similarity_does_not_depend_on_the_names_of_the_tokens_and_values(
    small: MeasurementContext, every: Mapping[str, torch.Tensor]
) -> None:
    inputs = small.inputs

    def renamed(variable: Variable) -> Variable:
        codes = len(variable.values) - 1 - variable.codes
        return replace(variable, codes=torch.where(variable.defined, codes, IGNORE))

    names = {name: renamed(variable) for name, variable in inputs.variables.items()}
    turned = replace(inputs, tokens=4 - inputs.tokens, variables=names)
    context = MeasurementContext(turned, small.reference, small.shape, small.config)
    context.__dict__["reference_source"] = replace(small.reference_source, inputs=turned)
    for site in list(every.values())[::3]:
        assert values_at(site, context) == pytest.approx(values_at(site, small), abs=1e-9)


def test_tokens_and_positions_are_confounded_and_have_no_rows(
    small: MeasurementContext, recording: Recording
) -> None:
    assert set(similarity.confounded(small)) == {"tokens", "indices"}
    rows = list(similarity.measure(recording, small))
    subjects = {row.subject.split("@")[0] for row in rows if "@" in row.subject}
    best = {row.subject for row in rows if "best_" in row.measure}
    assert subjects == best == set(COMPARABLE)


def test_deconfounded_cka_is_blind_to_all_that_is_linear_in_token_and_position(
    small: MeasurementContext, every: Mapping[str, torch.Tensor]
) -> None:
    generator, inputs = torch.Generator().manual_seed(0), small.inputs
    for site in list(every.values())[::3]:
        wanted, moved = everything_at(site, small), site.double()
        for values in (inputs.tokens, torch.arange(inputs.tokens.shape[1])):
            table = torch.randn(9, site.shape[-1], generator=generator, dtype=torch.float64)
            moved = moved + 3 * table[values]
        got = everything_at(moved, small)
        kinds = {True: "blind", False: "seeing"}
        apart: dict[str, float] = {"blind": 0.0, "seeing": 0.0}
        for key, value in wanted.items():
            kind = kinds[key[0] in ("variable", "deconfounded_cka")]
            apart[kind] = max(apart[kind], abs(got[key] - value))
        assert apart["blind"] < 1e-6
        assert apart["seeing"] > 0.05


def test_a_site_of_token_and_position_alone_has_no_deconfounded_values(
    small: MeasurementContext, recording: Recording, reference: Recording
) -> None:
    for values in (recording["blocks.0.hook_resid_pre"], reference["blocks.0.hook_resid_pre"]):
        comparison = found_at(values, small)
        assert not comparison.variables
        assert not comparison.sites["deconfounded_cka"]
        assert comparison.together is None
        assert len(comparison.sites["plain_cka"]) == 8


def test_a_site_whose_rest_is_rounding_gives_nothing(
    small: MeasurementContext, recording: Recording
) -> None:
    embedding = recording["blocks.0.hook_resid_pre"]
    for values in (torch.ones_like(embedding), torch.full_like(embedding, 0.1),
                   torch.zeros_like(embedding), embedding + 1000):  # fmt: skip
        assert values_at(values, small) == {}
    constant = found_at(torch.zeros_like(embedding), small)
    assert not any(constant.sites.values())
    assert constant.shares == {SITE: 0.0}


@pytest.mark.parametrize("name", ["length", "opp_idx", "reverse"])
@pytest.mark.parametrize("share", [1.0, 0.01])
def test_a_variable_on_top_of_token_and_position_is_found_whole(
    name: str, share: float, small: MeasurementContext
) -> None:
    generator, inputs = torch.Generator().manual_seed(0), small.inputs
    codes = inputs.variables[name].codes.clamp(min=0).long()
    site = share * torch.nn.functional.one_hot(codes).double()
    for values in (inputs.tokens, torch.arange(inputs.tokens.shape[1])):
        table = torch.randn(9, site.shape[-1], generator=generator, dtype=torch.float64)
        site = site + table[values]
    assert values_at(site, small)[name] == pytest.approx(1, abs=1e-9)


def test_variables_that_determine_each_other_cannot_be_told_apart(
    small: MeasurementContext, every: Mapping[str, torch.Tensor]
) -> None:
    for site in every.values():
        similarities = values_at(site, small)
        assert similarities["opp_idx"] == pytest.approx(similarities["opp_idx-1"], abs=1e-9)


def test_noise_is_similar_to_nothing(small: MeasurementContext) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(*small.inputs.tokens.shape, 16, generator=generator)
    assert max(values_at(noise, small).values()) < 0.05


def written_at(label: str, small: MeasurementContext) -> str:
    """Return the first site where the reference's dimensions of a label are not 0."""
    columns = [
        i
        for i, name in enumerate(small.reference.compiled.residual_labels)
        if re.fullmatch(rf"{re.escape(label)}:.+", name)
    ]
    assert columns
    reference = small.reference_source.at(slice(0, len(small.inputs)))
    return next(
        site
        for site in residual_sites(small.reference.bridge)
        if reference[site][small.inputs.real][:, columns].abs().max() > 0.5
    )


def test_the_reference_holds_length_whole_where_tracr_writes_it(
    small: MeasurementContext, reference: Recording
) -> None:
    by_site = {
        site: values_at(reference[site], small)["length"]
        for site in residual_sites(small.reference.bridge)
    }
    assert written_at("length", small) == "blocks.0.hook_resid_post"
    assert by_site["blocks.0.hook_resid_mid"] < 0.6
    assert by_site["blocks.0.hook_resid_post"] == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("name", ["opp_idx", "opp_idx-1"])
def test_the_reference_holds_the_mirror_position_from_where_tracr_writes_it(
    name: str, small: MeasurementContext, reference: Recording
) -> None:
    sites = residual_sites(small.reference.bridge)
    first = sites.index(written_at("opp_idx", small))
    assert sites[first] == "blocks.1.hook_resid_post"
    similarities = [values_at(reference[site], small)[name] for site in sites]
    assert max(similarities[:first]) < 0.3
    assert min(similarities[first:]) > 0.6


def test_the_reference_holds_reverse_only_from_where_tracr_writes_it(
    small: MeasurementContext, reference: Recording
) -> None:
    sites = residual_sites(small.reference.bridge)
    first = sites.index(written_at("reverse", small))
    assert sites[first] == "blocks.3.hook_resid_mid"
    similarities = [values_at(reference[site], small)["reverse"] for site in sites]
    assert max(similarities[:first]) < 0.01
    assert min(similarities[first:]) > 0.5


def test_a_rotated_reference_has_the_similarities_of_the_reference(
    small: MeasurementContext, reference: Recording
) -> None:
    turned = record(rotated(small.reference.bridge, 0), small.inputs, 2048)
    defined = small.inputs.defined
    wanted = reference.logits.argmax(-1)[defined]
    assert torch.equal(turned.logits.argmax(-1)[defined], wanted)
    for site in residual_sites(turned.bridge):
        assert not torch.allclose(turned[site], reference[site], atol=0.1)
        got = values_at(turned[site], small)
        assert got == pytest.approx(values_at(reference[site], small), abs=1e-3)


@pytest.fixture(scope="module")
def rows(small: MeasurementContext, recording: Recording) -> Rows:
    return rows_of(similarity.measure(recording, small))


def test_a_random_init_is_far_below_the_reference(
    rows: Rows,
) -> None:
    for name, reference in (("length", 0.99), ("opp_idx", 0.8), ("reverse", 0.6)):
        assert rows["best_deconfounded_cka_reference", name].value > reference
        control = rows["best_deconfounded_cka_random_init", name]
        assert rows["best_deconfounded_cka", name].value < 0.3
        assert control.ci_high is not None
        assert control.ci_high < 0.3


def test_the_best_site_is_the_highest_row_with_its_own_interval(
    small: MeasurementContext, rows: Rows, reference: Recording
) -> None:
    own = compare(reference, small)
    for name in COMPARABLE:
        best = rows["best_deconfounded_cka", name]
        at_sites = [
            row for (measure, subject), row in rows.items()
            if measure == "deconfounded_cka" and subject.startswith(f"{name}@")
        ]  # fmt: skip
        assert len(at_sites) == 4
        highest = max(at_sites, key=lambda row: row.value)
        assert replace(best, measure="", subject="") == replace(highest, measure="", subject="")
        row = rows["best_deconfounded_cka_reference", name]
        wanted = max(value for (variable, _), value in own.variables.items() if variable == name)
        assert (row.value, row.ci_low, row.ci_high) == wanted


def test_the_matched_rows_are_of_each_of_the_references_sites_with_its_best(
    small: MeasurementContext, rows: Rows, recording: Recording, reference: Recording
) -> None:
    comparison = compare(recording, small)
    for measure in similarity.OF_SITES:
        row = rows[f"matched_{measure}", "model"]
        assert (row.value, row.ci_low, row.ci_high) == comparison.matched(measure)
        own = rows[f"matched_{measure}_reference", "model"]
        assert own.value == pytest.approx(1, abs=1e-6)  # each site equals itself
        for (theirs, ours), value in comparison.sites[measure].items():
            row = rows[f"site_{measure}", f"{theirs}~{ours}"]
            assert (row.value, row.ci_low, row.ci_high) == value
            assert row.n == int(small.inputs.defined.sum())


def test_only_deconfounded_cka_tells_a_random_init_from_the_reference(rows: Rows) -> None:
    for measure in similarity.OF_SITES:
        control = rows[f"matched_{measure}_random_init", "model"]
        assert control.ci_high is not None
        high = 0.4 if measure == "deconfounded_cka" else 1
        assert 0 < control.value <= control.ci_high < high
    assert rows["matched_plain_cka_random_init", "model"].value > 0.4


def hand_made_controls(shape: Any, count: int) -> list[Any]:
    """Return random inits of a shape, built here from the seed rule."""
    bridges = []
    for i in range(count):
        variant = copy.copy(shape)
        variant.seed = RANDOM_INIT_SEEDS + i
        bridges.append(make_bridge(variant))
    return bridges


def test_the_rows_of_other_tasks_are_of_their_compiled_programs(
    small: MeasurementContext, rows: Rows
) -> None:
    config = compose(["task.vocabulary=[a,b,c]", "task.max_length=4"]).task
    others = other_references(small.inputs, config, 2)
    comparisons = [
        compare(record(reference.bridge, small.inputs, 2048), small) for reference in others
    ]
    assert len(comparisons) == 2
    for measure in similarity.OF_SITES:
        values = [value[0] for comparison in comparisons if (value := comparison.matched(measure))]
        row = rows[f"matched_{measure}_other_task", "model"]
        assert row.value == pytest.approx(np.mean(values), abs=1e-9)
        assert (row.ci_low, row.ci_high) == pytest.approx((min(values), max(values)), abs=1e-9)
    for name in COMPARABLE:
        values = [value[0] for comparison in comparisons if (value := comparison.best(name))]
        row = rows["best_deconfounded_cka_other_task", name]
        assert row.value == pytest.approx(np.mean(values), abs=1e-9)
        assert row.value < rows["best_deconfounded_cka_reference", name].value - 0.2


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_the_control_rows_are_of_models_of_the_learned_models_very_shape(
    direction: str, small: MeasurementContext
) -> None:
    shape = copy.copy(small.shape)
    shape.attention_dir = direction
    context = MeasurementContext(small.inputs, small.reference, shape, small.config)
    rows = rows_of(similarity.measure(record(make_bridge(shape), small.inputs, 2048), context))
    controls = [
        record(bridge, small.inputs, 2048)
        for bridge in hand_made_controls(shape, small.config.random_inits)
    ]
    of_controls = [
        {site: values_at(control[site], small) for site in residual_sites(control.bridge)}
        for control in controls
    ]
    for name in COMPARABLE:
        for site in residual_sites(controls[0].bridge):
            values = [by_site[site][name] for by_site in of_controls]
            row = rows["deconfounded_cka_random_init", f"{name}@{site}"]
            assert row.value == pytest.approx(np.mean(values), abs=1e-9)
            assert (row.ci_low, row.ci_high) == pytest.approx((min(values), max(values)), abs=1e-9)
            assert row.value != rows["deconfounded_cka", f"{name}@{site}"].value
        bests = [max(at[name] for at in by_site.values()) for by_site in of_controls]
        row = rows["best_deconfounded_cka_random_init", name]
        assert row.value == pytest.approx(np.mean(bests), abs=1e-9)
        assert (row.ci_low, row.ci_high) == pytest.approx((min(bests), max(bests)), abs=1e-9)
    for measure in similarity.OF_SITES:
        matched = [
            value[0] for control in controls if (value := compare(control, small).matched(measure))
        ]
        row = rows[f"matched_{measure}_random_init", "model"]
        assert row.value == pytest.approx(np.mean(matched), abs=1e-9)
        ends = min(matched), max(matched)
        assert (row.ci_low, row.ci_high) == pytest.approx(ends, abs=1e-9)


def test_the_control_lines_are_the_same_at_every_checkpoint_and_for_every_run(
    small: MeasurementContext, rows: Rows
) -> None:
    def control_lines(context: MeasurementContext, seed: int) -> list[Measurement]:
        shape = copy.copy(context.shape)
        shape.seed = seed
        measured = rows_of(
            similarity.measure(record(make_bridge(shape), small.inputs, 2048), context)
        )
        return [row for (measure, _), row in measured.items() if measure.endswith("random_init")]

    first = [row for (measure, _), row in rows.items() if measure.endswith("random_init")]
    by_name = Counter(row.measure.partition("/")[2] for row in first)
    assert by_name["deconfounded_cka_random_init"] == 4 * 4  # variables by sites
    assert by_name["best_deconfounded_cka_random_init"] == 4
    of_model = {name for name in by_name if name.startswith(("matched_", "mean_"))}
    assert {by_name[name] for name in of_model} == {1}
    assert of_model == {f"matched_{name}_random_init" for name in similarity.OF_SITES} | {
        "mean_deconfounded_cka_random_init"
    }
    assert sum(by_name.values()) == 4 * 4 + 4 + len(of_model)
    assert control_lines(small, 5) == first
    other_run = copy.copy(small.shape)
    other_run.seed = 6
    fresh = MeasurementContext(small.inputs, small.reference, other_run, small.config)
    assert control_lines(fresh, 6) == first


def test_an_attention_only_model_has_rows_after_each_layer_alone(small: MeasurementContext) -> None:
    shape = copy.copy(small.shape)
    shape.attn_only = True
    context = MeasurementContext(small.inputs, small.reference, shape, small.config)
    rows = rows_of(similarity.measure(record(make_bridge(shape), small.inputs, 2048), context))
    sites = {subject.split("@")[1] for _, subject in rows if "@" in subject}
    assert sites == {"blocks.0.hook_resid_post", "blocks.1.hook_resid_post"}
    for measure in ("deconfounded_cka", "deconfounded_cka_random_init"):
        assert sum(name == measure for name, _ in rows) == 2 * 4


def test_the_share_beyond_token_and_position_is_what_regression_leaves(
    small: MeasurementContext, recording: Recording
) -> None:
    shares = {
        row.subject: row.value
        for row in similarity.measure(recording, small)
        if row.measure == "similarity/deconfounded_share"
    }
    assert list(shares) == residual_sites(recording.bridge)
    design = plain.confounds(small.inputs)
    for site, share in shares.items():
        values = recording[site][small.inputs.defined].double()
        explained = LinearRegression().fit(design, values).predict(design)
        left = float(((values - torch.from_numpy(explained)) ** 2).sum())
        assert share == pytest.approx(left / float(((values - values.mean(0)) ** 2).sum()))
        assert 0 < share < 1


def test_a_number_rescaled_even_negatively_counts_once(small: MeasurementContext) -> None:
    codes = small.inputs.variables["length"].codes
    values = {"number": (1.0, 2.0, 4.0, 9.0), "minus": (-3.0, -5.0, -9.0, -19.0),
              "other": (1.0, 2.0, 4.0, 8.0)}  # fmt: skip
    variables = {name: Variable(codes, numbers, True) for name, numbers in values.items()}
    inputs = replace(small.inputs, variables=variables)
    assert similarity._distinct(inputs, list(values)) == ["number", "other"]


@pytest.mark.parametrize("of", ["the reference", "a random init"])
def test_columns_that_are_the_same_are_taken_once_and_change_nothing(
    of: str, small: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compared() -> tuple[int, SiteSimilarities]:
        context = with_config(small, random_inits=1)
        bridge = context.reference.bridge if of == "the reference" else make_bridge(small.shape)
        return similarity.program(context).side.width, compare(context.observe(bridge), context)

    width, whole = compared()
    monkeypatch.setattr(similarity, "ALL_COLUMNS", 0)
    fewer, same = compared()
    sites = residual_sites(small.reference.bridge)
    d_model = small.reference.bridge.cfg.d_model
    assert width - fewer > (len(sites) - 2) * d_model  # nearly every dimension is kept once
    for figures, other in ((whole.variables, same.variables), *(
        (whole.sites[name], same.sites[name]) for name in similarity.OF_SITES
    )):  # fmt: skip
        assert figures.keys() == other.keys()
        for key, value in figures.items():
            assert other[key] == pytest.approx(value, abs=1e-9), key
    assert same.mean == pytest.approx(whole.mean, abs=1e-9)
    assert same.shares == pytest.approx(whole.shares, abs=1e-9)


def test_a_site_has_the_columns_of_what_was_written_up_to_it(small: MeasurementContext) -> None:
    bridge, part = small.reference.bridge, record(small.reference.bridge, small.inputs, 2048)
    columns = similarity.Sites.of(bridge)
    assert columns.width == len(columns.places) * bridge.cfg.d_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "ALL_COLUMNS", 0)
        columns = similarity.Sites.of(bridge, start=3)
    taken = torch.cat([torch.empty(int(small.inputs.defined.sum()), 3),
                       *columns.columns(part, small.inputs.defined)], dim=1)  # fmt: skip
    assert taken.shape[1] == columns.width
    for site, place in columns.places.items():
        values = part[site][small.inputs.defined]
        there = values[:, (values != 0).any(0)]
        own = taken[:, place]
        assert torch.equal(own[:, (own != 0).any(0)], there)
