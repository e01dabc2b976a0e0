"""T5's noise spans and their sentinels, as plain functions over ragged arrays.

Raffel et al. 2019, arXiv 1910.10683; the released preprocessors `random_spans_helper`, `random_spans_noise_mask`,
`noise_span_to_unique_sentinel`, and `nonnoise_span_to_unique_sentinel`, which is the one before on `~mask`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import keyed, noise
from .ragged import Ragged

CLEAN, NOISY = range(300, 302)
"""Streams of randomness: lengths of clean and of noise spans."""


def raw_length(length: int, noise_density: float, mean_noise_span_length: float) -> tuple[int, int]:
    """(tokens of a row before corruption, tokens of its target) for inputs of `length` tokens, end tokens included.

    The largest row that fits; at a density of one half, one token less where the target would outgrow the input.
    Raises `ValueError` for a length without room.

    >>> raw_length(512, 0.15, 3.0)
    (568, 114)
    """

    def lengths(tokens: int) -> tuple[int, int]:
        count, spans = noise_counts(np.array([tokens]), noise_density, mean_noise_span_length)
        return tokens - int(count[0]) + int(spans[0]) + 1, int(count[0] + spans[0]) + 1

    if length < 3:
        raise ValueError(f"length {length} leaves no room for text, sentinel and end token; use a larger length")
    tokens = length - 1
    while lengths(tokens + 1)[0] <= length:
        tokens += 1
    target = lengths(tokens)[1]
    if noise_density == 0.5 and target > lengths(tokens)[0]:
        return tokens - 1, target - 1
    return tokens, target


def noise_counts(lengths: np.ndarray, density: Any, mean: Any) -> tuple[np.ndarray, np.ndarray]:
    """(noise tokens, noise spans) of rows, int64 `[B]` each, rounded half to even; rows below two tokens have none.

    Args:
        lengths: int64 `[B]`.
        density, mean: share of noise tokens and mean span length; a number, or one per row.
    """
    count = np.clip(np.rint(lengths * density).astype(np.int64), 1, np.maximum(lengths - 1, 1))
    count[lengths < 2] = 0
    spans = np.maximum(np.rint(count / mean).astype(np.int64), 1)
    return count, np.minimum(spans, np.maximum(np.minimum(count, lengths - count), 1))


def random_spans_noise_mask(key: np.ndarray, lengths: np.ndarray, count: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """bool `[T]`, true on noise: spans alternate, clean first, noise last, every division equally likely.

    Args:
        key: uint64 `[B]`, of the rows.
        lengths, count, spans: int64 `[B]`, tokens, noise tokens and noise spans of each row.
    """
    clean = random_segmentation(key, lengths - count, spans, CLEAN)
    noisy = random_segmentation(key, count, spans, NOISY)
    sizes = np.stack([clean.values, noisy.values], 1).reshape(-1)
    return np.repeat(np.tile([False, True], len(clean.values)), sizes)


def random_segmentation(key: np.ndarray, total: np.ndarray, parts: np.ndarray, stream: int) -> Ragged:
    """Each row's `total` divided into so many positive `parts`, every division equally likely; int64 lengths.

    A `total` of 0 in one part is one of length 0.
    """
    inner = np.maximum(total - 1, 0)  # places where a part may end before the row does
    offsets = np.append(0, np.cumsum(inner))
    chosen = noise.smallest(keyed.row_bits(key, inner, stream), offsets, parts - 1)
    ends = np.empty(int(parts.sum()), np.int64)
    last = np.cumsum(parts) - 1
    before = np.ones(len(ends), bool)
    before[last] = False
    ends[last] = total
    ends[before] = chosen - np.repeat(offsets[:-1], parts - 1) + 1
    lengths = np.diff(ends, prepend=0)
    first = (last + 1 - parts)[parts > 0]
    lengths[first] = ends[first]
    return Ragged(lengths, parts)


def noise_span_to_unique_sentinel(rows: Ragged, mask: np.ndarray, sentinels: np.ndarray) -> Ragged:
    """Each run of masked tokens in a row becomes one sentinel, the first run the first sentinel.

    Args:
        mask: bool `[T]`.
        sentinels: int64 ids, at least as many as a row has runs.

    >>> rows, mask = Ragged.from_rows([[1, 2, 3, 4]]), np.array([False, True, True, False])
    >>> noise_span_to_unique_sentinel(rows, mask, np.array([99, 98])).tolist()
    [[1, 99, 4]]
    """
    begins = mask.copy()
    begins[1:] &= ~mask[:-1]
    starts = rows.offsets[:-1][rows.lengths > 0]
    begins[starts] = mask[starts]
    first = np.flatnonzero(begins)
    counts = noise.row_counts(first, rows.offsets)
    number = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = rows.values.astype(np.int64)
    values[first] = sentinels[number]
    keep = ~mask
    keep[first] = True
    return rows.with_values(values).keep(keep)
