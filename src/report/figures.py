"""The run at a glance: one figure, four panels over training steps."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.measurements import Measurement
from ..analysis.rerun import KINDS
from ..files import write_file
from ..tracking.run_folder import RunFolder
from .summary import inexact_note

Curves = dict[str, list[Measurement]]
WORST_SHOWN = 5
COLOURS = (  # Okabe and Ito's, then four of Tol's
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
    "#882255", "#999933", "#661100", "#888888",
)  # fmt: skip


def save_run_figure(folder: RunFolder, rows: Sequence[Measurement]) -> None:
    """Draw accuracy, similarity, ablation and sparsity over steps into the run's figure.

    Raises:
        OSError: it could not be written.
    """
    content = io.BytesIO()
    run_figure(folder, rows).savefig(content, format="png", dpi=120)
    write_file(folder.figure_path, content.getvalue())


def run_figure(folder: RunFolder, rows: Sequence[Measurement]) -> Figure:
    """Return the figure of a run; a panel without measurements says so."""
    config = folder.config
    figure = Figure(figsize=(12, 8.5), layout="constrained")
    figure.suptitle(
        f"{config.model.name} learning {config.task.name}, seed {config.seed}, "
        f"against the compiled program{inexact_note(rows)}"
    )
    panels: list[Callable[[Axes, Sequence[Measurement]], None]]
    panels = [_accuracy, _similarity, _ablation, _sparsity]
    for axes, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        panel(axes, rows)
        if axes.lines:
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(left=0)
            axes.set_xlabel("training step (log scale from 1 on)")
            axes.grid(alpha=0.25)
    return figure


def _curves(rows: Iterable[Measurement], measure: str) -> Curves:
    found: Curves = defaultdict(list)
    for row in rows:
        if row.measure == measure:
            found[row.subject].append(row)
    return {subject: sorted(curve, key=lambda r: r.step) for subject, curve in found.items()}


def _draw(axes: Axes, curve: list[Measurement], label: str, colour: str, style: str = "-") -> None:
    steps = [row.step for row in curve]
    axes.plot(steps, [r.value for r in curve], style, label=label, color=colour, marker="o", ms=2.5)
    low = [r.ci_low for r in curve if r.ci_low is not None]
    high = [r.ci_high for r in curve if r.ci_high is not None]
    if len(low) == len(high) == len(curve):
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _nothing(axes: Axes, title: str, why: str) -> None:
    axes.set_title(title)
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, wrap=True)


def _accuracy(axes: Axes, rows: Sequence[Measurement]) -> None:
    title = "Exact-sequence accuracy (band: Wilson 95%)"
    curves = _curves(rows, "accuracy/exact")
    if not curves:
        _nothing(axes, title, "not measured")
        return
    lengths = [subject for subject in curves if subject.startswith("all.length_")]
    for i, subject in enumerate(lengths):
        grey = f"{0.85 - 0.5 * i / max(1, len(lengths) - 1):.2f}"
        axes.plot(
            [r.step for r in curves[subject]],
            [r.value for r in curves[subject]],
            color=grey,
            lw=1,
            label=f"length {subject.rpartition('_')[2]}",
        )
    _draw(axes, curves["all"], "all inputs", COLOURS[0])
    blind = _curves(rows, "accuracy/blind_exact")
    if "all" in blind:
        value = blind["all"][-1].value
        axes.axhline(value, ls=":", color=COLOURS[0], lw=1, label="blind to the tokens")
    if "held_out" in curves:
        _draw(axes, curves["held_out"], "held out", COLOURS[1], "--")
    axes.set(title=title, ylim=(-0.03, 1.03), ylabel="share of inputs")
    axes.legend(fontsize=7, ncols=2, loc="upper left")


def _similarity(axes: Axes, rows: Sequence[Measurement]) -> None:
    title = "Deconfounded CKA with each program variable, at its best site"
    curves = _curves(rows, "similarity/best_deconfounded_cka")
    if not curves:
        _nothing(axes, title, "not measured")
        return
    controls = _curves(rows, "similarity/best_deconfounded_cka_random_init")
    ceilings = _curves(rows, "similarity/best_deconfounded_cka_reference")
    for merged, colour in zip(_merged(curves).items(), _cycle(), strict=False):
        names, curve = merged
        label = " = ".join(names)
        _draw(axes, curve, label, colour)
        if names[0] in controls:
            _draw(axes, controls[names[0]], "", colour, ":")
        if names[0] in ceilings:
            axes.plot(
                [1.01], [ceilings[names[0]][-1].value], marker="<", color=colour, clip_on=False,
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
    axes.plot([], [], ":", color="grey", label="random init (range)")
    axes.plot([], [], "<", color="grey", label="the reference itself")
    axes.set(title=title, ylim=(-0.03, 1.03), ylabel="CKA")
    axes.legend(fontsize=7, loc="upper left")


def _merged(curves: Curves) -> dict[tuple[str, ...], list[Measurement]]:
    """Join variables with the same values: a renaming of each other to this measure."""
    groups: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for name, curve in curves.items():
        groups[tuple(round(row.value, 9) for row in curve)].append(name)
    return {tuple(names): curves[names[0]] for names in groups.values()}


def _cycle() -> Iterable[str]:
    while True:
        yield from COLOURS


def _ablation(axes: Axes, rows: Sequence[Measurement]) -> None:
    title = f"Change of exact accuracy when deleted: the {WORST_SHOWN} that matter most"
    by_kind = {kind: _curves(rows, f"ablation/{kind}_delta_exact") for kind in KINDS}
    if not by_kind["zero"]:
        _nothing(axes, title, "not measured")
        return
    last = {subject: curve[-1].value for subject, curve in by_kind["zero"].items()}
    worst = sorted(last, key=lambda subject: last[subject])[:WORST_SHOWN]
    for subject, colour in zip(worst, _cycle(), strict=False):
        _draw(axes, by_kind["zero"][subject], f"{subject} by zero", colour)
        if subject in by_kind["mean"]:
            _draw(axes, by_kind["mean"][subject], f"{subject} by mean", colour, "--")
    axes.set(title=title, ylim=(-1.05, 0.25), ylabel="ablated minus intact")
    axes.legend(fontsize=6, loc="lower left")


def _sparsity(axes: Axes, rows: Sequence[Measurement]) -> None:
    title = "MLP neurons: learned (lines) and reference (dashed)"
    labels = {
        "active_share": "active share",
        "dead_share": "dead",
        "always_on_share": "always on",
        "bimodality": "bimodality (Sarle)",
    }
    drawn, reference_only = False, []
    for (name, label), colour in zip(labels.items(), _cycle(), strict=False):
        curves = _curves(rows, f"sparsity/{name}")
        if "model" in curves:
            _draw(axes, curves["model"], label, colour)
            drawn = True
        if "reference:model" in curves:
            value = curves["reference:model"][-1].value
            reference_only.append(f"{label}: {value:.2f}")
            if "model" in curves:
                axes.axhline(value, ls="--", color=colour, lw=1)
    if not drawn:
        also = "The reference's neurons:\n" + "\n".join(reference_only) if reference_only else ""
        why = "this model has no MLP neurons" if reference_only else "not measured"
        _nothing(axes, title, f"{why}\n\n{also}".strip())
        return
    axes.set(title=title, ylim=(-0.03, 1.03), ylabel="share, or coefficient")
    axes.legend(fontsize=7, loc="upper right")
