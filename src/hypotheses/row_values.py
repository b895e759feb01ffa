"""Selections of measurements for tables and figures, and the labels of components."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ..analysis.ablation_names import KINDS
from ..analysis.head_attention import UNIFORM
from ..analysis.measurements import Measurement
from ..analysis.measures.emergence import CONTROLS
from ..analysis.measures.redundancy import REDUNDANT_SET

Curves = dict[str, list[Measurement]]
SHORT_KINDS = {kind: kind.removeprefix("resample_") for kind in KINDS}
LONGEST = 34  # the most characters in a label of relabelings
PLAIN_LABELS = {
    "plain_cka": "plain CKA", "rsa": "RSA", "procrustes": "Procrustes", "svcca": "SVCCA",
}  # fmt: skip
NEURON_LABELS = {
    "bimodal_share": "bimodal (dip test)",
    "dip": "dip",
    "bimodality": "bimodality (Sarle)",
    "hoyer": "Hoyer sparsity",
    "gini": "Gini",
    "active_share": "active share",
    "dead_share": "dead",
    "always_on_share": "always on",
}
_COMPONENTS = (
    (r"blocks\.(\d+)\.attn\.hook_(?:z|pattern)\[(\d+)\]", "head {}.{}"),
    (r"blocks\.(\d+)\.attn\.hook_z\.all", "all heads in {}"),
    (r"blocks\.(\d+)\.hook_attn_out", "attention {}"),
    (r"blocks\.(\d+)\.hook_mlp_out", "MLP {}"),
    (r"hook_attn_out\.all_but_(\d+)", "attention but {}"),
    (r"hook_mlp_out\.all_but_(\d+)", "all MLPs but {}"),
    (re.escape(REDUNDANT_SET), "redundant set"),
)


def component_label(name: str) -> str:
    """Return a short label of a component, or its name if it has no label.

    >>> component_label("blocks.2.attn.hook_z[3]"), component_label("hook_mlp_out.all_but_0")
    ('head 2.3', 'all MLPs but 0')
    """
    for pattern, words in _COMPONENTS:
        if matched := re.fullmatch(pattern, name):
            return words.format(*matched.groups())
    return name


def drawable(text: str) -> str:
    """Replace the characters that the font of a figure may lack.

    >>> drawable("sort with vocabulary [\u00e9]") == "sort with vocabulary [" + chr(92) + "xe9]"
    True
    """
    return text.encode("ascii", "backslashreplace").decode()


def of(rows: Iterable[Measurement], measure: str) -> dict[str, Measurement]:
    """Return the rows of a measure at one checkpoint, by subject."""
    return {row.subject: row for row in rows if row.measure == measure}


def curves(rows: Iterable[Measurement], measure: str) -> Curves:
    """Return the rows of a measure by subject, each sorted by step."""
    by_subject: Curves = defaultdict(list)
    for row in rows:
        if row.measure == measure:
            by_subject[row.subject].append(row)
    return {subject: sorted(curve, key=lambda r: r.step) for subject, curve in by_subject.items()}


def top(row: Measurement) -> float:
    """Return the upper end of a row's interval; over several controls, this is the highest one."""
    return row.value if row.ci_high is None else row.ci_high


def highest_control(
    rows: Iterable[Measurement], measure: str, subject: str
) -> tuple[float, str] | None:
    """Return the value and kind of the highest control of a measure for a subject, or None."""
    wanted = {f"{measure}{ending}": ending.strip("_").replace("_", " ") for ending in CONTROLS}
    ends = [
        (top(row), wanted[row.measure])
        for row in rows
        if row.subject == subject and row.measure in wanted
    ]
    return max(ends, default=None)


def relabelings(by_subject: Mapping[str, Sequence[Measurement]]) -> dict[str, list[str]]:
    """Group subjects with equal values under one label: the measure cannot tell them apart.

    A label names as many subjects as fit and counts the others.
    """
    groups: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for name, curve in by_subject.items():
        groups[tuple(round(row.value, 6) for row in curve)].append(name)
    return {joined(names): names for names in groups.values()}


def joined(names: Sequence[str]) -> str:
    """Return one label for names with the same meaning.

    >>> joined(["opp_idx", "opp_idx-1"])
    'opp_idx = opp_idx-1'
    """
    shown = list(names)
    while len(shown) > 1 and len(" = ".join(shown)) > LONGEST:
        shown.pop()
    rest = len(names) - len(shown)
    return " = ".join(shown) + (f" (+{rest})" if rest else "")


def uniform_heads(rows: Iterable[Measurement]) -> set[str]:
    """Return the reference's heads with uniform attention."""
    measure = "attention/uniform_overlap"
    return {row.subject for row in rows if row.measure == measure and row.value >= UNIFORM}
