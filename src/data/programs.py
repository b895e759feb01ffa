"""RASP programs: makers, each task's reference first and its alternatives after it.

A maker returns an s-op. It may ask for the keyword arguments `vocabulary`, `min_length` and
`max_length`; it gets those it names. `make_NAME` makes the reference program of the task NAME,
`make_NAME_by_SOMETHING` an alternative: the same input-output map by another algorithm, or None
where that algorithm does not apply to the lengths.

Causal-capable programs compute the same map with and without a causal mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracr.rasp import rasp

# Reverse and length


def make_reverse() -> Any:
    """Reverse the list: position i attends to position length - i - 1."""
    opposite = (_length() - rasp.indices).named("opp_idx")
    mirror = (opposite - 1).named("opp_idx-1")
    selector = rasp.Select(rasp.indices, mirror, rasp.Comparison.EQ).named("reverse_selector")
    return rasp.Aggregate(selector, rasp.tokens).named("reverse")


def make_reverse_by_counting() -> Any:
    """Reverse by counting the later positions, never the length: that many are before its twin."""
    selector = rasp.Select(rasp.indices, _n_later(), rasp.Comparison.EQ).named("twin")
    return rasp.Aggregate(selector, rasp.tokens).named("reverse")


def make_reverse_by_position(min_length: int, max_length: int) -> Any:
    """Reverse lists of one fixed length by a map of positions, nothing being counted."""
    if min_length != max_length:
        return None
    last = max_length - 1
    mirror = rasp.Map(lambda index: last - index, rasp.indices).named("mirror")
    selector = rasp.Select(rasp.indices, mirror, rasp.Comparison.EQ).named("twin")
    return rasp.Aggregate(selector, rasp.tokens).named("reverse")


def make_length() -> Any:
    """Count all positions."""
    return _length()


def make_length_by_vocabulary(vocabulary: Sequence[Any]) -> Any:
    """Count every token of the vocabulary apart and add the counts up."""
    total = _count(vocabulary[0], vocabulary)
    for token in vocabulary[1:]:
        total = _sum(total, _count(token, vocabulary), f"up_to_{_word(token, vocabulary)}")
    return total.named("length")


def make_palindrome() -> Any:
    """Reverse the list and see that no position differs from its twin."""
    twin = make_reverse().named("twin")
    differs = rasp.SequenceMap(lambda token, other: token != other, rasp.tokens, twin).named(
        "differs"
    )
    different = rasp.Select(differs, rasp.tokens, lambda key, _: key).named("different")
    n_different = rasp.SelectorWidth(different).named("n_different")
    return rasp.Map(lambda n: n == 0, n_different).named("palindrome")


def make_palindrome_by_pairs() -> Any:
    """Look for the pair (token, index) that each position's twin must be; no token is moved."""
    twin = rasp.SequenceMap(lambda token, later: (token, later), rasp.tokens, _n_later()).named(
        "twin"
    )
    same = rasp.Select(_pairs(), twin, rasp.Comparison.EQ).named("twin_found")
    n_twins = rasp.SelectorWidth(same).named("n_twins")
    lacks = rasp.numerical(rasp.Map(lambda n: 1.0 if n == 0 else 0.0, n_twins).named("lacks_twin"))
    share = rasp.numerical(rasp.Aggregate(_everything(), lacks, default=0)).named("share_lacking")
    return rasp.Map(lambda x: x == 0, share).named("palindrome")


# Counting tokens


def make_hist() -> Any:
    """Count the positions that hold the same token."""
    return _hist()


def make_hist_by_vocabulary(vocabulary: Sequence[Any]) -> Any:
    """Count every token of the vocabulary over the whole list, then look up one's own."""
    return _look_up_own({t: _count(t, vocabulary) for t in vocabulary}, vocabulary).named("hist")


def make_hist_by_share() -> Any:
    """Take the share of first occurrences among the same tokens: one over the count."""
    first = rasp.numerical(
        rasp.Map(lambda n: 1.0 if n == 0 else 0.0, _n_same_before()).named("is_first")
    )
    share = rasp.numerical(rasp.Aggregate(_same_token(), first, default=0)).named("share_of_first")
    return rasp.Map(lambda x: round(1 / x), share).named("hist")


def make_double_hist() -> Any:
    """Count the first occurrences whose token is as frequent as this one (RASP paper)."""
    hist = _hist()
    at_first = rasp.SequenceMap(
        lambda n, before: n if before == 0 else 0, hist, _n_same_before()
    ).named("hist_at_first")
    as_frequent = rasp.Select(at_first, hist, rasp.Comparison.EQ).named("as_frequent")
    return rasp.SelectorWidth(as_frequent).named("double_hist")


def make_double_hist_by_division() -> Any:
    """Count all positions as frequent as this one and divide by how often each token is there."""
    hist = _hist()
    as_frequent = rasp.Select(hist, hist, rasp.Comparison.EQ).named("as_frequent")
    n_positions = rasp.SelectorWidth(as_frequent).named("n_as_frequent")
    return rasp.SequenceMap(lambda positions, n: positions // max(n, 1), n_positions, hist).named(
        "double_hist"
    )


def make_count(vocabulary: Sequence[Any]) -> Any:
    """Count the first vocabulary token over the whole list."""
    return _count(vocabulary[0], vocabulary).named("count")


def make_count_by_running(vocabulary: Sequence[Any], max_length: int) -> Any:
    """Count up to each position and read the last position's count."""
    so_far = _count_so_far(vocabulary[0], "first", max_length)
    return rasp.Aggregate(_at_last(_length()), so_far).named("count")


def make_parity(vocabulary: Sequence[Any]) -> Any:
    """Count the first vocabulary token and see whether the count is odd."""
    count = _count(vocabulary[0], vocabulary).named("count")
    return rasp.Map(lambda n: n % 2 == 1, count).named("parity")


def make_parity_by_halves(vocabulary: Sequence[Any]) -> Any:
    """Count the first vocabulary token at even and at odd positions: is just one count odd?"""
    wanted = vocabulary[0]
    side = rasp.SequenceMap(
        lambda token, index: index % 2 if token == wanted else 2, rasp.tokens, rasp.indices
    ).named("side")
    even = rasp.Select(side, rasp.tokens, lambda key, _: key == 0).named("at_even")
    odd = rasp.Select(side, rasp.tokens, lambda key, _: key == 1).named("at_odd")
    n_even = rasp.SelectorWidth(even).named("n_at_even")
    n_odd = rasp.SelectorWidth(odd).named("n_at_odd")
    return rasp.SequenceMap(lambda a, b: a % 2 != b % 2, n_even, n_odd).named("parity")


def make_first_occurrence() -> Any:
    """See that no earlier position holds the same token; causal-capable."""
    return rasp.Map(lambda n: n == 0, _n_same_before()).named("first_occurrence")


def make_first_occurrence_by_vocabulary(vocabulary: Sequence[Any], max_length: int) -> Any:
    """Count every vocabulary token before each position, then look up one's own."""
    counts = {token: _count_before(token, vocabulary, max_length) for token in vocabulary}
    own = _look_up_own(counts, vocabulary).named("n_own_before")
    return rasp.Map(lambda n: n == 0, own).named("first_occurrence")


# Order


def make_rank() -> Any:
    """Count the smaller tokens."""
    smaller = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.LT).named("smaller")
    return rasp.SelectorWidth(smaller).named("rank")


def make_rank_by_others() -> Any:
    """Count the tokens that are not smaller and take them from the length."""
    others = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.GEQ).named("not_smaller")
    n_others = rasp.SelectorWidth(others).named("n_not_smaller")
    return rasp.SequenceMap(lambda length, n: length - n, _length(), n_others).named("rank")


def make_sort(vocabulary: Sequence[Any], max_length: int) -> Any:
    """Sort: a token's place is the number of smaller keys, a key being (rank, index) in one."""
    rank = {token: r for r, token in enumerate(sorted(vocabulary))}
    key = rasp.SequenceMap(
        lambda token, index: rank[token] * max_length + index, rasp.tokens, rasp.indices
    ).named("key")
    return _by_place(_n_smaller(key).named("place")).named("sort")


def make_sort_by_counting(vocabulary: Sequence[Any]) -> Any:
    """Counting sort: place p holds the first token that, with all smaller ones, outnumbers p."""
    ordered = sorted(vocabulary)
    passed = [_is_past(token, vocabulary) for token in ordered[:-1]]
    rank = passed[0]
    for past, token in zip(passed[1:], ordered[1:], strict=False):
        rank = _sum(rank, past, f"n_past_{_word(token, vocabulary)}")
    return rasp.Map(lambda r: ordered[r], rank, simplify=False).named("sort")


def make_sort_unique() -> Any:
    """Sort different tokens: a token's place is the number of smaller ones."""
    return _by_place(_n_smaller(rasp.tokens).named("place")).named("sort_unique")


def make_sort_unique_by_larger() -> Any:
    """Take the token with as many larger tokens as there are later positions."""
    larger = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.GT).named("larger")
    n_larger = rasp.SelectorWidth(larger).named("n_larger")
    selector = rasp.Select(n_larger, _n_later(), rasp.Comparison.EQ).named("as_many")
    return rasp.Aggregate(selector, rasp.tokens).named("sort_unique")


def make_sort_freq(max_length: int) -> Any:
    """Sort by frequency: a place is the number of smaller keys, (rarity, index) in one."""
    key = rasp.SequenceMap(
        lambda n, index: (max_length - n) * max_length + index, _hist(), rasp.indices
    ).named("key")
    return _by_place(_n_smaller(key).named("place")).named("sort_freq")


def make_sort_freq_by_parts() -> Any:
    """Count the more frequent and the earlier equally frequent apart, and add them to a place."""
    hist = _hist()
    more = rasp.Select(hist, hist, rasp.Comparison.GT).named("more_frequent")
    n_more = rasp.SelectorWidth(more).named("n_more_frequent")
    pair = rasp.SequenceMap(lambda n, index: (n, index), hist, rasp.indices).named("hist_at")
    tied = _same_and_before(pair).named("tied_before")
    n_tied = rasp.SelectorWidth(tied).named("n_tied_before")
    return _by_place(_sum(n_more, n_tied, "place")).named("sort_freq")


def make_most_freq(vocabulary: Sequence[Any], max_length: int) -> Any:
    """Sort by (-frequency, rank in the vocabulary) and take the first position that comes first."""
    rank, size = {token: r for r, token in enumerate(vocabulary)}, len(vocabulary)
    key = rasp.SequenceMap(
        lambda n, token: (max_length - n) * size + rank[token], _hist(), rasp.tokens
    ).named("key")
    best_at = rasp.SequenceMap(
        lambda n, index: index if n == 0 else max_length,
        _n_smaller(key).named("n_better"),
        rasp.indices,
    ).named("best_at")
    earlier = rasp.Select(best_at, best_at, rasp.Comparison.LT).named("best_before")
    n_before = rasp.SelectorWidth(earlier).named("n_best_before")
    first = rasp.Select(n_before, rasp.tokens, lambda key, _: key == 0).named("first_best")
    return rasp.Aggregate(first, rasp.tokens).named("most_freq")


def make_most_freq_by_vocabulary(vocabulary: Sequence[Any]) -> Any:
    """Count every vocabulary token and keep the best of them in turn; no position is compared."""
    best = _first_counted(vocabulary[0], _count(vocabulary[0], vocabulary))
    for token in vocabulary[1:]:
        best = _better(best, token, _count(token, vocabulary), _word(token, vocabulary))
    return rasp.Map(lambda counted: counted[1], best, simplify=False).named("most_freq")


# Shares and brackets


def make_frac_prevs(vocabulary: Sequence[Any]) -> Any:
    """Average, over the positions so far, whether they hold the first token; causal-capable."""
    return _share_so_far(vocabulary[0], "first", _so_far()).named("frac_prevs")


def make_frac_prevs_by_counting(vocabulary: Sequence[Any], max_length: int) -> Any:
    """Count the first token so far and divide by the index plus one; causal-capable."""
    return _counted_share(vocabulary[0], "first", max_length).named("frac_prevs")


def make_pair_balance(vocabulary: Sequence[Any]) -> Any:
    """Subtract the share of closes so far from that of opens (RASP paper); causal-capable."""
    opens, closes = _tokens(vocabulary, 2)
    return _balance(opens, closes, "", _so_far()).named("pair_balance")


def make_pair_balance_by_counting(vocabulary: Sequence[Any], max_length: int) -> Any:
    """Count opens and closes so far, divide by the index plus one, subtract; causal-capable."""
    opens, closes = _tokens(vocabulary, 2)
    return rasp.numerical(
        rasp.LinearSequenceMap(
            _counted_share(opens, "opens", max_length),
            _counted_share(closes, "closes", max_length),
            1,
            -1,
        )
    ).named("pair_balance")


def make_share_of_last() -> Any:
    """Fetch the last token and average, over all positions, whether they hold it."""
    everything = _everything()
    last_token = rasp.Aggregate(_at_last(_length(everything)), rasp.tokens).named("last_token")
    holds_last = rasp.SequenceMap(lambda token, last: token == last, rasp.tokens, last_token).named(
        "holds_last"
    )
    is_last = rasp.numerical(
        rasp.Map(lambda held: 1.0 if held else 0.0, holds_last).named("is_last")
    )
    return rasp.numerical(rasp.Aggregate(everything, is_last, default=0)).named("share_of_last")


def make_share_of_last_by_counting() -> Any:
    """Count how often each token occurs, read the last position's count, divide by the length."""
    length = _length()
    n_last = rasp.Aggregate(_at_last(length), _hist()).named("n_last")
    # Tracr foresees a length of 0, too.
    ratio = rasp.SequenceMap(lambda n, total: n / max(total, 1), n_last, length).named("ratio")
    return rasp.numerical(rasp.Map(lambda x: x, ratio)).named("share_of_last")


def make_shuffle_dyck(vocabulary: Sequence[Any]) -> Any:
    """See by running shares that brackets of one kind are balanced (RASP paper)."""
    return _dyck_by_shares(vocabulary, 1).named("shuffle_dyck")


def make_shuffle_dyck_by_depth(vocabulary: Sequence[Any], max_length: int) -> Any:
    """Count brackets exactly: as many of both in all, and no depth below zero."""
    return _dyck_by_depth(vocabulary, 1, max_length).named("shuffle_dyck")


def make_shuffle_dyck2(vocabulary: Sequence[Any]) -> Any:
    """See by running shares that brackets of two shuffled kinds are balanced (RASP paper)."""
    return _dyck_by_shares(vocabulary, 2).named("shuffle_dyck2")


def make_shuffle_dyck2_by_depth(vocabulary: Sequence[Any], max_length: int) -> Any:
    """Count brackets exactly, kind by kind: as many of both, and no depth below zero."""
    return _dyck_by_depth(vocabulary, 2, max_length).named("shuffle_dyck2")


# Neighbours


def make_previous_token() -> Any:
    """Attend to the position before; causal-capable."""
    return _previous(rasp.tokens, "previous_token")


def make_previous_token_by_sending() -> Any:
    """Let every position name the next one, which attends to who names it; causal-capable."""
    following = rasp.Map(lambda index: index + 1, rasp.indices).named("following")
    selector = rasp.Select(following, rasp.indices, rasp.Comparison.EQ).named("named_here")
    return rasp.Aggregate(selector, rasp.tokens).named("previous_token")


def make_shift_by() -> Any:
    """Attend to the position two before; causal-capable."""
    selector = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 2).named(
        "two_before"
    )
    return rasp.Aggregate(selector, rasp.tokens).named("shift_by")


def make_shift_by_by_steps() -> Any:
    """Shift by one position twice; causal-capable."""
    return _previous(_previous(rasp.tokens, "previous_token"), "shift_by", "one_before_again")


def make_detect_pattern(vocabulary: Sequence[Any]) -> Any:
    """Fetch the previous token and compare both with the pattern; causal-capable."""
    first, second = _tokens(vocabulary, 2)
    return rasp.SequenceMap(
        lambda previous, token: previous == first and token == second,
        _previous(rasp.tokens, "previous_token"),
        rasp.tokens,
    ).named("detect_pattern")


def make_detect_pattern_by_flags(vocabulary: Sequence[Any]) -> Any:
    """Flag the two tokens of the pattern, and shift the first one's flag; causal-capable."""
    first, second = _tokens(vocabulary, 2)
    is_first = rasp.Map(lambda token: token == first, rasp.tokens).named("is_first")
    is_second = rasp.Map(lambda token: token == second, rasp.tokens).named("is_second")
    return rasp.SequenceMap(
        lambda before, here: before and here, _previous(is_first, "first_before"), is_second
    ).named("detect_pattern")


def make_contains(vocabulary: Sequence[Any]) -> Any:
    """Fetch the previous token, flag where the pattern ends, and count the flags."""
    ends = make_detect_pattern(vocabulary).named("pattern_ends")
    # The first position has no flag, not even False: None is never selected.
    ended = rasp.Select(ends, rasp.tokens, lambda key, _: bool(key)).named("ended")
    return rasp.Map(lambda n: n > 0, rasp.SelectorWidth(ended).named("n_ends")).named("contains")


def make_contains_by_positions(vocabulary: Sequence[Any]) -> Any:
    """Name the positions the second token should be at, and count where it is; none is moved."""
    first, second = _tokens(vocabulary, 2)
    expected = rasp.SequenceMap(
        lambda token, index: index + 1 if token == first else -1, rasp.tokens, rasp.indices
    ).named("expected_at")
    follows = rasp.Select(expected, rasp.indices, rasp.Comparison.EQ).named("expected_here")
    hit = rasp.SequenceMap(
        lambda token, n: token == second and n > 0,
        rasp.tokens,
        rasp.SelectorWidth(follows).named("n_expected"),
    ).named("hit")
    hits = rasp.Select(hit, rasp.tokens, lambda key, _: key).named("hits")
    return rasp.Map(lambda n: n > 0, rasp.SelectorWidth(hits).named("n_hits")).named("contains")


def make_induction() -> Any:
    """Attend to the position whose previous token was this one's last occurrence; causal only."""
    seen, wanted = _occurrences()
    # None, at the first position, is no key.
    selector = rasp.Select(
        _previous(seen, "previous_seen"), wanted, lambda key, query: key == query
    ).named("after_last_seen")
    return rasp.Aggregate(selector, rasp.tokens).named("induction")


def make_induction_by_pointer() -> Any:
    """Fetch the last occurrence's position, add one, attend there; causal only."""
    seen, wanted = _occurrences()
    selector = rasp.Select(seen, wanted, rasp.Comparison.EQ).named("last_seen")
    last_seen_at = rasp.Aggregate(selector, rasp.indices).named("last_seen_at")
    pointer = rasp.Map(lambda index: index + 1, last_seen_at).named("pointer")
    # None, where there was no occurrence, asks for nothing.
    pointed = rasp.Select(rasp.indices, pointer, lambda key, query: key == query).named(
        "pointed_at"
    )
    return rasp.Aggregate(pointed, rasp.tokens).named("induction")


# Parts of programs


def _tokens(vocabulary: Sequence[Any], count: int) -> Sequence[Any]:
    if len(vocabulary) < count:
        raise ValueError(
            f"the program needs {count} tokens, but the vocabulary has {len(vocabulary)}"
        )
    return vocabulary[:count]


def _word(token: Any, vocabulary: Sequence[Any]) -> str:
    """Return a token as part of a name: itself, or its number if it has unsuitable characters."""
    return str(token) if str(token).isalnum() else f"token{list(vocabulary).index(token)}"


def _everything() -> Any:
    return rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE).named("everything")


def _length(everything: Any = None) -> Any:
    return rasp.SelectorWidth(_everything() if everything is None else everything).named("length")


def _sum(first: Any, second: Any, name: str) -> Any:
    return rasp.SequenceMap(lambda a, b: a + b, first, second).named(name)


def _n_later() -> Any:
    later = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.GT).named("later")
    return rasp.SelectorWidth(later).named("n_later")


def _at_last(length: Any) -> Any:
    last = rasp.Map(lambda length: length - 1, length).named("last")
    return rasp.Select(rasp.indices, last, rasp.Comparison.EQ).named("at_last")


def _so_far() -> Any:
    return rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ).named("so_far")


def _same_token() -> Any:
    return rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ).named("same_token")


def _hist() -> Any:
    return rasp.SelectorWidth(_same_token()).named("hist")


def _pairs() -> Any:
    return rasp.SequenceMap(lambda token, index: (token, index), rasp.tokens, rasp.indices).named(
        "token_at"
    )


def _same_and_before(pair: Any) -> Any:
    """Select the earlier positions whose (item, index) pair has the same item."""
    return rasp.Select(pair, pair, lambda key, query: key[0] == query[0] and key[1] < query[1])


def _n_same_before() -> Any:
    return rasp.SelectorWidth(_same_and_before(_pairs()).named("same_before")).named(
        "n_same_before"
    )


def _previous(sop: Any, name: str, selector_name: str = "one_before") -> Any:
    selector = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1).named(
        selector_name
    )
    return rasp.Aggregate(selector, sop).named(name)


def _n_smaller(key: Any) -> Any:
    return rasp.SelectorWidth(rasp.Select(key, key, rasp.Comparison.LT).named("smaller"))


def _by_place(place: Any) -> Any:
    selector = rasp.Select(place, rasp.indices, rasp.Comparison.EQ).named("placed_here")
    return rasp.Aggregate(selector, rasp.tokens)


def _count(token: Any, vocabulary: Sequence[Any]) -> Any:
    word = _word(token, vocabulary)
    selector = rasp.Select(rasp.tokens, rasp.tokens, lambda key, _: key == token)
    return rasp.SelectorWidth(selector.named(f"is_{word}")).named(f"n_{word}")


def _positions_of(token: Any, word: str, max_length: int) -> Any:
    """Return a position's own index where it holds `token`, else an index beyond the list."""
    return rasp.SequenceMap(
        lambda held, index: index if held == token else max_length, rasp.tokens, rasp.indices
    ).named(f"{word}_at")


def _count_so_far(token: Any, word: str, max_length: int) -> Any:
    positions = _positions_of(token, word, max_length)
    selector = rasp.Select(positions, rasp.indices, rasp.Comparison.LEQ).named(f"{word}_so_far")
    return rasp.SelectorWidth(selector).named(f"n_{word}_so_far")


def _count_before(token: Any, vocabulary: Sequence[Any], max_length: int) -> Any:
    word = _word(token, vocabulary)
    positions = _positions_of(token, word, max_length)
    selector = rasp.Select(positions, rasp.indices, rasp.Comparison.LT).named(f"{word}_before")
    return rasp.SelectorWidth(selector).named(f"n_{word}_before")


def _look_up_own(counts: dict[Any, Any], vocabulary: Sequence[Any]) -> Any:
    """Return at every position the count of the token it holds, from counts by token."""
    own = None
    for token, count in counts.items():
        word = _word(token, vocabulary)
        here = _where(token, count).named(f"own_if_{word}")
        own = here if own is None else rasp.SequenceMap(max, own, here).named(f"up_to_{word}")
    return own


def _where(token: Any, count: Any) -> Any:
    return rasp.SequenceMap(lambda held, n: n if held == token else 0, rasp.tokens, count)


def _is_past(token: Any, vocabulary: Sequence[Any]) -> Any:
    """Return 1 at the positions beyond the tokens that are at most `token`, else 0."""
    word = _word(token, vocabulary)
    selector = rasp.Select(rasp.tokens, rasp.tokens, lambda key, _: key <= token)
    count = rasp.SelectorWidth(selector.named(f"at_most_{word}")).named(f"n_at_most_{word}")
    return rasp.SequenceMap(lambda index, n: 1 if index >= n else 0, rasp.indices, count).named(
        f"past_{word}"
    )


def _first_counted(token: Any, count: Any) -> Any:
    return rasp.Map(lambda n: (n, token), count).named("counted")


def _better(best: Any, token: Any, count: Any, word: str) -> Any:
    return rasp.SequenceMap(
        lambda counted, n: (n, token) if n > counted[0] else counted, best, count
    ).named(f"best_up_to_{word}")


def _share_so_far(token: Any, word: str, so_far: Any) -> Any:
    is_token = rasp.numerical(
        rasp.Map(lambda held: 1.0 if held == token else 0.0, rasp.tokens).named(f"is_{word}")
    )
    return rasp.numerical(rasp.Aggregate(so_far, is_token, default=0)).named(f"share_{word}")


def _counted_share(token: Any, word: str, max_length: int) -> Any:
    ratio = rasp.SequenceMap(
        lambda n, index: n / (index + 1), _count_so_far(token, word, max_length), rasp.indices
    ).named(f"ratio_{word}")
    return rasp.numerical(rasp.Map(lambda x: x, ratio)).named(f"share_{word}")


def _balance(opens: Any, closes: Any, kind: str, so_far: Any) -> Any:
    return rasp.numerical(
        rasp.LinearSequenceMap(
            _share_so_far(opens, f"open{kind}", so_far),
            _share_so_far(closes, f"close{kind}", so_far),
            1,
            -1,
        )
    ).named(f"balance{kind}")


def _kinds(vocabulary: Sequence[Any], kinds: int) -> list[tuple[Any, Any, str]]:
    """Return the brackets and the suffix of each kind."""
    brackets = _tokens(vocabulary, 2 * kinds)
    suffixes = [""] if kinds == 1 else [str(kind + 1) for kind in range(kinds)]
    return list(zip(brackets[::2], brackets[1::2], suffixes, strict=True))


def _fold(f: Callable[[Any, Any], Any], sops: Sequence[Any], name: str) -> Any:
    """Return one or two s-ops as one."""
    return rasp.SequenceMap(f, *sops).named(name) if len(sops) > 1 else sops[0]


def _dyck_by_shares(vocabulary: Sequence[Any], kinds: int) -> Any:
    so_far, everything, negatives, zeros = _so_far(), _everything(), [], []
    for opens, closes, kind in _kinds(vocabulary, kinds):
        balance = _balance(opens, closes, kind, so_far)
        negatives.append(rasp.Map(lambda x: x < 0, balance).named(f"negative{kind}"))
        zeros.append(rasp.Map(lambda x: x == 0, balance).named(f"zero{kind}"))
    negative = _fold(lambda a, b: a or b, negatives, "any_negative")
    zero = _fold(lambda a, b: a and b, zeros, "all_zero")
    number = rasp.numerical(
        rasp.Map(lambda below: 1.0 if below else 0.0, negative, simplify=False)
    ).named("negative_number")
    share = rasp.numerical(rasp.Aggregate(everything, number, default=0)).named("share_negative")
    never = rasp.Map(lambda x: x == 0, share).named("never_negative")
    last_zero = rasp.Aggregate(_at_last(_length(everything)), zero).named("last_zero")
    return rasp.SequenceMap(lambda a, b: a and b, last_zero, never)


def _dyck_by_depth(vocabulary: Sequence[Any], kinds: int, max_length: int) -> Any:
    balanced = []
    for opens, closes, kind in _kinds(vocabulary, kinds):
        depth = rasp.SequenceMap(
            lambda up, down: up - down,
            _count_so_far(opens, f"open{kind}", max_length),
            _count_so_far(closes, f"close{kind}", max_length),
        ).named(f"depth{kind}")
        below = rasp.Select(depth, rasp.tokens, lambda key, _: key < 0).named(f"below{kind}")
        n_below = rasp.SelectorWidth(below).named(f"n_below{kind}")
        total = rasp.SequenceMap(
            lambda up, down: up == down,
            _total(opens, f"open{kind}"),
            _total(closes, f"close{kind}"),
        ).named(f"as_many{kind}")
        balanced.append(
            rasp.SequenceMap(lambda same, n: same and n == 0, total, n_below).named(
                f"balanced{kind}"
            )
        )
    return _fold(lambda a, b: a and b, balanced, "balanced")


def _total(token: Any, word: str) -> Any:
    selector = rasp.Select(rasp.tokens, rasp.tokens, lambda key, _: key == token)
    return rasp.SelectorWidth(selector.named(f"is_{word}")).named(f"n_{word}")


def _occurrences() -> tuple[Any, Any]:
    """Return each position's (token, how often so far) and the same of its last occurrence."""
    # Under the causal mask, only equal tokens up to this position are counted.
    n_seen = rasp.SelectorWidth(_same_token()).named("n_seen")
    seen = rasp.SequenceMap(lambda token, n: (token, n), rasp.tokens, n_seen).named("seen")
    wanted = rasp.SequenceMap(lambda token, n: (token, n - 1), rasp.tokens, n_seen).named("wanted")
    return seen, wanted
