"""A saved W&B workspace of a project: the curves of its panels, with their controls.

The rows of `SECTIONS` use patterns, since keys contain a task's variables, cuts and lengths. Panels
name only keys that match and that runs have logged, so none is blank. W&B's own panels of a regular
expression show ten curves at most, and might leave out the controls.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from math import ceil, isfinite
from typing import Any

import wandb

from ..analysis.measurements import Metric
from ..analysis.measures.emergence import CONTROLS
from ..analysis.measures.registered_measures import REGISTRY
from ..analysis.measures.similarity import PLAIN
from ..analysis.measures.suite import declared_metrics
from ..config.schema import ModelConfig
from ..infra.errors import FaultError, UserError, first_line
from .heatmaps import HEATMAPS
from .wandb_log import STEP
from .wandb_settings import client

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Pydantic V1 style `@validator` validators are deprecated")
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.utils.validators import validate_no_emoji
    from wandb_workspaces.workspaces import internal

RUNS_READ = 500  # newest runs whose keys are read
MOST_PANELS = 24  # panels of one row
MOST_KEYS = 12  # keys of one panel
MOST_CUTS = 4  # cuts in the table of runs
COLUMNS = 3
FINAL, BEST, EMERGED = "final/", "best/", "emergence_step/"
BESIDE = (*CONTROLS, "_reference")  # endings of keys that are shown beside a measure if logged
NAMED_BY = ("task.name", "model.name", "model.normalization")  # also columns of the table of runs
# All settings of the model, since any may differ from the named file.
GROUPED_BY = tuple(
    dict.fromkeys((*NAMED_BY, *(f"model.{field.name}" for field in fields(ModelConfig))))
)
PICTURES = tuple(f"heatmaps/{name}" for name in HEATMAPS)
DCKA = "similarity/model/mean_deconfounded_cka"
MATCHED = "similarity/model/matched_deconfounded_cka"


@dataclass(frozen=True)
class PanelRow:
    """Panels of a section: one for each key that `pattern` matches whole, or one for all of them.

    `beside` are patterns of further keys of a panel; the groups of `pattern` fill these and the
    title, which has commas between the variables of a cut. Controls are added automatically; a
    panel of all keys is for measures without controls. Keys of W&B's summary become
    bars, other keys curves.
    """

    title: str
    pattern: str
    beside: tuple[str, ...] = ()
    together: bool = False
    log: bool = False


@dataclass(frozen=True)
class WorkspaceSection:
    """A section: its name, what one must know to read it, and its rows."""

    name: str
    about: str
    rows: tuple[PanelRow, ...]


SECTIONS = (
    WorkspaceSection(
        "Accuracy",
        "Exact: the share of inputs whose whole output is right. Blind: the most frequent output, "
        "whatever the tokens are. Reference: the compiled program.",
        (
            PanelRow("Exact, all inputs", "accuracy/all/exact",
                ("accuracy/all/blind_exact", "accuracy/all/reference_exact")),
            PanelRow("Exact, held out beside trained on", "accuracy/held_out/exact",
                ("accuracy/train/exact", "accuracy/all/blind_exact")),
            PanelRow("Exact, length {0}", r"accuracy/all\.length_(\d+)/exact",
                (r"accuracy/all\.length_{0}/blind_exact", r"accuracy/held_out\.length_{0}/exact")),
            PanelRow("Positions right, held out beside trained on", "accuracy/held_out/token",
                ("accuracy/train/token",)),
            PanelRow("Loss", "training/batch/loss", ("accuracy/all/loss", "accuracy/held_out/loss"),
                log=True),
        ),
    ),
    WorkspaceSection(
        "Similarity",
        "Beside each curve: the **mean** of random inits (`_random_init`), the mean of other "
        "tasks' compiled programs (`_other_task`), and the compiled reference itself "
        "(`_reference`). Emergence steps ask for more: the whole interval above the **highest** "
        "control. Plain measures do not discriminate.",
        (
            PanelRow("Deconfounded CKA, mean of the variables", DCKA),
            PanelRow("Deconfounded CKA, the reference's sites matched", MATCHED),
            PanelRow("Deconfounded CKA, variable {0}", "similarity/(.+)/best_deconfounded_cka"),
            PanelRow("Attention in common with the reference", "attention/model/matched_overlap"),
            PanelRow("{0}: does not discriminate", f"similarity/model/matched_({'|'.join(PLAIN)})"),
        ),
    ),
    WorkspaceSection(
        "Matching and emergence",
        "Light match: the lower of scrub and interchange, on fewer cases than in `algomatch "
        "match`, so its values differ. Beside it: the chance level, and whether it is surely "
        "realised (0 or 1; over several runs, the share). An emergence step is the mean over "
        "the runs in which it emerged: the table of runs shows how many; it is empty for the "
        "others.",
        (
            PanelRow("Light match, cut {cut}", "matching/(?P<cut>.+)/best_match",
                ("matching/{0}/best_match_chance", "matching/{0}/realised")),
            PanelRow("Light match, variable {0} alone; chance of its cuts",
                "matching/(.+)/variable_match",
                (r"matching/(?:.+\+)?{0}(?:\+.+)?/best_match_chance",
                 "matching/{0}/variable_realised")),
            PanelRow("Final light match, cut {cut}", "final/matching/(?P<cut>.+)/best_match",
                ("final/matching/{0}/best_match_chance",)),
            PanelRow("Emergence step: surely realised",
                "emergence_step/matching/.+/(?:variable_)?realised", together=True),
            PanelRow("Emergence step: deconfounded CKA of variables",
                "emergence_step/similarity/.+/best_deconfounded_cka", together=True),
        ),
    ),
    WorkspaceSection(
        "Ablation",
        "What deleting the worst single component costs: 0 is the intact model. The four kinds "
        "of ablation disagree, and tell different things. The share of heads and MLPs that are "
        "redundant together is given only for models that solve the task.",
        (
            PanelRow("Exact, change by the worst component",
                     "ablation/worst_component/.+_delta_exact", together=True),
            PanelRow("Redundant together, share", "ablation/model/redundant_share"),
        ),
    ),
    WorkspaceSection(
        "Sparsity",
        "Each measure of the model's MLP neurons beside the compiled reference's. H1: the "
        "reference minus the model.",
        (
            PanelRow("{0}", r"sparsity/model/(?!h1_)(.+)", ("sparsity/reference:model/{0}",)),
            PanelRow("H1 (reference minus model)", "sparsity/model/h1_.+", together=True),
        ),
    ),
    WorkspaceSection(
        "By architecture",
        "Bars: mean and range over the runs of a group, which are its seeds. An emergence step "
        "is over the runs in which it emerged.",
        (
            PanelRow("Final exact, all inputs", "final/accuracy/all/exact",
                ("final/accuracy/all/blind_exact",)),
            PanelRow("Final exact, held out beside trained on", "final/accuracy/held_out/exact",
                ("final/accuracy/train/exact", "final/accuracy/all/blind_exact")),
            PanelRow("Emergence step: exact", "emergence_step/accuracy/(?:all|held_out)/exact",
                together=True),
            PanelRow("Final deconfounded CKA, mean of the variables", f"{FINAL}{DCKA}"),
            PanelRow("Final deconfounded CKA, the reference's sites matched", f"{FINAL}{MATCHED}"),
            PanelRow("Emergence step: similarity and attention, of the model",
                "emergence_step/(?:similarity|attention)/model/"
                "(?:.+_deconfounded_cka|matched_overlap)", together=True),
            PanelRow("Final attention in common", "final/attention/model/matched_overlap"),
        ),
    ),
)  # fmt: skip


def workspace_sections() -> list[WorkspaceSection]:
    """Return the sections: a measure that none of `SECTIONS` is about has one of its families."""
    *of_measures, last = SECTIONS
    patterns = [row.pattern for part in SECTIONS for row in part.rows]
    others = [
        WorkspaceSection(
            name.replace("_", " ").capitalize(),
            f"The headlines of the measure `{name}`.",
            tuple(PanelRow(each.title, each.pattern, together=True) for each in own.families),
        )
        for name, own in REGISTRY.items()
        if not any(f"{name}/" in pattern for pattern in patterns)
    ]
    return [*of_measures, *others, last]


def save(entity: str, project: str, name: str) -> tuple[str, bool, int]:
    """Save the workspace; return its URL, whether it is new, and the number of runs read for it.

    An earlier workspace that was saved under the same name is replaced.

    Raises:
        UserError: no such project, no runs of algomatch in it, or a name that W&B does not allow.
        FaultError: W&B cannot be reached, or refuses.
    """
    try:
        validate_no_emoji(name)
    except ValueError as error:
        raise UserError(f"the name '{name}' has an emoji or a symbol, which W&B refuses") from error
    if not name.strip():
        raise UserError("the workspace's name is empty")
    with client():
        return _saved(entity, project, name)


def _saved(entity: str, project: str, name: str) -> tuple[str, bool, int]:
    with _faults_named():
        wandb.setup(wandb.Settings(silent=True))
        logged, n_runs = logged_keys(entity, project)
    if not logged:
        raise UserError(
            f"no run of {entity}/{project} has the keys that `algomatch train` logs: first train "
            f"with tracking=online tracking.entity={entity} tracking.project={project}"
        )
    view = workspace(entity, project, name, logged)
    with _faults_named():
        new = _replacing(view)
        view.save()  # type: ignore[no-untyped-call]
        return view.url, new, n_runs


@contextmanager
def _faults_named() -> Iterator[None]:
    """Turn any error of W&B into a FaultError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise FaultError(f"W&B did not save the workspace: {first_line(error)}") from error


def logged_keys(entity: str, project: str) -> tuple[Counter[str], int]:
    """Return the number of training runs with each measure key in their summary, and of all runs.

    Raises:
        UserError: no such project.
    """
    runs = wandb.Api().runs(
        f"{entity}/{project}", {"jobType": "train"}, order="-created_at", lazy=False
    )
    logged, n_runs = Counter[str](), 0
    try:
        for run in islice(runs, RUNS_READ):
            logged.update(run.summary_metrics.keys())  # not the values, which it would add
            curves = (run.history_keys or {}).get("keys", {})
            logged.update(key for key in PICTURES if key in curves)
            n_runs += 1
    except ValueError as error:
        raise UserError(
            f"W&B has no project {entity}/{project}, or this API key may not see it"
        ) from error
    metrics = declared_metrics()
    ours = {key: n for key, n in logged.items() if _name(_bare(key)) in metrics}
    pictures = {key: n for key, n in logged.items() if key in PICTURES}
    return (Counter(ours | pictures) if ours else Counter()), n_runs


def workspace(entity: str, project: str, name: str, logged: Mapping[str, int]) -> ws.Workspace:
    """Return the workspace for the logged keys, given with the number of runs that have each."""
    sections = [section(part, logged) for part in workspace_sections()]
    sections[-1].panels += _overviews(logged)
    sections.append(ws.Section(name="Heatmaps", panels=_pictures(logged), is_open=False))
    for block in sections:
        block.layout_settings = ws.SectionLayoutSettings(
            columns=COLUMNS, rows=max(1, min(4, ceil(len(block.panels) / COLUMNS)))
        )
        block.panel_settings = ws.SectionPanelSettings(x_axis=STEP)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[block for block in sections if block.panels],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters="Metric('JobType') == 'train'",
            groupby=[ws.Config(key) for key in GROUPED_BY],
            pinned_columns=columns(logged),
        ),
    )


def section(part: WorkspaceSection, logged: Mapping[str, int]) -> ws.Section:
    """Return a section with the panels that its rows have; without any it has no text either."""
    panels: list[Any] = []
    left_out: list[str] = []
    for row in part.rows:
        chosen = list(shown(row, logged))
        left_out += [title for title, _ in chosen[MOST_PANELS:]]
        panels += [_panel(title, keys, row.log) for title, keys in chosen[:MOST_PANELS]]
    about = part.about + (f" Left out: {', '.join(left_out)}." if left_out else "")
    if panels:
        panels.insert(0, wr.MarkdownPanel(markdown=about))
    return ws.Section(name=part.name, panels=panels, is_open=True)


def shown(row: PanelRow, logged: Mapping[str, int]) -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the keys of each of a row's panels, those that most runs have first.

    Measures that have controls are not shown if no control was logged.
    """
    matches = [matched for key in logged if (matched := re.fullmatch(row.pattern, key))]
    matches = [match for match in matches if _controlled(match.string, logged)]
    matches.sort(key=lambda match: (-logged[match.string], _natural(match.string)))
    if row.together:
        starts = range(0, len(matches), MOST_KEYS)
        for i, start in enumerate(starts, 1):
            number = f" ({i} of {len(starts)})" if len(starts) > 1 else ""
            yield f"{row.title}{number}", [m.string for m in matches[start : start + MOST_KEYS]]
        return
    for match in matches:
        keys = _with_controls(match.string, logged)
        for pattern in row.beside:
            filled = pattern.format(*map(re.escape, match.groups()))
            keys += sorted(key for key in logged if re.fullmatch(filled, key))
        named = {name: text.replace("+", ", ") for name, text in match.groupdict().items()}
        yield row.title.format(*match.groups(), **named), keys


def columns(logged: Mapping[str, int]) -> list[str]:
    """Return the first columns of the table of runs: a run's settings, then its final values.

    Each shown curve has a column of emergence steps, empty for runs in which nothing emerged. A
    match is followed by its chance level, a similarity by its controls.
    """
    config = [f"config:{_value_of(key)}" for key in (*NAMED_BY, "seed")]
    curves = ["accuracy/all/exact", "accuracy/all/blind_exact", "accuracy/held_out/exact"]
    keys = [f"{FINAL}{key}" for key in curves]
    pattern = "final/matching/(.+)/best_match"
    cuts = [matched for key in logged if (matched := re.fullmatch(pattern, key))]
    cuts.sort(key=lambda match: (-logged[match.string], _natural(match.string)))
    for cut in [match[1] for match in cuts[:MOST_CUTS]]:
        curves.append(f"matching/{cut}/realised")
        keys += [f"{BEST}matching/{cut}/best_match", f"{FINAL}matching/{cut}/best_match_chance"]
    if _controlled(DCKA, logged):
        curves.append(DCKA)
        keys += [f"{FINAL}{key}" for key in _with_controls(DCKA, logged)]
    metrics = declared_metrics()
    emerging = [key for key in curves if _emerges(_metric_of(key, metrics), metrics)]
    emerged = [f"{EMERGED}{key}" for key in emerging if f"{FINAL}{key}" in logged]
    return [
        "run:state", *config, *(f"summary:{key}" for key in keys if key in logged),
        *(f"summary:{key}" for key in emerged),
    ]  # fmt: skip


def _panel(title: str, keys: Sequence[str], log: bool) -> wr.LinePlot | wr.BarPlot:
    """Return a panel over the declared range: bars for summary keys, curves for others."""
    low, high = _range(keys)
    if _bare(keys[0]) != keys[0]:
        return wr.BarPlot(
            title=title, metrics=list(keys), range_x=(low, high), max_bars_to_show=100,
            groupby_aggfunc="mean", groupby_rangefunc="minmax",
        )  # fmt: skip
    return wr.LinePlot(
        title=title, x=STEP, y=list(keys), title_x="training step",
        range_y=(None, None) if log else (low, high), log_y=log or None, max_runs_to_show=100,
        groupby_aggfunc="mean", groupby_rangefunc="minmax",
    )  # fmt: skip


def _range(keys: Iterable[str]) -> tuple[float | None, float | None]:
    """Return the lowest and highest possible value of the keys, None where unbounded.

    Steps of emergence range from 0 without an upper bound.
    """
    metrics = declared_metrics()
    lows, highs = set[float](), set[float]()
    for key in keys:
        metric = _metric_of(_bare(key), metrics)
        step = key.startswith(EMERGED)
        lows.add(0 if step else metric.low)
        highs.add(float("inf") if step else metric.high)
    low, high = min(lows), max(highs)
    return low if isfinite(low) else None, high if isfinite(high) else None


def _overviews(logged: Mapping[str, int]) -> Iterator[wr.ScatterPlot | wr.ParallelCoordinatesPlot]:
    """Yield the panels in which every run is a point or a line."""
    own, exact = f"{FINAL}{DCKA}", f"{FINAL}accuracy/all/exact"
    control = f"{own}{CONTROLS[0]}"
    both = [own, control] if own in logged and control in logged else []
    if both:
        bounds = _range(both)
        yield wr.ScatterPlot(
            title="Final deconfounded CKA: above the diagonal, more than random inits",
            x=wr.SummaryMetric(control), y=wr.SummaryMetric(own), range_x=bounds,
            range_y=bounds,
        )  # fmt: skip
    steps = [f"{EMERGED}accuracy/all/exact", f"{EMERGED}{DCKA}"]
    if all(key in logged for key in steps):
        yield wr.ScatterPlot(
            title="Emergence steps: below the diagonal, CKA before exact accuracy",
            x=wr.SummaryMetric(steps[0]), y=wr.SummaryMetric(steps[1]),
        )  # fmt: skip
    if exact in logged:
        keys = [exact, f"{FINAL}accuracy/held_out/exact", *both, *steps]
        given: list[Any] = [wr.Config(key) for key in (*NAMED_BY, "seed")]
        ended = [wr.SummaryMetric(key) for key in keys if key in logged]
        yield wr.ParallelCoordinatesPlot(
            title="Every run: what it is, and how it ended",
            columns=[
                wr.ParallelCoordinatesPlotColumn(metric=metric) for metric in (*given, *ended)
            ],
        )


def _pictures(logged: Mapping[str, int]) -> list[Any]:
    """Return a media browser for each kind of heatmap that was logged."""
    keys = [key for key in PICTURES if key in logged]
    return [wr.MediaBrowser(title=key.partition("/")[2], media_keys=[key]) for key in keys]


def _replacing(view: ws.Workspace) -> bool:
    """Give a workspace a fixed internal name, so that saving replaces it; return whether it is new.

    W&B finds saved views only by an internal name, which is random unless it is set.
    """
    number = hashlib.sha256(f"algomatch {view.name}".encode()).hexdigest()[:11]
    view._internal_name = internal._url_query_str_to_internal_name(number)
    try:
        saved = internal.get_view_dict(view.entity, view.project, number)
    except ValueError:
        return True
    view._internal_id = saved["id"]
    return False


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts names in natural order: 2 before 10."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", text)]


def _bare(key: str) -> str:
    """Return the key of the curve that a summary's key belongs to."""
    for prefix in (FINAL, BEST, EMERGED):
        key = key.removeprefix(prefix)
    return key


def _metric_of(key: str, metrics: Mapping[str, Metric]) -> Metric:
    """Return the declared metric of a curve's measure."""
    return metrics[_name(key)]


def _name(key: str) -> str:
    """Return the name of a curve's measure: its key without the subject."""
    return f"{key.partition('/')[0]}/{key.rpartition('/')[2]}"


def _emerges(metric: Metric, metrics: Mapping[str, Metric]) -> bool:
    return metric.emerges is not None or _has_controls(metric, metrics)


def _has_controls(metric: Metric, metrics: Mapping[str, Metric]) -> bool:
    return any(f"{metric.name}{ending}" in metrics for ending in CONTROLS)


def _controlled(key: str, logged: Mapping[str, int]) -> bool:
    """Return whether a key is shown: its controls were logged, or its measure has none.

    Steps of emergence are always shown, since controls decided them.
    """
    metrics = declared_metrics()
    if key.startswith(EMERGED) or not _has_controls(_metric_of(_bare(key), metrics), metrics):
        return True
    return any(f"{key}{ending}" in logged for ending in CONTROLS)


def _with_controls(key: str, logged: Mapping[str, int]) -> list[str]:
    return [key, *(beside for ending in BESIDE if (beside := f"{key}{ending}") in logged)]


def _value_of(key: str) -> str:
    """Return where W&B keeps a value of the config: `task.value.name`."""
    group, dot, name = key.partition(".")
    return f"{group}.value{dot}{name}"
