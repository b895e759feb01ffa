"""Heatmaps of one checkpoint, for the W&B media panels.

Drawn with Pillow: a figure of matplotlib's would cost as much as measuring.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFont

from ..analysis.measurements import Measurement

MISSING = (205, 205, 205)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
CELL = (40, 22)  # width and height in pixels, one of them a line between cells
SPACE = 10  # pixels around the picture and between its parts
BAR = 14  # pixels across the colour bar
BAR_LENGTH = 66  # pixels at least
WRITTEN = 400  # cells that a grid may have to show their values
TEXT, VALUE, TITLE = 13, 12, 15  # font sizes in pixels


@dataclass(frozen=True)
class Cells:
    """Where cells come from: the keys that `pattern` matches whole.

    Its groups `row` and `column` are the cell's labels; `column` may be given instead. `upper`
    takes the upper end of a row's interval, where it has one, for its value.
    """

    pattern: str
    column: str | None = None
    upper: bool = False

    def of(self, rows: Iterable[Measurement]) -> dict[tuple[str, str], float]:
        """Return the cells' values by their row and column labels."""
        match, found = re.compile(self.pattern).fullmatch, {}
        for row in rows:
            if (matched := match(row.key)) is not None:
                column = matched["column"] if self.column is None else self.column
                end = row.ci_high if self.upper else None
                found[matched["row"], column] = row.value if end is None else end
        return found


@dataclass(frozen=True)
class Heatmap:
    """One heatmap: its title, its colours between two bounds, and its cells, later columns last."""

    title: str
    colours: str
    bounds: tuple[float, float]
    cells: tuple[Cells, ...]


SIMILARITY = Heatmap(
    "deconfounded CKA (last: the highest control, at its best site)",
    "viridis",
    (0.0, 1.0),
    (
        Cells(r"similarity/(?P<row>.+)@(?P<column>.+)/deconfounded_cka"),
        Cells(r"similarity/(?P<row>.+)/best_deconfounded_cka_random_init", "random init", True),
        Cells(r"similarity/(?P<row>.+)/best_deconfounded_cka_other_task", "other task", True),
    ),
)
ABLATION = Heatmap(
    "change of exact accuracy when replaced",
    "RdBu",
    (-1.0, 1.0),
    (Cells(r"ablation/(?P<row>(?:(?!\.length_).)+)/(?P<column>\w+)_delta_exact"),),
)
HEATMAPS = {"similarity": SIMILARITY, "ablation": ABLATION}


def heatmaps(rows: Iterable[Measurement]) -> dict[str, Image.Image]:
    """Return the heatmaps of a checkpoint's rows by name; none of what was not measured."""
    rows, drawn = list(rows), {}
    for name, one in HEATMAPS.items():
        first, *more = (cells.of(rows) for cells in one.cells)
        for cells in more if first else ():  # controls alone are no picture
            first |= cells
        image = heatmap(first, one.title, one.colours, one.bounds)
        if image is not None:
            drawn[name] = image
    return drawn


def heatmap(
    values: Mapping[tuple[str, str], float], title: str, colours: str, bounds: tuple[float, float]
) -> Image.Image | None:
    """Return a picture of values by their row and column labels, or None of no values.

    Labels stand in the order of their first appearance. A cell without a value, or whose value
    is not a number, is grey; values beyond the `bounds` have the colour of the nearer one. The
    values are written into the cells of all but very large grids.
    """
    if not values:
        return None
    rows = list(dict.fromkeys(row for row, _ in values))
    columns = list(dict.fromkeys(column for _, column in values))
    grid = np.array([[values.get((r, c), np.nan) for c in columns] for r in rows], dtype=float)
    painted = coloured(grid, colours, bounds)

    left = 2 * SPACE + max(_width(row, TEXT) for row in rows)
    top = 2 * SPACE + TITLE
    right, bottom = left + CELL[0] * len(columns), top + CELL[1] * len(rows)
    ends = [f"{bound:g}" for bound in reversed(bounds)]
    bar = right + 2 * SPACE
    width = bar + BAR + SPACE // 2 + max(_width(end, TEXT) for end in ends) + SPACE
    below = max(_width(column, TEXT) for column in columns) + SPACE // 2
    bar_end = max(bottom, top + BAR_LENGTH)
    image = Image.new(
        "RGB",
        (max(width, 2 * SPACE + _width(title, TITLE)), max(bottom + below, bar_end) + SPACE),
        WHITE,
    )
    draw = ImageDraw.Draw(image)

    draw.text((SPACE, SPACE), title, BLACK, _font(TITLE))
    image.paste(_enlarged(painted), (left, top))
    for i, row in enumerate(rows):
        label = _written(row, TEXT)
        down = top + CELL[1] * i + (CELL[1] - label.height) // 2
        image.paste(BLACK, (left - SPACE // 2 - label.width, down), label)
    for i, column in enumerate(columns):
        label = _written(column, TEXT).transpose(Image.Transpose.ROTATE_90)
        place = (left + CELL[0] * i + (CELL[0] - label.width) // 2, bottom + SPACE // 2)
        image.paste(BLACK, place, label)
    if grid.size <= WRITTEN:
        _write_values(image, grid, painted, (left, top))

    scale = np.linspace(bounds[1], bounds[0], bar_end - top)[:, None]
    strip = np.repeat(coloured(scale, colours, bounds), BAR, axis=1)
    image.paste(Image.fromarray(strip), (bar, top))
    beside = bar + BAR + SPACE // 2
    draw.text((beside, top), ends[0], BLACK, _font(TEXT), anchor="lt")
    draw.text((beside, bar_end), ends[1], BLACK, _font(TEXT), anchor="lb")
    return image


def coloured(
    grid: Float64[np.ndarray, "rows columns"], colours: str, bounds: tuple[float, float]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return the colours of a grid's values by a colormap of matplotlib; grey where not a number.

    Raises:
        KeyError: there is no such colormap.
    """
    low, high = bounds
    there = ~np.isnan(grid)
    shares = np.clip((np.where(there, grid, low) - low) / (high - low), 0, 1)
    painted: np.ndarray = mpl.colormaps[colours](shares, bytes=True)[..., :3]
    return np.where(there[..., None], painted, np.array(MISSING, np.uint8))


def _enlarged(painted: UInt8[np.ndarray, "rows columns 3"]) -> Image.Image:
    """Return cells of full size, each with a white line at its right and lower edge."""
    cells = painted.repeat(CELL[1], axis=0).repeat(CELL[0], axis=1)
    cells[CELL[1] - 1 :: CELL[1]] = 255
    cells[:, CELL[0] - 1 :: CELL[0]] = 255
    return Image.fromarray(cells)


def _write_values(
    image: Image.Image,
    grid: Float64[np.ndarray, "rows columns"],
    painted: UInt8[np.ndarray, "rows columns 3"],
    corner: tuple[int, int],
) -> None:
    dark = painted @ np.array([0.299, 0.587, 0.114]) < 128
    for (i, j), value in np.ndenumerate(grid):
        if not np.isnan(value):
            text = _written(_number(value), VALUE)
            left = corner[0] + CELL[0] * j + (CELL[0] - text.width) // 2
            top = corner[1] + CELL[1] * i + (CELL[1] - text.height) // 2
            image.paste(WHITE if dark[i, j] else BLACK, (left, top), text)


def _number(value: float) -> str:
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text if len(text) <= 5 else f"{value:.0e}"


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow comes with FreeType"
    return font


@lru_cache(maxsize=4096)
def _width(text: str, size: int) -> int:
    left, _, right, _ = _font(size).getbbox(text)
    return int(np.ceil(max(right, right - left)))


@lru_cache(maxsize=4096)
def _written(text: str, size: int) -> Image.Image:
    """Return a mask of the text, as high as its font and as wide as it is.

    Kept, since every checkpoint has the same labels: writing is what a picture costs.
    """
    font = _font(size)
    ascent, descent = font.getmetrics()
    mask = Image.new("L", (max(1, _width(text, size)), ascent + descent))
    ImageDraw.Draw(mask).text((0, 0), text, 255, font)
    return mask
