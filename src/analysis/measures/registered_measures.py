"""The registered measures: how each is taken, which of its rows have curves, and where it is shown.

Nothing heavy is imported here, so that a command can answer for names at once. A measure's module
in this folder declares its metrics as `METRICS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...config.schema import AnalysisConfig, Config
from ...infra.errors import UserError, one_of


@dataclass(frozen=True)
class Family:
    """Headlines under one heading; `pattern` is a regular expression that matches their whole keys.

    `label` is formatted with the named groups of the pattern; underscores in `name` become spaces,
    and a `cut` is named by its variables with commas between them.
    `emergence` says whether the step of emergence is shown as well.
    """

    title: str
    pattern: str
    label: str
    emergence: bool = False

    def chosen(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the keys that belong to the family, with their labels."""
        match, labels = re.compile(self.pattern).fullmatch, {}
        for key in keys:
            if (matched := match(key)) is not None:
                words = matched.groupdict()
                if "name" in words:
                    words["name"] = words["name"].replace("_", " ")
                if "cut" in words:
                    words["cut"] = words["cut"].replace("+", ", ")
                labels[key] = self.label.format(**words)
        return labels


@dataclass(frozen=True)
class RegisteredMeasure:
    """What is known of a measure besides its metrics.

    `statistic` is `module:class`, which takes it. A row is a headline, with a curve of its own, if
    its metric's name starts with one of `headlines`, or, with `of_model`, if it is of the whole
    model. `summary` names a function of the module that makes further headlines of a checkpoint's
    rows. Comparisons show the `families`; a measure without a panel of its own in the run's figure,
    or without a section in the W&B workspace, has one of its families there. `tabled` headlines
    have a table of architectures by tasks. What is `taken_last` has its rows after the others'.
    """

    statistic: str
    headlines: tuple[str, ...] = ()
    of_model: bool = False
    summary: str = ""
    families: tuple[Family, ...] = ()
    tabled: Mapping[str, str] = field(default_factory=dict)
    by_default: bool = True
    taken_last: bool = False


# In the order in which they are shown. Controls and references have no families of their own.
REGISTRY: dict[str, RegisteredMeasure] = {
    "accuracy": RegisteredMeasure(
        "accuracy:Accuracy",
        headlines=("accuracy/",),
        families=(
            Family("accuracy", r"accuracy/(?P<name>all|held_out)/exact", "exact, {name}", True),
        ),
        tabled={
            "accuracy/all/exact": "Exact accuracy, all inputs",
            "accuracy/held_out/exact": "Exact accuracy, held-out inputs",
        },
    ),
    "similarity": RegisteredMeasure(
        "similarity:Similarity",
        headlines=("similarity/best_", "similarity/mean_", "similarity/matched_"),
        families=(
            Family(
                "deconfounded CKA (variables, mean; sites, matched)",
                r"similarity/model/(?P<name>mean|matched)_deconfounded_cka",
                "{name}",
                True,
            ),
            Family(
                "similarity (deconfounded CKA)",
                r"similarity/(?P<v>[^@]+)/best_deconfounded_cka",
                "{v}",
                True,
            ),
        ),
        tabled={
            "similarity/model/mean_deconfounded_cka": "Deconfounded CKA, mean of the variables",
            "similarity/model/matched_deconfounded_cka": (
                "Deconfounded CKA, the reference's sites matched"
            ),
        },
    ),
    "matching": RegisteredMeasure(
        "light_matching:Realisation",
        headlines=("matching/best_match", "matching/variable_", "matching/realised"),
        families=(
            Family("light match (testable cuts)", r"matching/(?P<cut>.+)/best_match", "{cut}"),
            Family("light match (variables)", r"matching/(?P<v>.+)/variable_match", "{v}"),
            Family(
                "surely realised", r"matching/(?P<cut>.+)/(?:variable_)?realised", "{cut}", True
            ),
        ),
        taken_last=True,
    ),
    "attention": RegisteredMeasure(
        "attention:AttentionOverlap",
        of_model=True,
        families=(
            Family("attention", r"attention/model/(?P<name>matched_overlap)", "{name}", True),
        ),
        tabled={
            "attention/model/matched_overlap": "Attention in common with the reference's heads"
        },
    ),
    "ablation": RegisteredMeasure(
        "ablation:Ablation",
        of_model=True,
        summary="worst_components",
        families=(
            Family(
                "ablation (worst component)",
                r"ablation/worst_component/(?P<name>\w+)_delta_exact",
                "by {name}",
            ),
            Family(
                "redundant together (heads and MLPs)",
                r"ablation/model/(?P<name>redundant_share)",
                "{name}",
            ),
        ),
        tabled={
            "ablation/model/redundant_share": (
                "Share of heads and MLPs that are redundant together (in the runs that solve the "
                "task)"
            ),
        },
    ),
    "sparsity": RegisteredMeasure(
        "sparsity:Sparsity",
        of_model=True,
        families=(
            Family("H1 (reference minus model)", r"sparsity/model/h1_(?P<name>\w+)", "{name}"),
            Family("MLP neurons", r"sparsity/model/(?P<name>(?!h1_)\w+)", "{name}"),
        ),
        tabled={"sparsity/model/h1_bimodal_share": "H1: bimodal neurons, reference minus model"},
    ),
}


def default_measures() -> list[str]:
    """Return the measures that are on by default, in the order in which they are taken.

    >>> default_measures()[-1]
    'matching'
    """
    names = [name for name, registered in REGISTRY.items() if registered.by_default]
    return sorted(names, key=lambda name: REGISTRY[name].taken_last)


def measured(config: AnalysisConfig) -> list[str]:
    """Return the measures that a config names, or those that are on by default."""
    return default_measures() if config.measures is None else config.measures


def with_measures(config: Config) -> Config:
    """Return a config that names its measures, as runs record them."""
    named = replace(config.analysis, measures=measured(config.analysis))
    return replace(config, analysis=named)


def check_measures(names: Sequence[str]) -> None:
    """Refuse measures that are not in the registry, repeated or none.

    Raises:
        UserError: a name is unknown or there twice, or there is none.
    """
    if not names or len(set(names)) < len(names):
        given = f"analysis.measures=[{', '.join(names)}]"
        raise UserError(f"{given} must name at least one measure, each once: {', '.join(REGISTRY)}")
    for name in names:
        if name not in REGISTRY:
            raise UserError(
                f"unknown measure '{name}' (analysis.measures): {one_of(name, REGISTRY)}"
            )
