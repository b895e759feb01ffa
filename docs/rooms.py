"""Writes what docs/architecture.md shows of the source: its modules, and the picture of its rooms.

`make tables` writes both anew. A room is a package directly below `src/`. The picture has
an arc for each pair of rooms of which the first imports the second, in the first one's colour; the
thicker the arc, the more imports.
"""

from __future__ import annotations

import ast
import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

DOCS = Path(__file__).resolve().parent
SRC = DOCS.parent / "src"
PAGE, PICTURE = DOCS / "architecture.md", DOCS / "images" / "rooms.svg"
BEGIN, END = "<!-- modules: written by docs/rooms.py -->\n", "<!-- end of modules -->\n"
WIDTH, LEFT, TOP, ROW, BOX = 820, 20, 20, 52, 430  # in pixels, of the picture
COLOURS = (  # of the arcs of a room, in turn
    "#1f5fa8", "#b3541e", "#2a7f3f", "#8c2d7a", "#7a6a00", "#a3212e", "#00788a", "#5b4bb5",
)  # fmt: skip


def main() -> None:
    """Write the list of modules into the page, and the picture beside it."""
    PAGE.write_text(with_modules(PAGE.read_text()))
    PICTURE.write_text(picture(rooms(), imports_between_rooms()))


def rooms() -> list[str]:
    """Return the rooms, highest first, as the import contract has them."""
    settings = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "rooms")
    return [str(layer) for layer in layers]


def imports_between_rooms() -> Counter[tuple[str, str]]:
    """Return how many modules of a room import one of another room, by (importer, imported)."""
    graph = grimp.build_graph("algomatch", cache_dir=None)
    counts = Counter[tuple[str, str]]()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = room_of(importer), room_of(imported)
            if pair[0] != pair[1] and all(pair):
                counts[pair] += 1
    return counts


def room_of(module: str) -> str:
    """Return the room of a module; nothing for those at the top of the package.

    >>> room_of("algomatch.data.tasks"), room_of("algomatch.__main__")
    ('data', '')
    """
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (SRC / parts[1]).is_dir() else ""


def first_line(path: Path) -> str:
    """Return the first line of a source file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def picture(names: Sequence[str], counts: Mapping[tuple[str, str], int]) -> str:
    """Return the picture as SVG: rooms from top to bottom, an arc for each pair that imports."""
    height = 2 * TOP + ROW * len(names)
    middle = {name: TOP + ROW * i + (ROW - 12) / 2 for i, name in enumerate(names)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" role="img">',
        "<title>The rooms of the source, and which imports which</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for name in names:
        y = middle[name] - (ROW - 12) / 2
        parts += [
            f'<rect x="{LEFT}" y="{y:g}" width="{BOX}" height="{ROW - 12}" rx="5" fill="#eef2f8" '
            'stroke="#35507a"/>',
            f'<text x="{LEFT + 10}" y="{y + 17:g}" font-size="14" font-weight="bold">{name}</text>',
            f'<text x="{LEFT + 10}" y="{y + 33:g}" font-size="11" fill="#333333">'
            f"{escape(shortened(first_line(SRC / name / '__init__.py')))}</text>",
        ]
    leaving = {name: sum(importer == name for importer, _ in counts) for name in names}
    arriving = {name: sum(imported == name for _, imported in counts) for name in names}
    left, reached = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    ordered = sorted(counts, key=lambda pair: (names.index(pair[0]), names.index(pair[1])))
    for importer, imported in ordered:
        distance = names.index(imported) - names.index(importer)
        start = spread(middle[importer], left[importer], leaving[importer])
        end = spread(middle[imported], reached[imported], arriving[imported])
        left[importer] += 1
        reached[imported] += 1
        reach = LEFT + BOX + 40 + 30 * distance
        colour = COLOURS[names.index(importer) % len(COLOURS)]
        x, thick = LEFT + BOX, 0.7 + math.log2(1 + counts[importer, imported]) / 2
        parts.append(
            f'<path d="M{x},{start:.1f} C{reach},{start:.1f} {reach},{end:.1f} {x + 2},{end:.1f}" '
            f'fill="none" stroke="{colour}" stroke-opacity="0.7" stroke-width="{thick:.2f}">'
            f"<title>{importer} imports {imported}: {counts[importer, imported]}</title></path>"
            f'<path d="M{x},{end:.1f} l8,-3.5 v7 z" fill="{colour}"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def shortened(text: str) -> str:
    """Return a sentence that fits into a room's box."""
    return text if len(text) <= 72 else f"{text[:71].rstrip()}…"


def spread(middle: float, index: int, count: int) -> float:
    """Return the height of one of several ends of arcs at a room."""
    return middle + (ROW - 20) * ((index + 0.5) / count - 0.5)


def with_modules(page: str) -> str:
    """Return the page with the list of modules as the source has them now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{chr(10).join(module_lines())}\n\n{END}{after}"


def module_lines() -> Iterator[str]:
    """Yield the lines of the list: every room, lowest first, and what its modules hold."""
    yield "```"
    yield "src/"
    for room in reversed(rooms()):
        yield from folder_lines(SRC / room, 1)
    yield "```"


def folder_lines(folder: Path, depth: int) -> Iterator[str]:
    """Yield the lines of a package: itself, its modules, and the packages in it."""
    yield line(f"{folder.name}/", first_line(folder / "__init__.py"), depth)
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield line(path.name, first_line(path), depth + 1)
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from folder_lines(inner, depth + 1)


def line(name: str, text: str, depth: int) -> str:
    """Return a line of the list: a name, and what it holds."""
    return f"{'  ' * depth}{name:<{34 - 2 * depth}} {text}".rstrip()


if __name__ == "__main__":
    main()
