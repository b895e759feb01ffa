"""Charts of a page as Plotly JSON: curves over training steps, with their legends.

Colours are names (`c0`, `c1`, ..., `grey`, `text`) that the page replaces by its theme's colours.
Steps are drawn at log10(1 + step), so that step 0 has a place.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...analysis.measurements import Measurement
from ...analysis.measures.emergence import CONTROLS
from ...hypotheses.row_values import curves, top
from ..figures.panels import COLOURS
from .blocks import Chart, LegendEntry

DASHES = ("solid", "dash", "dot", "dashdot")
CONTROL_DASHES = dict(zip(CONTROLS, ("dot", "dashdot"), strict=True))
CONTROL_WORDS = dict(zip(CONTROLS, ("highest random init", "highest other task"), strict=True))
STEP_AXIS = "training step (log scale)"
DIGITS = 5  # significant digits of a value


def colour(place: int) -> str:
    """Return the colour name of a line."""
    return f"c{place % len(COLOURS)}"


def dash_of(place: int) -> str:
    """Return the dash of a line: solid for the first lines, others once the colours repeat."""
    return DASHES[place // len(COLOURS) % len(DASHES)]


def plain(text: str) -> str:
    """Escape a text for Plotly, which reads tags and entities as markup.

    >>> plain("<b>a & b</b>")
    '&lt;b&gt;a &amp; b&lt;/b&gt;'
    """
    return html.escape(text, quote=False)


def placed(step: float) -> float:
    """Return the x coordinate of a step."""
    return round(math.log10(1 + step), 4)


def rounded(value: float | None) -> float | None:
    """Return a value rounded for a chart; None, which is a gap, if it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


@dataclass
class Lines:
    """A chart of lines over training steps, added one by one."""

    name: str
    title: str
    alt: str
    axis: str
    span: tuple[float, float] | None = (-0.03, 1.03)
    log: bool = False
    traces: list[dict[str, Any]] = field(default_factory=list)
    keys: list[LegendEntry] = field(default_factory=list)
    steps: set[int] = field(default_factory=set)

    def add(
        self,
        words: str,
        steps: Sequence[int],
        values: Sequence[float],
        tone: str,
        dash: str = "solid",
        width: float = 2,
        ends: tuple[Sequence[float], Sequence[float]] | None = None,
        told: Sequence[str] = (),
        legend: bool = True,
        marks: bool = True,
    ) -> None:
        """Add a line with its band; `told` has a text per point, shown with its step and value."""
        self.steps.update(steps)
        at = [placed(step) for step in steps]
        if ends is not None and len(steps) > 1:
            low, high = ([rounded(end) for end in each] for each in ends)
            self.traces.append({
                "x": [*at, *reversed(at)], "y": [*low, *reversed(high)], "mode": "lines",
                "fill": "toself", "fillcolor": f"band:{tone}", "line": {"width": 0},
                "hoverinfo": "skip",
            })  # fmt: skip
        about = [f"step {step}{f', {more}' if more else ''}"
                 for step, more in zip(steps, told or [""] * len(steps), strict=True)]  # fmt: skip
        self.traces.append({
            "x": at, "y": [rounded(value) for value in values], "text": about,
            "mode": "lines+markers" if marks else "lines",
            "marker": {"size": 5, "color": tone}, "line": {"color": tone, "width": width,
                                                          "dash": dash},
            "hovertemplate": f"%{{y:.4g}} {plain(words)}<br>%{{text}}<extra></extra>",
        })  # fmt: skip
        if legend:
            self.keys.append(LegendEntry(words, tone, dash))

    def curve(
        self,
        words: str,
        rows: Sequence[Measurement],
        tone: str,
        dash: str = "solid",
        width: float = 2,
        band: bool = True,
    ) -> None:
        """Add a curve of measurements, with a band of their intervals."""
        steps = [row.step for row in rows]
        low = [row.ci_low for row in rows if row.ci_low is not None]
        high = [row.ci_high for row in rows if row.ci_high is not None]
        whole = band and len(low) == len(high) == len(rows)
        self.add(
            words, steps, [row.value for row in rows], tone, dash, width,
            (low, high) if whole else None, [_told(row) for row in rows],
        )  # fmt: skip

    def controls(self, rows: Iterable[Measurement], measure: str, subject: str, tone: str) -> None:
        """Add the highest control of each kind for a curve, in the colour of the curve."""
        rows = list(rows)
        for ending, dash in CONTROL_DASHES.items():
            curve = curves(rows, f"{measure}{ending}").get(subject)
            if curve is not None:
                words = CONTROL_WORDS[ending]
                self.add(
                    words, [row.step for row in curve], [top(row) for row in curve], tone, dash,
                    1.2, told=[f"n={row.n:,}" for row in curve], legend=False, marks=False,
                )  # fmt: skip
                key = LegendEntry(
                    f"{words}, in the colour of what it is a control of", "grey", dash
                )
                if key not in self.keys:
                    self.keys.append(key)

    def level(self, words: str, value: float, tone: str, dash: str = "dot") -> None:
        """Add a horizontal line over all steps."""
        steps = sorted(self.steps) or [0]
        ends = [steps[0], steps[-1]]
        self.add(words, ends, [value, value], tone, dash, 1.2, marks=False)

    def chart(self) -> Chart:
        """Return the chart."""
        axis: dict[str, Any] = {"title": {"text": plain(self.axis)}}
        if self.log:
            axis["type"] = "log"
        elif self.span is not None:
            axis["range"] = list(self.span)
        layout = {"xaxis": step_axis(self.steps), "yaxis": axis}
        keys = sorted(self.keys, key=lambda key: key.colour == "grey")  # controls last
        return Chart(self.name, self.title, self.alt, self.traces, layout, keys)


def _told(row: Measurement) -> str:
    about = f"n={row.n:,}"
    if row.ci_low is None or row.ci_high is None:
        return about
    return f"95% {row.ci_low:.3g} to {row.ci_high:.3g}, {about}"


def step_axis(steps: Iterable[int]) -> dict[str, Any]:
    """Return the axis of training steps: ticks at 0, 1, 3, 10, 30, ... up to the last step."""
    last = max(steps, default=1) or 1
    marks = [0] + [m * 10**e for e in range(8) for m in (1, 3) if m * 10**e <= last]
    wide = [mark for mark in marks if mark in (0, 1) or len(marks) < 8 or str(mark)[0] == "1"]
    return {
        "title": {"text": STEP_AXIS},
        "tickvals": [placed(mark) for mark in wide],
        "ticktext": [f"{mark:,}" for mark in wide],
        "range": [-0.04 * placed(last), 1.03 * placed(last)],
    }


def scatter(
    name: str,
    title: str,
    alt: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    axes: tuple[str, str],
    level: float | None = None,
) -> Chart:
    """Return a chart of named lines over a logarithmic axis."""
    data: list[dict[str, Any]] = []
    keys: list[LegendEntry] = []
    for place, (words, points) in enumerate(lines.items()):
        tone, dash = colour(place), dash_of(place)
        data.append({
            "x": [rounded(x) for x, _ in points], "y": [rounded(y) for _, y in points],
            "mode": "lines+markers", "marker": {"size": 6, "color": tone},
            "line": {"color": tone, "dash": dash},
            "hovertemplate": f"%{{y:.3f}} at %{{x}}: {plain(words)}<extra></extra>",
        })  # fmt: skip
        keys.append(LegendEntry(words, tone, dash))
    shapes = []
    if level is not None:
        line = {"color": "grey", "dash": "dash", "width": 1}
        ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level}
        shapes.append({"type": "line", "line": line, **ends})
        keys.append(LegendEntry(f"{level:g}: from here on it counts as faithful", "grey", "dash"))
    layout = {
        "xaxis": {"type": "log", "title": {"text": plain(axes[0])}},
        "yaxis": {"title": {"text": plain(axes[1])}, "range": [-1.05, 1.05]},
        "shapes": shapes,
    }
    return Chart(name, title, alt, data, layout, keys)
