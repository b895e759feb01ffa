"""The headlines that a comparison shows, their headings and their baselines."""

from __future__ import annotations

from collections.abc import Iterable

from ..analysis.measures.emergence import CONTROLS
from ..analysis.measures.registered_measures import REGISTRY
from ..runs.run_batches import HIGHEST
from .seed_groups import EMERGED

# In the order of the registry. Other headlines are only in the CSV.
FAMILIES = tuple(family for registered in REGISTRY.values() for family in registered.families)
TABLED = {  # shown in the tables of architectures by tasks
    key: heading for registered in REGISTRY.values() for key, heading in registered.tabled.items()
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
