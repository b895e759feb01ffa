"""Heatmaps of one checkpoint, for the W&B media panels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..analysis.measurements import Measurement


def similarity_heatmap(rows: Sequence[Measurement]) -> Image.Image | None:
    """Return deconfounded CKA, variables by sites, or None where it was not measured."""
    values = {}
    for row in rows:
        if row.measure == "similarity/deconfounded_cka":
            variable, _, site = row.subject.partition("@")
            values[variable, site] = row.value
    return _heatmap(values, "deconfounded CKA", "viridis", (0.0, 1.0))


def ablation_heatmap(rows: Sequence[Measurement]) -> Image.Image | None:
    """Return the change of exact accuracy, components by ablation kind, or None."""
    values = {}
    for row in rows:
        group, _, name = row.measure.partition("/")
        kind, _, effect = name.partition("_delta_")
        if group == "ablation" and effect == "exact":
            values[row.subject, kind] = row.value
    return _heatmap(values, "change of exact accuracy", "RdBu", (-1.0, 1.0))


def _heatmap(
    values: Mapping[tuple[str, str], float], title: str, colours: str, bounds: tuple[float, float]
) -> Image.Image | None:
    if not values:
        return None
    rows = list(dict.fromkeys(row for row, _ in values))
    columns = list(dict.fromkeys(column for _, column in values))
    grid = np.array([[values.get((r, c), np.nan) for c in columns] for r in rows])
    figure = Figure(figsize=(2.6 + 0.55 * len(columns), 1.2 + 0.3 * len(rows)), layout="tight")
    axes = figure.add_subplot()
    image = axes.imshow(grid, cmap=colours, vmin=bounds[0], vmax=bounds[1], aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_title(title, fontsize=9)
    figure.colorbar(image)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return Image.open(content)
