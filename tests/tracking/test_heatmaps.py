"""Heatmaps: read back from their pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from algomatch.analysis.measurements import Measurement
from algomatch.analysis.setting import Setting
from algomatch.analysis.suite import measure
from algomatch.models.bridges import make_bridge
from algomatch.tracking.heatmaps import CELL, MISSING, SPACE, TITLE, heatmap, heatmaps

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
    found: np.ndarray = mpl.colormaps[name](shares, bytes=True)[..., :3]
    return found.astype(int)


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
    row, column, title = (text if long == one else "x" for one in ("row", "column", "title"))
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
def rows(small: Setting) -> list[Measurement]:
    return list(measure(make_bridge(small.shape), small))


def test_similarity_is_variables_by_sites_with_the_controls_last(rows: list[Measurement]) -> None:
    first = next(row.subject for row in rows if row.measure == BEST)
    other = Measurement(f"{BEST}_other_task", first, 0.3, 1, 0.2, 0.45)
    with_other = [other, *rows]
    at_sites = [row for row in rows if row.measure == "similarity/deconfounded_cka"]
    variables = list(dict.fromkeys(row.subject.partition("@")[0] for row in at_sites))
    sites = list(dict.fromkeys(row.subject.partition("@")[2] for row in at_sites))
    values = {row.subject: row.value for row in at_sites}
    highest = {row.subject: row.ci_high for row in rows if row.measure == f"{BEST}_random_init"}
    seen = cells(heatmaps(with_other)["similarity"], len(variables), len(sites) + 2)
    expected = [
        [*(values[f"{variable}@{site}"] for site in sites), highest[variable] or math.nan]
        for variable in variables
    ]
    np.testing.assert_array_equal(seen[:, :-1], colours(expected, "viridis", *UNIT))
    np.testing.assert_array_equal(seen[0, -1], colours([[0.45]], "viridis", *UNIT)[0, 0])
    assert [tuple(colour) for colour in seen[1:, -1]] == [MISSING] * (len(variables) - 1)


def test_ablation_is_components_by_kinds_without_single_lengths(rows: list[Measurement]) -> None:
    one_length = Measurement("ablation/zero_delta_exact", "blocks.0.hook_attn_out.length_2", -1, 1)
    another_kind = Measurement("ablation/new_kind_delta_exact", "blocks.0.hook_attn_out", 0.5, 1)
    components = list(dict.fromkeys(r.subject for r in rows if r.measure.startswith("ablation/")))
    kinds = ("zero", "mean")
    values = {(r.measure, r.subject): r.value for r in rows}
    expected = [
        [values[f"ablation/{kind}_delta_exact", component] for kind in kinds]
        for component in components
    ]
    image = heatmaps([one_length, *rows, another_kind])["ablation"]
    seen = cells(image, len(components), 3)
    np.testing.assert_array_equal(seen[:, :2], colours(expected, "RdBu", -1, 1))
    attention = components.index("blocks.0.hook_attn_out")
    np.testing.assert_array_equal(seen[attention, 2], colours([[0.5]], "RdBu", -1, 1)[0, 0])
    height = image.size[1]
    without = heatmaps([*rows, another_kind])["ablation"].size[1]
    assert height == without, "a component of one length is no row"


def test_what_was_not_measured_is_not_drawn(rows: list[Measurement]) -> None:
    groups = {row.measure.partition("/")[0] for row in rows}
    assert {"similarity", "ablation"} <= groups
    accuracy = [row for row in rows if row.measure.startswith("accuracy/")]
    assert heatmaps(accuracy) == {}
    controls = [row for row in rows if row.measure == f"{BEST}_random_init"]
    assert controls
    assert heatmaps(controls) == {}
