"""Noise on flat arrays: choosing units, and replacing what was chosen. Plain functions that need no class of ours.

Units are given by the flat index of their first token, in order, and their length in tokens; a token is a unit of
length 1. Whatever is random comes from `keyed`, per row key and position, so it does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import keyed
from .ragged import Ragged, running_total, slices

CHOOSE, DECIDE, DRAW, ORDER, SIZE = range(5)
"""Streams of randomness: choosing units, mask/random/keep, the random token, order of visits, n-gram sizes."""
ALL_BITS = 2**32 - 1
"""Largest 32-bit draw."""
VISITS_AT_ONCE = 1.3
"""How far beyond the budget visits of several units are settled together, since some of them meet."""


def row_counts(index: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64 `[B]`: how many of the sorted flat indices fall into each row."""
    return np.diff(np.searchsorted(index, offsets))


def bernoulli(key: np.ndarray, rows: Ragged, probability: float | np.ndarray) -> np.ndarray:
    """Flat indices of tokens chosen independently, each with `probability` (one number, or one per row)."""
    return below(keyed.row_bits(key, rows.lengths, CHOOSE), rows.lengths, probability)


def below(bits: np.ndarray, lengths: np.ndarray, probability: float | np.ndarray) -> np.ndarray:
    """Indices where 32-bit draws, for rows of these lengths, say yes with `probability` (one, or one per row)."""
    limit = keyed.threshold(probability)
    if limit.ndim:
        return np.flatnonzero(bits < np.repeat(limit, lengths))
    if limit > ALL_BITS:  # probability 1: 2³² is no 32-bit number
        return np.arange(len(bits))
    return np.flatnonzero(bits < np.uint32(limit))


def smallest(score: np.ndarray, offsets: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sorted indices of the `count[b]` smallest scores (uint32) of each row; ties go to the earlier position.

    With uniform scores this draws without replacement.
    """
    return np.sort(by_score(score, offsets, count))


def by_score(score: np.ndarray, offsets: np.ndarray, count: np.ndarray) -> np.ndarray:
    """What `smallest` gives, row by row, but within a row in the order of scores: a random order.

    Only scores below a bound that nearly always suffices are sorted; where it does not suffice, all are, so that the
    bound never changes the result.
    """
    sizes = np.diff(offsets)
    count = np.minimum(count, sizes)
    low, found = _low(score, offsets, count / np.maximum(sizes, 1))
    if (found < count).any():
        short = np.flatnonzero(found < count)
        low = np.union1d(low, slices(offsets[short], sizes[short]))
        found = row_counts(low, offsets)
    return _in_order(low, found, score)[slices(np.cumsum(found) - found, count)]


def _low(score: np.ndarray, offsets: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sorted indices of scores that lie in the lowest `share[b]` of a row and some more, how many of each row)."""
    sizes = np.diff(offsets)
    most = np.maximum(sizes, 1)
    bound = np.minimum(share + 4 * np.sqrt(share * (1 - share) / most) + 4 / most, 1.0)
    low = np.flatnonzero(score <= np.repeat((bound * ALL_BITS).astype(np.uint32), sizes))
    return low, row_counts(low, offsets)


def _in_order(index: np.ndarray, counts: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Indices, sorted and `counts[b]` of each row, in the order of their scores within rows; ties keep their order."""
    row = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
    ranked = (row << np.uint64(32)) | score[index]
    place = np.uint64(len(index).bit_length())
    if len(counts) << int(place) > 2**32:  # too many to pack row, score and place into 64 bits
        return index[np.argsort(ranked, kind="stable")]
    packed = (ranked << place) | np.arange(len(index), dtype=np.uint64)
    packed.sort()  # sorting numbers is five times faster than a stable order of them
    return index[(packed & ((np.uint64(1) << place) - np.uint64(1))).astype(np.int64)]


def units_from_starts(starts: np.ndarray, rows: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """(first, length) of the units that begin where `starts`, bool `[T]`, is true, and at every row start."""
    starts = starts.copy()
    nonempty = rows.lengths > 0
    starts[rows.offsets[:-1][nonempty]] = True
    first = np.flatnonzero(starts)
    return first, np.diff(first, append=len(starts))


def fill_budget(
    score: np.ndarray,
    offsets: np.ndarray,
    first: np.ndarray,
    length: np.ndarray,
    budget: np.ndarray,
    size: Callable[[np.ndarray], np.ndarray] = np.ones_like,
) -> np.ndarray:
    """Visit the units of each row in the order of their scores, take those that fit the budget; sorted flat indices.

    A unit that would overshoot what is left of the budget is passed over, and the visits go on (BERT's whole words).
    With `size`, a visit takes several neighbouring units, the fewer the less is left, and none where one of them is
    taken already (ALBERT's n-grams). Visits are as in the loop over all units that the papers' code has, but only
    units of low score are sorted and visited, and all of a row where those do not use up its budget.

    Args:
        score: uint32 `[N]`, by unit; ties go to the earlier unit.
        offsets: int64 `[B + 1]`, units `offsets[b]` to `offsets[b + 1] - 1` are those of row `b`.
        first, length: int64 `[N]`, flat index of each unit's first token, and its tokens.
        budget: int64 `[B]`, tokens to take at most.
        size: gives, for indices of units, how many units a visit to each takes, 1 or more. They have to be of one row.
    """
    totals = running_total(length)
    tokens = totals[offsets[1:]] - totals[offsets[:-1]]
    taken = np.zeros(len(first), bool)
    low, found = _low(score, offsets, np.minimum(budget / np.maximum(tokens, 1), 1))
    units = _in_order(low, found, score)
    left = _visit(units, units + size(units), found, totals, budget, taken)
    short = np.flatnonzero((left > 0) & (found < np.diff(offsets)))
    if len(short):
        found = np.diff(offsets)[short]
        units = slices(offsets[short], found)
        taken[units] = False
        units = _in_order(units, found, score)
        _visit(units, units + size(units), found, totals, budget[short], taken)
    chosen = np.flatnonzero(taken)
    return slices(first[chosen], length[chosen])


def _visit(
    units: np.ndarray, ends: np.ndarray, counts: np.ndarray, totals: np.ndarray, budget: np.ndarray, taken: np.ndarray
) -> np.ndarray:
    """Visits, `counts[b]` of each row, in the given order: fills in `taken`, returns what is left of the budget.

    Args:
        units, ends: what a visit takes if it can: units `units[v]` to `ends[v] - 1`.
        totals: tokens before each unit.
    """
    cost = totals[ends] - totals[units]
    spent = running_total(cost)
    begin = np.cumsum(counts) - counts
    longest = int((ends - units).max(initial=1))
    # Until a visit has to be cut to what is left, the budget plays no part, and visits can be settled together.
    reach = budget if longest == 1 else budget * VISITS_AT_ONCE
    stop = np.minimum(np.searchsorted(spent, spent[begin] + reach, "right") - 1, begin + counts)
    now = slices(begin, stop - begin)
    if longest > 1:
        size, at = stop - begin, np.cumsum(stop - begin) - (stop - begin)
        free = _first_come(units[now], ends[now], len(taken))
        used = running_total(cost[now] * free)
        over = np.flatnonzero(cost[now] + used[:-1] > np.repeat(used[at] + budget, size))
        size = np.minimum(np.append(over, len(now))[np.searchsorted(over, at)] - at, size)
        stop, kept = begin + size, slices(at, size)
        now = now[kept][free[kept]]
        left = budget - (used[at + size] - used[at])
    else:
        left = budget - (spent[stop] - spent[begin])
    taken[slices(units[now], ends[now] - units[now])] = True
    rest = np.where(left > 0, begin + counts - stop, 0)
    later = slices(stop, rest)
    units, ends, row = units[later], ends[later], np.repeat(np.arange(len(counts)), rest)
    while True:
        fits = (totals[units + 1] - totals[units] <= left[row]) & ~taken[units]  # what does not fit now never will
        units, ends, row = units[fits], ends[fits], row[fits]
        if not len(units):
            return left
        following = np.append(False, row[1:] == row[:-1])
        unit, end, here = units[~following], ends[~following], row[~following]  # the next visit of each row
        while (over := totals[end] - totals[unit] > left[here]).any():
            end = end - over
        clear = np.diff(running_total(taken[slices(unit, end - unit)])[running_total(end - unit)]) == 0
        unit, end, here = unit[clear], end[clear], here[clear]
        taken[slices(unit, end - unit)] = True
        left[here] -= totals[end] - totals[unit]
        units, ends, row = units[following], ends[following], row[following]


def _first_come(begin: np.ndarray, end: np.ndarray, size: int) -> np.ndarray:
    """bool `[N]`: which intervals stay if each, in turn, goes away that meets an earlier one that stayed.

    Intervals are `begin[n]` … `end[n] - 1` of 0 … `size` − 1. Found in rounds: those that are the earliest in each of
    their places stay, and those that they meet go.
    """
    stays = np.ones(len(begin), bool)
    if (end - begin == 1).all():
        return stays
    waiting = np.arange(len(begin))
    earliest, held = np.empty(size, np.int64), np.zeros(size, bool)
    while len(waiting):
        lengths = (end - begin)[waiting]
        offsets = np.cumsum(lengths) - lengths
        places = slices(begin[waiting], lengths)
        owner = np.repeat(waiting, lengths)
        earliest[places] = len(begin)
        np.minimum.at(earliest, places, owner)
        wins = np.logical_and.reduceat(earliest[places] == owner, offsets)
        held[places[np.repeat(wins, lengths)]] = True
        met = np.logical_or.reduceat(held[places], offsets)
        stays[waiting[met & ~wins]] = False
        waiting = waiting[~met]
    return stays


def neighbours(units: np.ndarray, first: np.ndarray, length: np.ndarray, offsets: np.ndarray, limit: int) -> np.ndarray:
    """int64: how many units, 1 … `limit`, follow each other without a gap from each of `units` on, in its row.

    Tokens that belong to no unit (special tokens) are gaps.

    Args:
        first, length, offsets: of all units, as for `fill_budget`.
    """
    touches = np.zeros(len(first) + limit, bool)  # the unit after it
    touches[: max(len(first) - 1, 0)] = first[:-1] + length[:-1] == first[1:]
    touches[offsets[1:] - 1] = False
    count = np.ones(len(units), np.int64)
    for step in range(limit - 1):
        count += touches[units + step] & (count == step + 1)
    return count


def harmonic_sizes(u: np.ndarray, most: np.ndarray) -> np.ndarray:
    """int64 `[N]`: sizes n in 1 … `most`, P(n) ∝ 1/n, for uniform numbers in [0, 1)."""
    sums = np.append(0.0, np.cumsum(1 / np.arange(1, int(most.max(initial=1)) + 1)))
    scaled = u * sums[most]
    sizes = np.ones(len(u), np.int64)
    for bound in sums[1:-1]:
        sizes += scaled >= bound
    return sizes


def replace(
    values: np.ndarray,
    chosen: np.ndarray,
    key: np.ndarray,
    positions: Ragged,
    *,
    mask_id: int | None,
    pool: np.ndarray,
    mask_prob: float = 0.8,
    random_prob: float = 0.1,
    decide_at: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of `values` with the tokens at flat indices `chosen` masked, replaced at random, or left unchanged.

    Args:
        key: uint64 `[B]`, keys of the rows.
        positions: position in its row of each chosen token.
        mask_id: may be `None` where nothing is masked.
        pool: ids that random tokens are drawn from, uniformly.
        mask_prob, random_prob: shares of chosen tokens; the rest stays unchanged.
        decide_at: `[N]`, position whose draw decides; tokens that share it share the decision (SpanBERT's spans).
    """
    out = values.copy()
    if mask_prob >= 1:
        out[chosen] = mask_id
        return out
    decide_at = positions.values if decide_at is None else decide_at
    u = keyed.uniform_at(key, decide_at, DECIDE, positions.lengths)
    new = np.where(u < mask_prob, mask_id or 0, values[chosen])
    random = np.flatnonzero((u >= mask_prob) & (u < mask_prob + random_prob))
    drawn = keyed.integers_at(key[positions.rows[random]], positions.values[random], DRAW, len(pool))
    new[random] = pool[drawn]
    out[chosen] = new
    return out
