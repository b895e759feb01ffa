"""The features of every position, against the lists themselves."""

from __future__ import annotations

import torch
from support.tasks import small_inputs

from algomatch.analysis.explain.position_features import UNKNOWN, cells, features, held_out, some_of


def test_features_are_what_the_lists_say() -> None:
    inputs = small_inputs("sort")
    by_name = {feature.name: feature for feature in features(inputs)}
    assert list(by_name)[:3] == ["token", "index", "length"]
    assert [feature.name for feature in by_name.values() if feature.output] == ["sort"]
    for row in (0, 5, len(inputs) - 1):
        listed, out = inputs.listed(row), inputs.values_at(row)
        for position in range(len(listed) + 1):
            values = {
                name: None if (code := int(feature.codes[row, position])) == UNKNOWN
                else feature.values[code] for name, feature in by_name.items()
            }  # fmt: skip
            assert values["length"] == len(listed)
            assert values["index"] == position - 1
            assert values["token"] == ("BOS" if position == 0 else listed[position - 1])
            assert values["sort"] == (None if position == 0 else out[position - 1])
    assert by_name["token"].values[0] == "BOS"
    assert by_name["token"].numerical


def test_a_variable_is_known_at_bos_if_it_is_one_value_for_the_whole_of_any_input() -> None:
    length = {feature.name: feature for feature in features(small_inputs("most_freq"))}["most_freq"]
    assert (length.codes[:, 0] == length.codes[:, 1]).all()
    hist = {feature.name: feature for feature in features(small_inputs("hist"))}["hist"]
    assert (hist.codes[:, 0] == UNKNOWN).all()


def test_features_that_are_the_same_are_there_once() -> None:
    names = [feature.name for feature in features(small_inputs("reverse"))]
    assert "tokens" not in names
    assert "indices" not in names
    assert len(names) == len(set(names))


def test_cells_are_the_combinations_that_occur() -> None:
    inputs = small_inputs("reverse")
    places = cells(inputs, features(inputs))
    assert (places.at[~inputs.key_mask] == UNKNOWN).all()
    codes = torch.stack([feature.codes for feature in places.features], dim=-1)
    assert (places.codes[places.at[inputs.key_mask]] == codes[inputs.key_mask]).all()
    assert len(torch.unique(places.codes, dim=0)) == len(places.codes)


def test_a_quarter_of_each_length_is_held_out() -> None:
    inputs = small_inputs("reverse")
    chosen = held_out(inputs, 3)
    assert torch.equal(chosen, held_out(inputs, 3))
    assert not torch.equal(chosen, held_out(inputs, 4))
    for length in inputs.task.lengths:
        rows = inputs.lengths == length
        assert int(chosen[rows].sum()) == max(1, round(int(rows.sum()) / 4))


def test_some_inputs_are_of_every_length() -> None:
    inputs = small_inputs("reverse")
    some = some_of(inputs, 40, 0)
    assert len(some) == 40
    counts = [int((some.lengths == length).sum()) for length in inputs.task.lengths]
    assert counts == [3, 9, 14, 14]
    assert some_of(inputs, len(inputs), 0) is inputs
