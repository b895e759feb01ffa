"""Heatmaps: read back from their pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from algomatch.analysis.ablation_names import KINDS
from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measurements import Measurement
from algomatch.analysis.measures.sparsity import MEANS, SHARES
from algomatch.analysis.measures.suite import measure
from algomatch.models.bridges import make_bridge
from algomatch.tracking.heatmaps import (
    CELL,
    HEATMAPS,
    MISSING,
    SPACE,
    TITLE,
    heatmap,
    heatmaps,
)

TOP = 2 * SPACE + TITLE
BEST = "similarity/best_deconfounded_cka"
UNIT = (0.0, 1.0)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def cells(image: Image.Image, rows: int, columns: int) -> np.ndarray:
    """The colour in a corner of each cell, where no value is written."""
    seen = pixels(image)
    left = int(np.flatnonzero((seen[TOP] != 255).any(-1))[0])
    down, across = TOP + CELL[1] * np.arange(rows), left + CELL[0] * np.arange(columns)
    grid: np.ndarray = seen[down[:, None], across[None, :]]
    return grid


def colours(values: Sequence[Sequence[float]], name: str, low: float, high: float) -> np.ndarray:
    shares = (np.array(values) - low) / (high - low)
    shades: np.ndarray = mpl.colormaps[name](shares, bytes=True)[..., :3]
    return shades.astype(int)


def drawn(values: dict[tuple[str, str], float], title: str = "title") -> Image.Image:
    image = heatmap(values, title, "viridis", UNIT)
    assert image is not None
    return image


def test_cells_have_the_colours_of_their_values_in_the_labels_order() -> None:
    image = drawn({("b", "y"): 0.1, ("b", "x"): 0.9, ("a", "x"): 0.5, ("a", "y"): 0.0})
    np.testing.assert_array_equal(
        cells(image, 2, 2), colours([[0.1, 0.9], [0.0, 0.5]], "viridis", *UNIT)
    )


def test_missing_cells_are_grey_and_values_beyond_the_bounds_have_the_nearer_colour() -> None:
    image = drawn(
        {("a", "x"): math.nan, ("a", "y"): 7.0, ("b", "y"): -math.inf, ("c", "y"): math.inf}
    )
    seen = cells(image, 3, 2)
    assert [tuple(seen[i, 0]) for i in range(3)] == [MISSING] * 3
    np.testing.assert_array_equal(seen[:, 1], colours([[1.0, 0.0, 1.0]], "viridis", *UNIT)[0])


def test_no_values_are_no_picture() -> None:
    assert heatmap({}, "title", "viridis", UNIT) is None


@pytest.mark.parametrize("length", [1, 30, 90])
@pytest.mark.parametrize("long", ["row", "column", "title"])
def test_nothing_is_cut_off(long: str, length: int) -> None:
    text = "W" * length
    row, column, title = (text if long == part else "x" for part in ("row", "column", "title"))
    seen = pixels(drawn({(row, column): 0.5}, title))
    edge = SPACE // 2
    for border in (seen[:edge], seen[-edge:], seen[:, :edge], seen[:, -edge:]):
        assert (border == 255).all()
    ink = (seen != 255).any(-1)
    longer = pixels(drawn({(row + "W" * (long == "row"), column + "W" * (long == "column")): 0.5},
                          title + "W" * (long == "title")))  # fmt: skip
    assert (longer != 255).any(-1).sum() > ink.sum()


def test_values_are_written_so_that_they_can_be_seen() -> None:
    for value in (0.0, 0.3, 0.6, 1.0):
        image = drawn({("a", "x"): value})
        [[colour]] = cells(image, 1, 1)
        seen = pixels(image)
        left = int(np.flatnonzero((seen[TOP] != 255).any(-1))[0])
        inside = seen[TOP : TOP + CELL[1] - 1, left : left + CELL[0] - 1].mean(-1)
        assert abs(inside - colour.mean()).max() > 90, value


def test_a_very_large_grid_is_coloured_alone() -> None:
    values = {(f"row {i}", f"column {j}"): 0.5 for i in range(25) for j in range(25)}
    seen = pixels(drawn(values))
    left = int(np.flatnonzero((seen[TOP] != 255).any(-1))[0])
    inside = seen[TOP : TOP + CELL[1] - 1, left : left + CELL[0] - 1]
    assert len(np.unique(inside.reshape(-1, 3), axis=0)) == 1


@pytest.fixture(scope="module")
def rows(small: MeasurementContext) -> list[Measurement]:
    config = replace(small.config, solved=0.0)  # else there are joint sets of models that solve it
    context = MeasurementContext(small.inputs, small.reference, small.shape, config, small.others)
    return list(measure(make_bridge(small.shape), context))


def values_of(rows: Sequence[Measurement], name: str) -> dict[str, float]:
    return {row.subject: row.value for row in rows if row.measure == name}


def parts(subjects: Iterable[str], separator: str) -> tuple[list[str], list[str]]:
    pairs = [subject.split(separator) for subject in subjects]
    return list(dict.fromkeys(row for row, _ in pairs)), list(dict.fromkeys(at for _, at in pairs))


def test_similarity_is_variables_by_sites_then_both_controls_and_the_reference(
    rows: list[Measurement],
) -> None:
    first = next(row.subject for row in rows if row.measure == BEST)
    other = Measurement(f"{BEST}_other_task", first, 0.3, 1, 0.2, 0.45)
    given = [other, *(row for row in rows if row.measure != f"{BEST}_other_task")]
    values = values_of(rows, "similarity/deconfounded_cka")
    variables, sites = parts(values, "@")
    highest = {row.subject: row.ci_high for row in rows if row.measure == f"{BEST}_random_init"}
    ceilings = values_of(rows, f"{BEST}_reference")
    seen = cells(heatmaps(given)["similarity"], len(variables), len(sites) + 3)
    expected = [
        [*(values[f"{variable}@{site}"] for site in sites), highest[variable] or math.nan]
        for variable in variables
    ]
    np.testing.assert_array_equal(seen[:, :-2], colours(expected, "viridis", *UNIT))
    np.testing.assert_array_equal(seen[0, -2], colours([[0.45]], "viridis", *UNIT)[0, 0])
    assert [tuple(colour) for colour in seen[1:, -2]] == [MISSING] * (len(variables) - 1)
    own = colours([[ceilings[variable]] for variable in variables], "viridis", *UNIT)
    np.testing.assert_array_equal(seen[:, -1:], own)


@pytest.mark.parametrize("name", ["sites", "plain_cka", "rsa", "procrustes", "svcca"])
def test_sites_are_the_references_by_the_models(rows: list[Measurement], name: str) -> None:
    measured = "deconfounded_cka" if name == "sites" else name
    values = values_of(rows, f"similarity/site_{measured}")
    theirs, ours = parts(values, "~")
    assert len(theirs) > len(ours) > 1
    expected = [[values.get(f"{site}~{at}", math.nan) for at in ours] for site in theirs]
    assert not np.isnan(expected).any()
    seen = cells(heatmaps(rows)[name], len(theirs), len(ours))
    np.testing.assert_array_equal(seen, colours(expected, "viridis", *UNIT))
    assert ("not discriminating" in HEATMAPS[name].title) == (name != "sites")


def test_attention_is_active_heads_by_heads_then_matched_and_the_controls(
    rows: list[Measurement],
) -> None:
    values = values_of(rows, "attention/overlap")
    theirs, ours = parts(values, "~")
    matched = values_of(rows, "attention/matched_overlap")
    seen = cells(heatmaps(rows)["attention"], len(theirs) + 1, len(ours) + 3)
    expected = [[*(values[f"{head}~{at}"] for at in ours), matched[head]] for head in theirs]
    np.testing.assert_array_equal(seen[:-1, :-2], colours(expected, "viridis", *UNIT))
    ends = [
        row.ci_high or 0.0
        for ending in ("_random_init", "_other_task")
        for row in rows
        if row.measure == f"attention/matched_overlap{ending}"
    ]
    assert len(ends) == 2
    model = colours([[matched["model"], *ends]], "viridis", *UNIT)
    np.testing.assert_array_equal(seen[-1:, -3:], model)


def test_single_components_and_sets_are_apart_each_by_kinds_without_single_lengths(
    rows: list[Measurement],
) -> None:
    images = heatmaps(rows)
    deltas = [row for row in rows if row.measure.endswith("_delta_exact")]
    whole = list(dict.fromkeys(row.subject for row in deltas if ".length_" not in row.subject))
    assert len(whole) < len({row.subject for row in deltas})
    joint = [
        subject
        for subject in whole
        if not subject.startswith("blocks.") or subject.endswith(".all")
    ]
    singles = [subject for subject in whole if subject not in joint]
    assert joint
    for name, components in (("ablation", singles), ("joint", joint)):
        expected = [
            [values_of(rows, f"ablation/{kind}_delta_exact")[component] for kind in KINDS]
            for component in components
        ]
        seen = cells(images[name], len(components), len(KINDS))
        np.testing.assert_array_equal(seen, colours(expected, "RdBu", -1, 1))
    one_more = Measurement("ablation/zero_delta_exact", "redundant_set.length_2", -1.0, 1)
    assert heatmaps([*rows, one_more])["joint"].size == images["joint"].size
    the_set = Measurement("ablation/zero_delta_exact", "redundant_set", -1.0, 1)
    grown = heatmaps([*rows, the_set])["joint"].size[1] - images["joint"].size[1]
    assert grown in (0, CELL[1])  # 0 where the colour bar is longer


def test_sparsity_is_layers_by_figures_with_the_references_below(rows: list[Measurement]) -> None:
    names = [*SHARES, *MEANS]
    layers = [s for s in values_of(rows, "sparsity/active_share") if "[" not in s]
    ours = [layer for layer in layers if not layer.startswith("reference:")]
    theirs = [layer for layer in layers if layer.startswith("reference:")]
    assert len(ours) == 3
    assert len(theirs) > 2
    by_name = {name: values_of(rows, f"sparsity/{name}") for name in names}
    expected = np.array(
        [[by_name[name].get(layer, math.nan) for name in names] for layer in [*ours, *theirs]]
    )
    seen = cells(heatmaps(rows)["sparsity"], len(layers), len(names))
    there = ~np.isnan(expected)
    painted = colours(np.where(there, expected, 0.0).tolist(), "viridis", *UNIT)
    np.testing.assert_array_equal(seen[there], painted[there])
    assert (seen[~there] == MISSING).all()


def test_what_was_not_measured_is_not_drawn(rows: list[Measurement]) -> None:
    assert list(heatmaps(rows)) == list(HEATMAPS)
    accuracy = [row for row in rows if row.measure.startswith("accuracy/")]
    assert heatmaps(accuracy) == {}
    controls = [
        row for row in rows if row.measure.endswith(("_random_init", "_other_task", "_reference"))
    ]
    assert len({row.measure.partition("/")[0] for row in controls}) > 1
    assert heatmaps(controls) == {}


def test_a_model_without_neurons_still_has_the_references(rows: list[Measurement]) -> None:
    own = [row for row in rows if row.measure.startswith("sparsity/")]
    reference = [row for row in own if row.subject.startswith("reference:")]
    assert heatmaps(reference).keys() == {"sparsity"}
