"""Heatmaps of one checkpoint, for the W&B media panels.

They are drawn with Pillow: a matplotlib figure would take as long as measuring.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFont

from ..analysis.ablation_names import KINDS
from ..analysis.measurements import Measurement
from ..analysis.measures.emergence import CONTROLS
from ..analysis.measures.similarity import PLAIN
from ..analysis.measures.sparsity import MEANS, SHARES

MISSING = (205, 205, 205)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
CELL = (40, 22)  # width and height in pixels, including a line of one pixel between cells
SPACE = 10  # pixels around the picture and between its parts
BAR = 14  # width of the colour bar in pixels
BAR_LENGTH = 66  # smallest length of the colour bar in pixels
WRITTEN = 400  # largest number of cells for which values are written
TEXT, VALUE, TITLE = 13, 12, 15  # font sizes in pixels


By = Mapping[str, Sequence[Measurement]]  # the rows of each measure


@dataclass(frozen=True)
class HeatmapCells:
    """Where cells come from: the rows of a measure whose subjects `pattern` matches whole.

    The pattern's groups `row` and `column` are the cell's labels; `column` may be given instead.
    With `upper`, the value is the upper end of a row's interval, if it has one.
    """

    measure: str
    pattern: str
    column: str | None = None
    upper: bool = False

    def of(self, rows: By) -> dict[tuple[str, str], float]:
        """Return the cells' values by their row and column labels."""
        match, values = re.compile(self.pattern).fullmatch, {}
        for row in rows.get(self.measure, ()):
            if (matched := match(row.subject)) is not None:
                column = matched["column"] if self.column is None else self.column
                end = row.ci_high if self.upper else None
                values[matched["row"], column] = row.value if end is None else end
        return values


@dataclass(frozen=True)
class Heatmap:
    """One heatmap: its title, its colours between two bounds, and the sources of its cells.

    It is drawn only if any of the first `needed` sources has cells, so never of controls alone.
    """

    title: str
    colours: str
    bounds: tuple[float, float]
    cells: tuple[HeatmapCells, ...]
    needed: int = 1


ANY = r"(?P<row>.+)"
PAIR = r"(?P<row>[^~]+)~(?P<column>.+)"
VARIABLE = r"(?P<row>[^@]+)@(?P<column>.+)"
SINGLE = r"(?P<row>blocks\.(?:(?!\.length_|\.all$).)+)"
JOINT = r"(?P<row>(?!blocks\.)(?:(?!\.length_).)+|(?:(?!\.length_).)+\.all)"
LEARNED = r"(?P<row>(?!reference:)[^\[]+)"
REFERENCE = r"(?P<row>reference:[^\[]+)"
BEST, MATCHED = "similarity/best_deconfounded_cka", "attention/matched_overlap"
NEURONS = (*SHARES, *MEANS)


def _controls(measure: str) -> tuple[HeatmapCells, ...]:
    return tuple(
        HeatmapCells(f"{measure}{ending}", ANY, ending.strip("_").replace("_", " "), True)
        for ending in CONTROLS
    )


def _sites(name: str, title: str) -> Heatmap:
    cells = (HeatmapCells(f"similarity/site_{name}", PAIR),)
    return Heatmap(f"{title}: the reference's sites by the model's", "viridis", (0.0, 1.0), cells)


def _ablation(title: str, subjects: str) -> Heatmap:
    cells = tuple(HeatmapCells(f"ablation/{kind}_delta_exact", subjects, kind) for kind in KINDS)
    return Heatmap(title, "RdBu", (-1.0, 1.0), cells, len(cells))


HEATMAPS = {
    "similarity": Heatmap(
        "deconfounded CKA (last: at the best site the highest controls, and the reference itself)",
        "viridis",
        (0.0, 1.0),
        (
            HeatmapCells("similarity/deconfounded_cka", VARIABLE),
            *_controls(BEST),
            HeatmapCells(f"{BEST}_reference", ANY, "reference"),
        ),
    ),
    "sites": _sites("deconfounded_cka", "deconfounded CKA"),
    **{
        name: _sites(name, f"{name}, {about.partition(' (')[0]}, not discriminating")
        for name, about in PLAIN.items()
    },
    "attention": Heatmap(
        "attention in common: the reference's active heads by the model's (last: matched, highest "
        "controls)",
        "viridis",
        (0.0, 1.0),
        (
            HeatmapCells("attention/overlap", PAIR),
            HeatmapCells(MATCHED, ANY, "matched"),
            *_controls(MATCHED),
        ),
    ),
    "ablation": _ablation("change of exact accuracy when replaced", SINGLE),
    "joint": _ablation("change of exact accuracy when replaced together", JOINT),
    "sparsity": Heatmap(
        "MLP neurons of each layer, then of the reference's",
        "viridis",
        (0.0, 1.0),
        tuple(
            HeatmapCells(f"sparsity/{name}", whose, name)
            for whose in (LEARNED, REFERENCE)
            for name in NEURONS
        ),
        2 * len(NEURONS),
    ),
}


def heatmaps(rows: Iterable[Measurement]) -> dict[str, Image.Image]:
    """Return the heatmaps of a checkpoint's rows, by name; none for what was not measured."""
    by_measure, drawn = defaultdict[str, list[Measurement]](list), {}
    for row in rows:
        by_measure[row.measure].append(row)
    for name, picture in HEATMAPS.items():
        parts = [cells.of(by_measure) for cells in picture.cells]
        if any(parts[: picture.needed]):
            values = {place: value for cells in parts for place, value in cells.items()}
            image = heatmap(values, picture.title, picture.colours, picture.bounds)
            if image is not None:
                drawn[name] = image
    return drawn


def heatmap(
    values: Mapping[tuple[str, str], float], title: str, colours: str, bounds: tuple[float, float]
) -> Image.Image | None:
    """Return a picture of values by row and column labels; None without values.

    Labels are in order of first appearance. Cells without a value, or with NaN, are grey. Values
    beyond the `bounds` have the colour of the nearer bound. Values are written into the cells,
    except in very large grids.
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
    """Return the colours of a grid's values in a matplotlib colormap; NaN is grey.

    Raises:
        KeyError: there is no such colormap.
    """
    low, high = bounds
    there = ~np.isnan(grid)
    shares = np.clip((np.where(there, grid, low) - low) / (high - low), 0, 1)
    painted: np.ndarray = mpl.colormaps[colours](shares, bytes=True)[..., :3]
    return np.where(there[..., None], painted, np.array(MISSING, np.uint8))


def _enlarged(painted: UInt8[np.ndarray, "rows columns 3"]) -> Image.Image:
    """Return the cells enlarged, each with a white line at its right and lower edge."""
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

    Masks are cached: every checkpoint has the same labels, and drawing text takes most of the time.
    """
    font = _font(size)
    ascent, descent = font.getmetrics()
    mask = Image.new("L", (max(1, _width(text, size)), ascent + descent))
    ImageDraw.Draw(mask).text((0, 0), text, 255, font)
    return mask
