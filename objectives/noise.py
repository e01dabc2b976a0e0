"""Noise on flat arrays: choosing units, and replacing what was chosen. Plain functions that need no class of ours.

Units are given by the flat index of their first token, in order, and their length in tokens; a token is a unit of
length 1. Whatever is random comes from `keyed`, per row key and position, so it does not depend on the batch.
"""

from __future__ import annotations

import numpy as np

from . import keyed
from .ragged import Ragged, slices

CHOOSE, DECIDE, DRAW, ORDER, SIZE = range(5)
"""Streams of randomness: choosing units, mask/random/keep, the random token, order of visits, n-gram sizes."""


def row_counts(index: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64 `[B]`: how many of the sorted flat indices fall into each row."""
    return np.diff(np.searchsorted(index, offsets))


def bernoulli(key: np.ndarray, rows: Ragged, probability: float | np.ndarray) -> np.ndarray:
    """Flat indices of tokens chosen independently, each with `probability` (one number, or one per row)."""
    bits = keyed.row_bits(key, rows.lengths, CHOOSE)
    if np.ndim(probability) == 0:
        if probability >= 1:
            return np.arange(len(bits))
        return np.flatnonzero(bits < np.uint32(keyed.threshold(probability)))
    return np.flatnonzero(bits < np.repeat(keyed.threshold(probability), rows.lengths))


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
    share = count / np.maximum(sizes, 1)
    slack = 4 * np.sqrt(share * (1 - share) / np.maximum(sizes, 1)) + 4 / np.maximum(sizes, 1)
    bound = np.minimum(share + slack, 1.0)
    low = np.flatnonzero(score <= np.repeat(np.minimum(bound * 2.0**32, 2.0**32 - 1).astype(np.uint32), sizes))
    found = row_counts(low, offsets)
    if (found < count).any():
        short = np.flatnonzero(found < count)
        low = np.union1d(low, slices(offsets[short], sizes[short]))
        found = row_counts(low, offsets)
    row = np.repeat(np.arange(len(sizes), dtype=np.uint64), found)
    order = np.argsort((row << np.uint64(32)) | score[low], kind="stable")
    first = np.cumsum(found) - found
    return low[order[slices(first, count)]]


def units_from_starts(starts: np.ndarray, rows: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """(first, length) of the units that begin where `starts`, bool `[T]`, is true, and at every row start."""
    starts = starts.copy()
    nonempty = rows.lengths > 0
    starts[rows.offsets[:-1][nonempty]] = True
    first = np.flatnonzero(starts)
    return first, np.diff(first, append=len(starts))


def visit_order(key: np.ndarray, first: np.ndarray, rows: Ragged) -> tuple[np.ndarray, np.ndarray]:
    """A random order of each row's units: (indices into `first`, row by row; units per row)."""
    per_row = row_counts(first, rows.offsets)
    row = np.repeat(np.arange(len(rows), dtype=np.uint64), per_row)
    positions = first - np.repeat(rows.offsets[:-1], per_row)
    score = keyed.bits_at(np.repeat(key, per_row), positions, ORDER) >> np.uint64(32)
    return np.argsort((row << np.uint64(32)) | score, kind="stable"), per_row


def fill_budget(
    order: np.ndarray,
    per_row: np.ndarray,
    first: np.ndarray,
    length: np.ndarray,
    budget: np.ndarray,
    size: np.ndarray | None = None,
) -> np.ndarray:
    """Visit units in order, take those that fit what is left of each row's `budget` (tokens); sorted flat indices.

    With `size` (int `[N]`, by unit), a visit takes up to that many neighbouring units of the row, fewer where they
    would overshoot, none where one of them is taken already (ALBERT's n-grams). A unit that does not fit is skipped,
    as BERT does. All rows are visited side by side: the loop runs once per visit, not per row or token.
    """
    begin = np.cumsum(per_row) - per_row
    taken = np.zeros(len(first), bool)
    left = budget.astype(np.int64).copy()
    active = np.flatnonzero((left > 0) & (per_row > 0))
    totals = np.append(0, np.cumsum(length))
    visit = 0
    longest = 1 if size is None else int(size.max())
    while len(active):
        unit = order[begin[active] + visit]
        end = unit + 1
        if size is not None:
            end = np.minimum(unit + size[unit], begin[active] + per_row[active])
            for step in range(1, longest):  # neighbours must touch: a special token between two units ends the n-gram
                here = np.minimum(unit + step, len(first) - 1)
                apart = first[here] != first[here - 1] + length[here - 1]
                end = np.where(apart & (unit + step < end), unit + step, end)
            for _ in range(1, longest):
                end -= (end > unit + 1) & (totals[end] - totals[unit] > left[active])
        cost = totals[end] - totals[unit]
        free = cost <= left[active]
        for step in range(longest):
            free &= ~(taken[np.minimum(unit + step, len(first) - 1)] & (unit + step < end))
        chosen, stop = unit[free], end[free]
        taken[slices(chosen, stop - chosen)] = True
        left[active[free]] -= cost[free]
        visit += 1
        active = active[(left[active] > 0) & (visit < per_row[active])]
    chosen = np.flatnonzero(taken)
    return slices(first[chosen], length[chosen])


def replace(
    values: np.ndarray,
    chosen: np.ndarray,
    key: np.ndarray,
    position: np.ndarray,
    *,
    mask_id: int,
    pool: np.ndarray,
    mask_prob: float = 0.8,
    random_prob: float = 0.1,
    decide_at: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of `values` with the tokens at flat indices `chosen` masked, replaced at random, or left unchanged.

    Args:
        key, position: `[N]`, row key and position in the row of each chosen token.
        mask_prob, random_prob: shares of chosen tokens; the rest stays unchanged.
        decide_at: `[N]`, position whose draw decides; tokens that share it share the decision (SpanBERT's spans).
    """
    out = values.copy()
    if mask_prob >= 1:
        out[chosen] = mask_id
        return out
    u = keyed.uniform_at(key, position if decide_at is None else decide_at, DECIDE)
    out[chosen[u < mask_prob]] = mask_id
    random = (u >= mask_prob) & (u < mask_prob + random_prob)
    if random.any():
        drawn = keyed.integers_at(key[random], position[random], DRAW, len(pool))
        out[chosen[random]] = pool[drawn]
    return out
