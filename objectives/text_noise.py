"""BART's five noises, each a plain function over ragged arrays of text without the special tokens around it.

Lewis et al. 2019, arXiv 1910.13461, section 2.2. Permutation and rotation give an index that lays the tokens in another
order, so that columns which belong to the tokens can be laid in it too; the others give the corrupted text.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from . import keyed, noise
from .ragged import Ragged, row_sums, slices

MASK, DELETE, LENGTHS, PLACE, RANDOM, PERMUTED, SHUFFLE, ROTATED, OFFSET = range(310, 319)
"""Streams of randomness."""


def token_masking(text: Ragged, maskable: np.ndarray, key: np.ndarray, ratio: float, mask_id: int) -> Ragged:
    """Each `maskable` token becomes the mask with this probability.

    the cat sat on the mat  →  the <mask> sat on <mask> mat
    """
    chosen = noise.bernoulli(keyed.combine(key, MASK), text, ratio)
    values = text.values.copy()
    values[chosen[maskable[chosen]]] = mask_id
    return text.with_values(values)


def token_deletion(text: Ragged, maskable: np.ndarray, key: np.ndarray, ratio: float) -> Ragged:
    """Each `maskable` token is deleted with this probability, and nothing marks its place.

    the cat sat on the mat  →  the sat on mat
    """
    chosen = noise.bernoulli(keyed.combine(key, DELETE), text, ratio)
    keep = np.ones(len(text.values), bool)
    keep[chosen] = ~maskable[chosen]
    return text.keep(keep)


def sentence_permutation(text: Ragged, sentence_starts: np.ndarray, key: np.ndarray, ratio: float = 1.0) -> np.ndarray:
    """Index `[T]` that lays each row's sentences in another order, ⌈ratio · sentences⌉ of them among themselves.

    the cat sat. it purred. rain fell.  →  rain fell. the cat sat. it purred.

    Args:
        sentence_starts: bool `[T]`; the first token of a row begins a sentence in any case.
    """
    first, size = noise.units_from_starts(sentence_starts, text)
    per_row = noise.row_counts(first, text.offsets)
    row = np.repeat(np.arange(len(text), dtype=np.uint64), per_row)
    number = slices(np.zeros(len(text), np.int64), per_row)
    chosen = np.arange(len(first))
    if ratio < 1:
        score = (keyed.bits_at(key[row], number, PERMUTED) >> np.uint64(32)).astype(np.uint32)
        budget = np.ceil(per_row * ratio - 1e-9).astype(np.int64)
        chosen = noise.smallest(score, np.append(0, np.cumsum(per_row)), budget)
    score = keyed.bits_at(key[row[chosen]], number[chosen], SHUFFLE) >> np.uint64(32)
    order = np.arange(len(first))
    order[chosen] = chosen[np.argsort((row[chosen] << np.uint64(32)) | score, kind="stable")]
    return slices(first[order], size[order])


def document_rotation(text: Ragged, key: np.ndarray, probability: float = 1.0) -> np.ndarray:
    """Index `[T]` that lets a row, with this probability, begin at any of its tokens but the first.

    the cat sat on the mat  →  on the mat the cat sat
    """
    zero = np.zeros(len(text), np.int64)
    chosen = (text.lengths > 1) & (keyed.uniform_at(key, zero, ROTATED) < probability)
    offset = np.where(chosen, 1 + keyed.integers_at(key, zero, OFFSET, np.maximum(text.lengths - 1, 1)), 0)
    size = np.repeat(text.lengths, text.lengths)
    position = text.positions + np.repeat(offset, text.lengths)
    return position - size * (position >= size) + np.repeat(text.offsets[:-1], text.lengths)


def text_infilling(
    text: Ragged,
    word_starts: np.ndarray,
    maskable: np.ndarray,
    key: np.ndarray,
    *,
    mask_ratio: float = 0.3,
    poisson_lambda: float = 3.0,
    mask_id: int,
    replace_length: int = 1,
    random_replace_prob: float = 0.0,
    pool: np.ndarray | None = None,
) -> Ragged:
    """Spans of words become one mask each, whatever their length; spans of no word insert a mask.

    the cat sat on the mat  →  the <mask> on <mask> the mat

    ⌈mask_ratio · words⌉ words of each row are in spans, no two of which overlap; every placement is equally likely.
    Tokens that are not maskable are no words: they stay, even inside a span. Masks are inserted only where each span
    becomes one mask: with a mask for each token nothing is saved, and the row would outgrow its text.

    Args:
        word_starts, maskable: bool `[T]`.
        replace_length, random_replace_prob: see `denoising.Denoising`.
        pool: ids of random tokens.
    """
    starts = word_starts | ~maskable
    starts[1:] |= ~maskable[:-1]
    first, size = noise.units_from_starts(starts, text)
    usable = maskable[first]
    if not usable.all():
        first, size = first[usable], size[usable]
    words = noise.row_counts(first, text.offsets)
    budget = np.ceil(words * mask_ratio - 1e-9).astype(np.int64)
    spans = poisson_spans(key, budget, poisson_lambda)
    begin, spans = place_spans(key, words, spans)
    key = np.repeat(key, spans.lengths)
    row = np.repeat(np.arange(len(text)), spans.lengths)
    word = begin.values + np.repeat(np.cumsum(words) - words, spans.lengths)  # in `first`; maybe one past the row's
    filled = spans.values > 0

    values, keep = text.values.copy(), np.ones(len(text.values), bool)
    covered = slices(word[filled], spans.values[filled])
    covered = slices(first[covered], size[covered])
    marks = first[word[filled]]
    if replace_length < 0:
        owner = np.searchsorted(marks, covered, "right") - 1
        place = covered - text.offsets[row[filled][owner]] + (1 << 32)
        values[covered] = _fill(key[filled][owner], place, mask_id, random_replace_prob, pool)
        return text.with_values(values)
    keep[covered] = False
    if replace_length == 0:
        return text.keep(keep)
    fill = _fill(key, begin.positions, mask_id, random_replace_prob, pool)
    values[marks] = fill[filled]
    keep[marks] = True
    inserted = np.flatnonzero(~filled)
    if not len(inserted):
        return text.with_values(values).keep(keep)
    at_end = begin.values[inserted] >= words[row[inserted]]
    place = np.where(at_end, text.offsets[1:][row[inserted]], first[np.minimum(word[inserted], len(first) - 1)])
    lengths = row_sums(keep, text.offsets) + noise.row_counts(inserted, begin.offsets)
    values = np.insert(values, place, fill[inserted])
    return Ragged(values[np.insert(keep, place, True)], lengths)


def _fill(key: np.ndarray, number: np.ndarray, mask_id: int, random_prob: float, pool: np.ndarray | None) -> np.ndarray:
    """Masks, with this probability random tokens; `number` tells a row's apart."""
    fill = np.full(len(key), mask_id, np.int64)
    if random_prob > 0 and pool is not None:
        random = keyed.uniform_at(key, number, RANDOM) < random_prob
        fill[random] = pool[keyed.integers_at(key[random], number[random], noise.DRAW, len(pool))]
    return fill


def poisson_spans(key: np.ndarray, budget: np.ndarray, poisson_lambda: float) -> Ragged:
    """Lengths of each row's spans: Poisson draws until they sum to its `budget`, the last one cut to it.

    Draws of zero are kept as far as the input then does not outgrow its text: as many as the spans save words.
    """
    table = _poisson(poisson_lambda)
    draws = int(budget.max(initial=0) / poisson_lambda * 1.25) + 16
    while True:
        bits = keyed.row_bits(key, np.full(len(budget), draws), LENGTHS).reshape(len(budget), draws)
        drawn = np.searchsorted(table, bits, "right")
        total = drawn.cumsum(1)
        if (total[:, -1] >= budget).all():
            break
        draws *= 2
    short = total < budget[:, None]
    used = short.copy()
    used[:, 0] |= budget > 0
    used[:, 1:] |= short[:, :-1]
    rows = np.flatnonzero(budget)
    last = used[rows].sum(1) - 1
    drawn[rows, last] -= total[rows, last] - budget[rows]
    zero = used & (drawn == 0)
    if zero.any():
        saved = budget - (used & ~zero).sum(1)
        used &= ~zero | (zero.cumsum(1) <= saved[:, None])
    return Ragged(drawn[used], used.sum(1))


@lru_cache
def _poisson(mean: float) -> np.ndarray:
    """uint32: draws of 32 bits below `table[n]` are lengths up to `n`."""
    number = np.arange(1, int(mean + 12 * mean**0.5 + 40))
    density = np.exp(-mean + np.concatenate([[0.0], np.cumsum(np.log(mean / number))]))
    return np.minimum(np.round(np.cumsum(density) * 2.0**32), 2.0**32 - 1).astype(np.uint32)


def place_spans(key: np.ndarray, units: np.ndarray, spans: Ragged) -> tuple[Ragged, Ragged]:
    """(unit of the row at which each span begins, in order; the spans' lengths in that order).

    A row of n units with spans of k units in all is a row of n − k units and one item per span, whichever places the
    spans take; so places are drawn without replacement, and every placement without overlap is equally likely.

    Args:
        units: int64 `[B]`, units of each row, at least as many as its spans cover.
        spans: lengths of the spans, some of which may be zero.
    """
    items = units - row_sums(spans.values, spans.offsets) + spans.lengths
    offsets = np.append(0, np.cumsum(items))
    chosen = noise.by_score(keyed.row_bits(key, items, PLACE), offsets, spans.lengths)
    order = np.argsort(chosen)  # keeps to the rows
    spans = spans.with_values(spans.values[order])
    before = np.append(0, np.cumsum(spans.values))
    before = before[:-1] - np.repeat(before[spans.offsets[:-1]], spans.lengths)
    begin = chosen[order] - np.repeat(offsets[:-1], spans.lengths) - spans.positions + before
    return spans.with_values(begin), spans
