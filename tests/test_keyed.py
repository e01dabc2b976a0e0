"""Keyed randomness: published values, independence of the batch, and seeded statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain_zoo.objectives import keyed

MASK = 2**64 - 1


def splitmix64(state: int, steps: int) -> list[int]:
    """The reference implementation, on Python integers."""
    out = []
    for _ in range(steps):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


PUBLISHED = [  # first outputs for seed 1234567, as listed with the reference code
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def test_published_values():
    assert splitmix64(1234567, 5) == PUBLISHED
    counters = (np.arange(1, 6, dtype=np.uint64) * keyed.GOLDEN) + np.uint64(1234567)
    assert keyed.mix(counters).tolist() == PUBLISHED
    assert keyed.combine(1234567).tolist() == PUBLISHED[:1]


def test_combine_by_definition():
    first = splitmix64(5, 1)[0]
    second = splitmix64(first ^ 7, 1)[0]
    assert keyed.combine(5, 7).tolist() == [second]
    assert keyed.combine(5, np.array([7, 7, 9]))[[0, 1]].tolist() == [second] * 2
    assert keyed.combine(5, 7) != keyed.combine(7, 5)
    assert keyed.combine(-1).tolist() == splitmix64(MASK, 1)
    assert keyed.combine(3, np.zeros(0, np.int64)).tolist() == []
    grid = keyed.combine(1, np.arange(300)[:, None].repeat(300, 1).reshape(-1), np.tile(np.arange(300), 300))
    assert len(np.unique(grid)) == 90_000


@pytest.mark.parametrize("length", [0, 1, 2, 5, 8])
def test_row_bits_by_definition(length):
    (start,) = keyed.combine(11, 3).tolist()
    words = splitmix64(start, (length + 1) // 2)
    halves = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)][:length]
    key = np.array([11], np.uint64)
    assert keyed.row_bits(key, np.array([length]), 3).tolist() == halves
    together = keyed.row_bits(np.array([4, 11], np.uint64), np.array([3, length]), 3)
    assert together[3:].tolist() == halves


@given(st.lists(st.tuples(st.integers(0, MASK), st.integers(0, 9)), min_size=1, max_size=8), st.integers(0, 5))
def test_rows_do_not_depend_on_their_batch(rows, stream):
    keys, lengths = np.array([k for k, _ in rows], np.uint64), np.array([n for _, n in rows])
    together = np.split(keyed.row_bits(keys, lengths, stream), np.cumsum(lengths)[:-1])
    for b, bits in enumerate(together):
        assert np.array_equal(bits, keyed.row_bits(keys[b : b + 1], lengths[b : b + 1], stream))
        longer = keyed.row_bits(keys[b : b + 1], lengths[b : b + 1] + 7, stream)
        assert np.array_equal(bits, longer[: len(bits)])  # nor on its length


def test_sparse_draws():
    (start,) = keyed.combine(8, 2).tolist()
    words = splitmix64(start, 10)
    key, positions = np.array([8, 8, 9], np.uint64), np.array([9, 0, 0])
    assert keyed.bits_at(key, positions, 2)[:2].tolist() == [words[9], words[0]]
    by_row = keyed.bits_at(np.array([8, 9], np.uint64), positions, 2, np.array([2, 1]))
    assert np.array_equal(by_row, keyed.bits_at(key, positions, 2))
    assert keyed.uniform_at(key, positions, 2)[0] == (words[9] >> 11) / 2**53
    assert keyed.integers_at(key, positions, 2, 10)[0] == ((words[9] >> 32) * 10) >> 32
    bounds = keyed.integers_at(key, positions, 2, np.array([1, 2**32, 3]))
    assert bounds[0] == 0 and bounds[1] == words[0] >> 32 and 0 <= bounds[2] < 3


def test_threshold():
    assert keyed.threshold(0.0) == 0 and keyed.threshold(1.0) == 2**32 and keyed.threshold(0.25) == 2**30


def chi_square(counts: np.ndarray) -> float:
    """Pearson's statistic against equal counts, in standard deviations from its mean."""
    expected = counts.sum() / len(counts)
    return (((counts - expected) ** 2 / expected).sum() - (len(counts) - 1)) / np.sqrt(2 * (len(counts) - 1))


def keys(count: int = 256, seed: int = 0) -> np.ndarray:
    return keyed.combine(seed, 0, 0, np.arange(count))


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_draws_are_uniform_in_every_byte(shift):
    bits = keyed.row_bits(keys(), np.full(256, 512), 0)
    assert abs(chi_square(np.bincount((bits >> np.uint32(shift)) & 255, minlength=256))) < 5


def test_integers_and_uniforms_are_uniform():
    position = np.tile(np.arange(512), 256)
    key = np.repeat(keys(), 512)
    assert abs(chi_square(np.bincount(keyed.integers_at(key, position, 1, 101), minlength=101))) < 5
    u = keyed.uniform_at(key, position, 1)
    assert u.min() >= 0 and u.max() < 1
    assert abs(chi_square(np.histogram(u, 64, (0, 1))[0])) < 5


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r in standard errors."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1] * np.sqrt(a.size))


def test_streams_keys_and_positions_are_uncorrelated():
    key, lengths = keys(257), np.full(257, 512)
    draws = [keyed.row_bits(key, lengths, stream).reshape(257, 512) for stream in range(4)]
    for i in range(4):
        assert abs(correlation(draws[i][:-1], draws[i][1:])) < 5  # examples next to each other
        assert abs(correlation(draws[i][:, :-1], draws[i][:, 1:])) < 5  # positions next to each other
        for j in range(i):
            assert abs(correlation(draws[i], draws[j])) < 5
    plain = keyed.row_bits(np.arange(257, dtype=np.uint64), lengths, 0).reshape(257, 512)  # keys that differ by one bit
    assert abs(correlation(plain[:-1], plain[1:])) < 5
    for other in (keys(257, seed=1), keyed.combine(0, 0, 1, np.arange(257))):  # another seed, another epoch
        assert abs(correlation(draws[0], keyed.row_bits(other, lengths, 0).reshape(257, 512))) < 5


def test_every_bit_of_a_key_flips_half_of_the_draws():
    base = keyed.row_bits(np.array([12345], np.uint64), np.array([2048]), 0)
    for bit in range(64):
        other = keyed.row_bits(np.array([12345 ^ (1 << bit)], np.uint64), np.array([2048]), 0)
        share = np.bitwise_count(base ^ other).mean() / 32
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(2048 * 32)
