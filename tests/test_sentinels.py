"""T5's noise spans and sentinels as plain functions: published lengths, hand-worked arrays, statistics."""

import math
from itertools import combinations

import numpy as np
import pytest

from pretrain_zoo.objectives import Ragged
from pretrain_zoo.objectives.sentinels import (
    noise_counts,
    noise_span_to_unique_sentinel,
    random_segmentation,
    random_spans_noise_mask,
    raw_length,
)


@pytest.mark.parametrize(
    ("length", "density", "mean", "expected"),
    [
        (512, 0.15, 3.0, (568, 114)),
        (1024, 0.15, 3.0, (1137, 229)),
        (128, 0.15, 3.0, (141, 29)),
        (512, 0.15, 8.0, (588, 100)),
        (512, 0.5, 3.0, (766, 512)),
        (512, 0.5, 64.0, (1006, 512)),
        (512, 0.15, 64.0, (600, 92)),
    ],
)
def test_published_lengths(length, density, mean, expected):
    assert raw_length(length, density, mean) == expected


def test_counts_round_half_to_even():
    count, spans = noise_counts(np.array([10, 30, 50, 0, 1, 2]), 0.25, 2.0)
    assert count.tolist() == [2, 8, 12, 0, 0, 1]  # 2.5, 7.5 and 12.5
    assert spans.tolist() == [1, 4, 6, 1, 1, 1]
    assert noise_counts(np.array([10]), 0.9, 1.0)[1].tolist() == [1]  # one clean token leaves room for one span


def test_sentinels_by_hand():
    rows = Ragged.from_rows([[10, 11, 12, 13, 14, 15], [20, 21], []], np.int64)
    mask = np.array([0, 1, 1, 0, 0, 1, 1, 0], bool)
    ids = np.array([99, 98, 97])
    assert noise_span_to_unique_sentinel(rows, mask, ids).tolist() == [[10, 99, 13, 14, 98], [99, 21], []]
    assert noise_span_to_unique_sentinel(rows, ~mask, ids).tolist() == [[99, 11, 12, 98, 15], [20, 99], []]


def test_every_division_is_equally_likely():
    total, parts, rows = 7, 3, 30_000
    key = np.random.default_rng(1).integers(0, 2**63, rows).astype(np.uint64)
    drawn = random_segmentation(key, np.full(rows, total), np.full(rows, parts), 5).values.reshape(rows, parts)
    assert (drawn.sum(1) == total).all()
    assert (drawn > 0).all()
    expected = {(a, b - a, total - b) for a, b in combinations(range(1, total), 2)}
    seen, counts = np.unique(drawn, axis=0, return_counts=True)
    assert {tuple(row) for row in seen.tolist()} == expected
    p = 1 / len(expected)
    assert (abs(counts - rows * p) < 5 * math.sqrt(rows * p * (1 - p))).all()


def test_clean_and_noise_spans_are_drawn_independently():
    rows, each = 30_000, np.full(30_000, 4)
    key = np.random.default_rng(3).integers(0, 2**63, rows).astype(np.uint64)
    mask = random_spans_noise_mask(key, 2 * each, each, each // 2)
    seen, counts = np.unique(mask.reshape(rows, 8), axis=0, return_counts=True)
    assert len(seen) == 9  # three divisions of four into two, times three
    assert (abs(counts - rows / 9) < 5 * math.sqrt(rows * 8 / 81)).all()


def test_a_row_ends_in_noise_at_the_published_rates():
    rows, length = 20_000, 568
    key = np.random.default_rng(2).integers(0, 2**63, rows).astype(np.uint64)
    lengths = np.full(rows, length)
    count, spans = noise_counts(lengths, 0.15, 3.0)
    assert (int(count[0]), int(spans[0])) == (85, 28)
    mask = random_spans_noise_mask(key, lengths, count, spans).reshape(rows, length)
    assert (mask.sum(1) == 85).all()
    assert not mask[:, 0].any()
    assert mask[:, -1].all()
    assert ((np.diff(mask.astype(int), axis=1) == 1).sum(1) == 28).all()
    one = 27 / 84  # probability that the last noise span is a single token
    third = (1 - one) * (1 - 27 / 83) + one * 27 / 482
    for place, p in ((-2, 1 - one), (-3, third)):
        assert abs(mask[:, place].mean() - p) < 5 * math.sqrt(p * (1 - p) / rows)
    assert abs(1 - one - 0.68) < 0.005
    assert abs(third - 0.48) < 0.005
