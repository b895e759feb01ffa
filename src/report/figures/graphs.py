"""Drawings of layered graphs; the dataflow of a program, from the inputs down to the output."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path as FilePath
from textwrap import fill

from fast_sugiyama import from_edges
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path

from ...data.rasp.text import edges
from ...data.tasks import Task
from ...infra.errors import UserError
from ...infra.files import faults_named, replacing

FORMATS = (".png", ".svg", ".pdf")
ROLES = {"value": ("#333333", "-"), "key": ("#d55e00", "--"), "query": ("#0072b2", ":")}
FILLS = {"input": "#dbe9f6", "step": "#ffffff", "output": "#ffe9c7"}
COLUMN, ROW = 1.5, 0.8  # inches between neighbouring boxes
APART = 0.08  # columns between arrows of different roles on the same path
BOX = 0.2  # rows from the centre of a box to its edge
LONGEST_NAME = 18

Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """The place of each variable, and the points of each arrow around the other boxes."""

    places: dict[str, Point]
    ways: dict[tuple[str, str], list[Point]]


def save_program_graph(task: Task, path: FilePath) -> None:
    """Draw the program of a task into a file: png, svg or pdf.

    Raises:
        UserError: the file has another type.
        FaultError: the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"picture '{path}' must end in one of {', '.join(FORMATS)}")
    with faults_named(f"write the picture '{path}'"), replacing(path) as partial:
        program_graph(task).savefig(partial, format=path.suffix[1:], dpi=130)


def program_graph(task: Task) -> Figure:
    """Return the figure: a box per variable, and an arrow per input of it, coloured by role."""
    arrows = edges(task.program)
    pairs = [(source, target) for source, target, _ in arrows]
    layout = layered(list(task.variables), pairs)
    figure, axes, width = canvas(layout)
    title = f"{task.name}: {task.about}" if task.about else task.name
    axes.set_title(fill(_plain(title), int(width * 12)), fontsize=10)
    for source, target, role in arrows:
        arrow(axes, layout.ways[source, target], role)
    for name, place in layout.places.items():
        _box(axes, task, name, place)
    roles_legend(figure)
    return figure


def canvas(layout: Layout, row: float = ROW) -> tuple[Figure, Axes, float]:
    """Return a figure of the size of a layout, its axes without a frame, and its width in inches.

    `row` is the height of a row in inches.
    """
    points = [*layout.places.values(), *(point for way in layout.ways.values() for point in way)]
    xs, ys = zip(*points, strict=True)
    width = max((max(xs) - min(xs) + 1) * COLUMN, 5.0)
    figure = Figure(figsize=(width, (max(ys) - min(ys) + 1) * row + 1), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(min(xs) - 0.6, max(xs) + 0.6)
    axes.set_ylim(min(ys) - 0.4, max(ys) + 0.4)
    return figure, axes, width


def roles_legend(figure: Figure) -> None:
    """Add a legend of the arrow colours below a figure."""
    handles = [Line2D([], [], color=c, ls=s, label=f"read as {r}") for r, (c, s) in ROLES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def layered(names: list[str], pairs: list[tuple[str, str]]) -> Layout:
    """Return a layered layout (Sugiyama et al. 1981), in columns and rows."""
    if not pairs:
        return Layout({name: (float(i), 0.0) for i, name in enumerate(names)}, {})
    numbers = {name: number for number, name in enumerate(names)}
    numbered = sorted({(numbers[source], numbers[target]) for source, target in pairs})
    made = from_edges(numbered, dummy_vertices=True, dummy_size=0.4, vertex_spacing=1)
    points: dict[int, Point] = {}
    following: dict[int, list[int]] = {}
    for placed, _, _, drawn in made:
        points |= {int(number): place for number, place in placed}
        for start, stop in drawn or ():
            following.setdefault(int(start), []).append(int(stop))
    rows = sorted({y for _, y in points.values()}, reverse=True)
    scale = _column(list(points.values()))
    at = {number: (x / scale, -float(rows.index(y))) for number, (x, y) in points.items()}
    ways = {}
    for number, name in enumerate(names):
        for step in following.get(number, []):
            way = [number, step]
            while way[-1] >= len(names):  # a bend of the arrow
                way += following[way[-1]]
            ways[name, names[way[-1]]] = [at[point] for point in way]
    return Layout({name: at[numbers[name]] for name in names if numbers[name] in at}, ways)


def _column(points: list[Point]) -> float:
    """Return the smallest distance between neighbours in a row."""
    gaps = [abs(x - z) for x, y in points for z, w in points if y == w and x != z]
    return min(gaps, default=1.0)


def arrow(axes: Axes, way: list[Point], role: str, width: float = 1.1) -> None:
    """Draw an arrow along a path, in the colour of its role."""
    colour, style = ROLES[role]
    shift = (list(ROLES).index(role) - 1) * APART
    points = [(x + shift, y) for x, y in way]
    points[-1] = (points[-1][0], points[-1][1] + BOX)  # end at the edge of the box
    vertices, codes = [points[0]], [int(Path.MOVETO)]
    for bend, after in pairwise(points[1:]):
        middle = ((bend[0] + after[0]) / 2, (bend[1] + after[1]) / 2)
        vertices += [bend, middle]
        codes += [int(Path.CURVE3), int(Path.CURVE3)]
    vertices.append(points[-1])
    codes.append(int(Path.LINETO))
    patch = FancyArrowPatch(
        path=Path(vertices, codes),
        arrowstyle="-|>",
        mutation_scale=9,
        color=colour,
        linestyle=style,
        linewidth=width,
    )
    axes.add_patch(patch)


def _box(axes: Axes, task: Task, name: str, place: Point) -> None:
    kind = "input" if name in ("tokens", "indices") else "step"
    kind = "output" if name == list(task.variables)[-1] else kind
    box(axes, name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…", place, kind)


def box(axes: Axes, text: str, place: Point, kind: str) -> None:
    """Draw the box of an input, a step or an output."""
    axes.text(
        *place,
        _plain(text),
        ha="center",
        va="center",
        fontsize=8,
        bbox={"boxstyle": "round,pad=0.35", "facecolor": FILLS[kind], "edgecolor": "#666666"},
        zorder=3,
    )


def _plain(text: str) -> str:
    """Escape a text so that matplotlib does not read it as mathematics."""
    return text.replace("$", r"\$")
