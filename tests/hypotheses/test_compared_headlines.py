"""The headlines that a comparison shows, for a model with all measures."""

from __future__ import annotations

import pytest

from algomatch.analysis.base import MeasurementContext
from algomatch.analysis.measures.suite import headlines, measure
from algomatch.hypotheses.compared_headlines import FAMILIES, compared_with


@pytest.fixture(scope="module")
def keys(small: MeasurementContext) -> list[str]:
    """The headlines of the reference: it solves the task, so all are present."""
    return [row.key for row in headlines(measure(small.reference.bridge, small))]


SHOWN = {
    "deconfounded CKA (variables, mean; sites, matched)": {
        "similarity/model/mean_deconfounded_cka": "mean",
        "similarity/model/matched_deconfounded_cka": "matched",
    },
    "attention": {"attention/model/matched_overlap": "matched overlap"},
    "redundant together (heads and MLPs)": {"ablation/model/redundant_share": "redundant share"},
    "H1 (reference minus model)": {
        f"sparsity/model/h1_{name}": name.replace("_", " ")
        for name in (
            "active_share", "bimodality", "dip", "hoyer", "gini", "dead_share", "always_on_share",
            "bimodal_share",
        )
    },
}  # fmt: skip


def test_a_cut_is_shown_with_commas_between_its_variables() -> None:
    [family] = [family for family in FAMILIES if family.title == "light match (testable cuts)"]
    key = "matching/indices+tokens+length/best_match"
    assert family.chosen([key]) == {key: "indices, tokens, length"}


@pytest.mark.parametrize("title", SHOWN)
def test_a_family_has_the_lines_that_its_title_promises(title: str, keys: list[str]) -> None:
    [family] = [family for family in FAMILIES if family.title == title]
    assert family.chosen(keys) == SHOWN[title]


def test_every_family_has_a_line_and_no_line_is_in_two(keys: list[str]) -> None:
    chosen = [key for family in FAMILIES for key in family.chosen(keys)]
    assert all(family.chosen(keys) for family in FAMILIES)
    assert len(chosen) == len(set(chosen))


def test_controls_and_references_are_no_lines_of_their_own(keys: list[str]) -> None:
    endings = ("_random_init", "_other_task", "_reference")
    assert any(key.endswith(endings) for key in keys)
    chosen = [key for family in FAMILIES for key in family.chosen(keys)]
    assert not any(key.endswith(endings) or "/reference:" in key for key in chosen)


def test_the_figures_that_can_emerge_are_those_with_controls_or_a_threshold(
    keys: list[str],
) -> None:
    for family in FAMILIES:
        for key in family.chosen(keys):
            if any(f"{key}{ending}" in keys for ending in ("_random_init", "_other_task")):
                assert family.emergence, key
                assert f"highest/{key}_random_init" in compared_with(key)
