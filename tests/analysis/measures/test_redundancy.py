"""Redundancy: compiled controls, and the greedy set against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import Rows, rows_of, varied, with_config, with_heads

from algomatch.analysis.ablation_names import KINDS
from algomatch.analysis.activations import Recording, record
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measures import ablation
from algomatch.analysis.measures.redundancy import (
    REDUNDANT_SET,
    Harm,
    grow,
    harmless,
    joint_sets,
    redundant,
    units,
    verdicts,
)
from algomatch.analysis.measures.redundancy import (
    rows_of as set_rows,
)
from algomatch.api.preparation import prepare
from algomatch.config.composition import compose
from algomatch.models.bridges import make_bridge
from algomatch.models.wiring import ATTENTION, HEAD, MLP, Component, Site, component_sites

MARGIN = 0.01
SMALL = ("task.vocabulary=[a,b]", "task.max_length=4", "model=2L", "model.d_model=16",
         "model.n_heads=2", "analysis.bootstrap=100")  # fmt: skip


def test_joint_sets_are_the_heads_of_each_layer_and_all_layers_but_one(
    small: MeasurementContext,
) -> None:
    bridge = make_bridge(varied(small.shape, n_layers=3, n_heads=2))
    sets = {
        component.name: {site.name for site in component.sites} for component in joint_sets(bridge)
    }
    wanted = {
        f"blocks.{n}.{HEAD}.all": {f"blocks.{n}.{HEAD}[{head}]" for head in range(2)}
        for n in range(3)
    }
    for hook, kept in itertools.product((ATTENTION, MLP), range(3)):
        others = {f"blocks.{n}.{hook}" for n in range(3) if n != kept}
        wanted[f"{hook}.all_but_{kept}"] = others
    assert sets == wanted
    one_head = make_bridge(varied(small.shape, n_layers=2, n_heads=1))
    assert joint_sets(one_head) == []  # every set would be a single site or the whole model
    attn_only = make_bridge(varied(small.shape, n_layers=3, n_heads=1, attn_only=True))
    names = [component.name for component in joint_sets(attn_only)]
    assert names == [f"{ATTENTION}.all_but_{kept}" for kept in range(3)]


def test_harm_is_counted_against_the_margin_kind_by_kind() -> None:
    harm = {"zero": 0.0, "mean": -0.01, "resample_within": -0.011, "resample_across": -1.0}
    assert harmless(harm, MARGIN) == ["zero", "mean"]
    assert not redundant(harm, MARGIN)
    assert redundant(harm, 1.0)
    assert redundant({"zero": 0.5}, 0.0)
    assert not redundant({"zero": -1e-9}, 0.0)


@pytest.mark.parametrize("solved", [True, False])
def test_the_word_redundant_is_kept_for_models_that_solve_the_task(solved: bool) -> None:
    judged = [(Component("one", (Site(0, MLP),)), {"zero": 0.0, "mean": -0.5}),
              (Component("other", (Site(1, MLP),)), {"zero": 0.0, "mean": 0.0})]  # fmt: skip
    rows = [(row.measure, row.subject, row.value, row.n) for row in verdicts(judged, 0.1, solved)]
    wanted = [
        ("ablation/harmless_kinds", "one", 1, 2),
        ("ablation/redundant", "one", 0, 2),
        ("ablation/harmless_kinds", "other", 2, 2),
        ("ablation/redundant", "other", 1, 2),
    ]
    assert rows == [row for row in wanted if solved or "redundant" not in row[0]]  # fmt: skip


Judge = Callable[[Component], Harm]


def monotone(layers: int, heads: int, kinds: int, groups: int, seed: int) -> Judge:
    """Return a harm that only grows with the ablated set.

    It adds the effect of each site, and of each group that is ablated as a whole.
    """
    generator, every = np.random.default_rng(seed), units_of(layers, heads)
    alone = generator.choice([0, 0, 0, 0.004, 0.02], size=(kinds, len(every)))
    fatal = [
        (set(generator.choice(len(every), size=min(len(every), 2 + i % 2), replace=False).tolist()),
         int(generator.integers(kinds)))
        for i in range(groups)
    ]  # fmt: skip

    def harm(component: Component) -> Harm:
        inside = {every.index(site) for site in component.sites}
        harms = alone[:, sorted(inside)].sum(1)
        for group, kind in fatal:
            harms[kind] += 0.3 * (group <= inside)
        return {str(kind): -float(value) for kind, value in enumerate(harms)}

    return harm


def units_of(layers: int, heads: int) -> list[Site]:
    sites = [Site(n, HEAD, head) for n in range(layers) for head in range(heads)]
    return [*sites, *(Site(n, MLP) for n in range(layers))]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(0, 2**31),
)
def test_the_grown_set_is_redundant_and_nothing_can_be_added(
    layers: int, heads: int, kinds: int, groups: int, seed: int
) -> None:
    harm = monotone(layers, heads, kinds, groups, seed)
    components = [Component.of(site) for site in units_of(layers, heads)]
    asked: list[Component] = []

    def counted(component: Component) -> Harm:
        asked.append(component)
        return harm(component)

    judged = [(component, harm(component)) for component in components]
    grown = grow(judged, MARGIN, counted)
    inside = set(grown.sites)
    assert grown.name == REDUNDANT_SET
    assert len(inside) == len(grown.sites)
    assert not inside or redundant(harm(grown), MARGIN)
    for component in components:
        if not set(component.sites) <= inside:
            larger = Component("larger", (*grown.sites, *component.sites))
            assert not redundant(harm(larger), MARGIN), component.name
    every = [component.sites[0] for component in components]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(every, size) for size in range(min(len(every), 7) + 1)
    )
    largest = max(
        (s for s in subsets if not s or redundant(harm(Component("s", s)), MARGIN)), key=len
    )
    assert len(inside) >= bool(largest)
    if len(largest) == len(every):
        assert inside == set(every)
        assert len(asked) <= 1  # the set of all is tried first
    assert len(asked) <= 2 * len(every)


def test_those_that_harm_least_are_tried_first() -> None:
    first, second, third = (Component.of(Site(0, HEAD, head)) for head in range(3))
    alone = {first.name: -0.009, second.name: 0.0, third.name: -0.004}

    def harm(component: Component) -> Harm:  # only the two least harmful may be ablated together
        names = {site.name for site in component.sites}
        pair = names == {second.name, third.name}
        return {"zero": -0.005 if pair else -0.5}

    judged = [(component, {"zero": alone[component.name]}) for component in (first, second, third)]
    assert set(grow(judged, MARGIN, harm).sites) == {*second.sites, *third.sites}


def test_what_harms_alone_is_never_tried_with_others() -> None:
    harmful, layer = Component.of(Site(0, HEAD, 0)), Component.of(Site(0, ATTENTION))

    def harm(component: Component) -> Harm:
        raise AssertionError(component.name)

    judged = [(harmful, {"zero": 0.0, "mean": -0.5}), (layer, {"zero": 0.0, "mean": 0.0})]
    assert grow(judged, MARGIN, harm).sites == ()
    assert units(judged) == judged[:1]
    measurements = set_rows(judged, grow(judged, MARGIN, harm), MARGIN)
    rows = {(row.measure, row.subject): row.value for row in measurements}
    assert rows == {
        ("ablation/in_redundant_set", harmful.name): 0.0,
        ("ablation/redundant_share", "model"): 0.0,
        ("ablation/redundant_alone_share", "model"): 0.0,
    }


@pytest.fixture(scope="module", params=["reverse", "frac_prevs", "previous_token", "shift_by"])
def compiled(request: pytest.FixtureRequest, small: MeasurementContext) -> MeasurementContext:
    if request.param == "reverse":
        return small
    return prepare(compose([f"task={request.param}", *SMALL]))


def test_of_a_compiled_model_just_what_tracr_left_empty_is_redundant(
    compiled: MeasurementContext,
) -> None:
    source = compiled.reference_source
    assert isinstance(source, Recording)
    rows = rows_of(ablation.measure(source, compiled))
    silent = {
        site.name
        for site in component_sites(source.bridge)
        if not source[site.name.partition("[")[0]].any()
    }
    single_units = [p for p in component_sites(source.bridge) if p.hook != ATTENTION]
    for site in component_sites(source.bridge):
        row = rows["redundant", site.name]
        assert (row.value, row.n) == (float(site.name in silent), len(KINDS)), site.name
    for site in single_units:
        assert rows["in_redundant_set", site.name].value == float(site.name in silent)
    share = sum(site.name in silent for site in single_units) / len(single_units)
    assert 0 < share < 1
    assert rows["redundant_share", "model"].value == share
    assert rows["redundant_alone_share", "model"].value == share
    for kind in KINDS:
        assert rows[f"{kind}_delta_exact", REDUNDANT_SET].value == 0
        assert rows[f"{kind}_delta_loss", REDUNDANT_SET].value == 0
    assert rows["harmless_kinds", REDUNDANT_SET].value == len(KINDS)
    assert rows["redundant", REDUNDANT_SET].value == 1


LAST = (3, 0)  # the head that moves the tokens


def copied(context: MeasurementContext, copies: int) -> Rows:
    """Ablate a reference with several copies of its last head, each at full strength."""
    placed = {(n, 0): [0] for n in range(3)} | {LAST: list(range(copies))}
    bridge = with_heads(context.reference.bridge, placed, copies)
    recording = record(bridge, context.inputs, 2048)
    wanted = context.inputs.targets[context.inputs.defined]
    assert (recording.logits.argmax(-1)[context.inputs.defined] == wanted).all()
    return rows_of(ablation.measure(recording, context))


def test_heads_that_stand_in_for_each_other_are_redundant_alone_and_not_together(
    small: MeasurementContext,
) -> None:
    rows, names = copied(small, 3), [f"blocks.3.{HEAD}[{head}]" for head in range(3)]
    for name in names:  # two copies outvote the third
        assert rows["redundant", name].value == 1
        for kind in KINDS:
            assert rows[f"{kind}_delta_exact", name].value == 0
    together = f"blocks.3.{HEAD}.all"
    assert rows["redundant", together].value == 0
    assert rows["harmless_kinds", together].value == 0
    for kind in KINDS:
        assert rows[f"{kind}_delta_exact", together].value < -0.5
    # No two can go: two resampled copies outvote the third.
    assert sum(rows["in_redundant_set", name].value for name in names) == 1
    alone, jointly = rows["redundant_alone_share", "model"], rows["redundant_share", "model"]
    assert alone.value - jointly.value == pytest.approx(2 / alone.n)
    assert rows["redundant", REDUNDANT_SET].value == 1


def test_kinds_disagree_on_one_of_two_copies(small: MeasurementContext) -> None:
    rows = copied(small, 2)
    for name in (f"blocks.3.{HEAD}[{head}]" for head in range(2)):
        assert rows["zero_delta_exact", name].value == 0  # the other copy decides
        assert (
            rows["resample_within_delta_exact", name].value < -0.1
        )  # a resampled copy is as strong
        assert 0 < rows["harmless_kinds", name].value < len(KINDS)
        assert rows["redundant", name].value == 0


def test_nothing_is_called_redundant_in_a_model_that_does_not_solve_the_task(
    small: MeasurementContext,
) -> None:
    recording = record(make_bridge(small.shape), small.inputs, 2048)
    rows = rows_of(ablation.measure(recording, small))
    names = {name for name, _ in rows}
    assert "harmless_kinds" in names
    assert not {name for name in names if "redundant" in name}
    assert not {subject for _, subject in rows if REDUNDANT_SET in subject}


def test_what_counts_as_solved_is_a_share_of_the_inputs(small: MeasurementContext) -> None:
    reference = small.reference_source
    assert isinstance(reference, Recording)
    wrong = reference.logits.clone()
    wrong[-2:] = 0
    wrong[-2:, :, 0] = -1  # two of the 120 inputs
    spoilt = Recording(reference.bridge, reference.inputs, wrong, reference.activations)
    share = 118 / 120
    for solved, said in ((share, True), (share + 1e-3, False)):
        rows = rows_of(ablation.measure(spoilt, with_config(small, solved=solved)))
        assert (("redundant_share", "model") in rows) == said
        assert ("redundant", "blocks.0.hook_mlp_out") in rows or not said


def test_a_wide_margin_makes_everything_redundant(small: MeasurementContext) -> None:
    rows = rows_of(ablation.measure(small.reference_source, with_config(small, margin=1.0)))
    assert rows["redundant_share", "model"].value == 1
    assert {row.value for (name, _), row in rows.items() if name == "redundant"} == {1}
