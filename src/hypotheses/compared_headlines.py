"""The headlines that a comparison shows, their headings and their baselines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..analysis.measures.emergence import CONTROLS
from ..runs.run_batches import HIGHEST
from .seed_groups import EMERGED


@dataclass(frozen=True)
class Family:
    """Headlines under one heading; `pattern` is a regular expression that matches their whole keys.

    `label` is formatted with the named groups of the pattern; underscores in `name` become spaces.
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
                labels[key] = self.label.format(**words)
        return labels


# Other headlines are only in the CSV. Controls and references have no rows of their own.
FAMILIES = (
    Family("accuracy", r"accuracy/(?P<name>all|held_out)/exact", "exact, {name}", True),
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
    Family("light match (testable cuts)", r"matching/(?P<v>.+)/best_match", "{v}"),
    Family("light match (variables)", r"matching/(?P<v>.+)/variable_match", "{v}"),
    Family("surely realised", r"matching/(?P<v>.+)/(?:variable_)?realised", "{v}", True),
    Family("attention", r"attention/model/(?P<name>matched_overlap)", "{name}", True),
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
    Family("H1 (reference minus model)", r"sparsity/model/h1_(?P<name>\w+)", "{name}"),
    Family("MLP neurons", r"sparsity/model/(?P<name>(?!h1_)\w+)", "{name}"),
)

HEADLINES = {  # shown in the tables of architectures by tasks
    "accuracy/all/exact": "Exact accuracy, all inputs",
    "accuracy/held_out/exact": "Exact accuracy, held-out inputs",
    "similarity/model/mean_deconfounded_cka": "Deconfounded CKA, mean of the variables",
    "similarity/model/matched_deconfounded_cka": "Deconfounded CKA, the reference's sites matched",
    "attention/model/matched_overlap": "Attention in common with the reference's heads",
    "ablation/model/redundant_share": (
        "Share of heads and MLPs that are redundant together (in the runs that solve the task)"
    ),
    "sparsity/model/h1_bimodal_share": "H1: bimodal neurons, reference minus model",
}


def emerging(keys: Iterable[str]) -> dict[str, str]:
    """Return the keys of estimates that have a step of emergence, with their labels."""
    known = dict.fromkeys(keys)
    return {
        key: f"{family.title.partition(' (')[0]}: {label}"
        for family in FAMILIES
        if family.emergence
        for key, label in family.chosen(known).items()
        if f"{EMERGED}/{key}" in known
    }


def compared_with(key: str) -> dict[str, str]:
    """Return the keys of the possible baselines of a headline, controls first, with their labels.

    For a control over several models the highest one is used, as for emergence.

    >>> compared_with("accuracy/all/exact")["accuracy/all/blind_exact"]
    'blind to the tokens'
    """
    group, _, rest = key.partition("/")
    subject, _, name = rest.rpartition("/")
    controls = {
        f"{HIGHEST}/{key}{ending}": f"{ending.replace('_', ' ').strip()}, highest"
        for ending in CONTROLS
    }
    return {
        **controls,
        f"{group}/{subject}/blind_{name}": "blind to the tokens",
        f"{group}/{subject}/{name}_chance": "chance",
        f"{group}/reference:{subject}/{name}": "reference",
    }
