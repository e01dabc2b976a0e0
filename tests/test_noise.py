"""Noise functions against hand-worked arrays and plain loops over units."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain_zoo.objectives import Ragged, keyed, noise


def rows_of(*lengths: int) -> Ragged:
    return Ragged(np.zeros(sum(lengths), np.int64), np.array(lengths, np.int64))


def offsets_of(counts) -> np.ndarray:
    return np.append(0, np.cumsum(np.array(counts, np.int64))).astype(np.int64)


# choosing tokens


def test_bernoulli_is_the_coin_of_each_position():
    key, rows = np.array([3, 4, 5], np.uint64), rows_of(5, 0, 4)
    expected = []
    for row, length in enumerate(rows.lengths):
        for position in range(length):  # the definition, one 32-bit half at a time
            start = int(keyed.combine(int(key[row]), noise.CHOOSE)[0])
            word = int(keyed.mix(np.array([(start + (position // 2 + 1) * int(keyed.GOLDEN)) % 2**64], np.uint64))[0])
            bits = word >> (32 * (position % 2)) & (2**32 - 1)
            if bits < round(0.5 * 2**32):
                expected.append(int(rows.offsets[row]) + position)
    assert noise.bernoulli(key, rows, 0.5).tolist() == expected
    assert 0 < len(expected) < 9


@pytest.mark.parametrize("probability", [0.0, 1.0, 1 - 1e-12])
def test_bernoulli_at_its_ends(probability):
    rows, key = rows_of(1000, 3), np.array([1, 2], np.uint64)
    count = 0 if probability == 0 else 1003
    assert len(noise.bernoulli(key, rows, probability)) == count
    assert len(noise.bernoulli(key, rows, np.full(2, probability))) == count


def test_bernoulli_with_a_probability_per_row():
    rows, key = rows_of(40, 40, 40), np.array([1, 2, 3], np.uint64)
    chosen = noise.bernoulli(key, rows, np.array([0.0, 0.3, 1.0]))
    assert noise.row_counts(chosen, rows.offsets)[[0, 2]].tolist() == [0, 40]
    alone = noise.bernoulli(key[1:2], rows_of(40), 0.3) + 40
    assert np.array_equal(chosen[(chosen >= 40) & (chosen < 80)], alone)


def test_smallest_by_hand():
    score = np.array([5, 1, 4, 1, 9, 2, 2, 2], np.uint32)
    offsets = offsets_of([5, 0, 3])
    assert noise.smallest(score, offsets, np.array([2, 3, 2])).tolist() == [1, 3, 5, 6]
    assert noise.by_score(score, offsets, np.array([4, 3, 9])).tolist() == [1, 3, 2, 0, 5, 6, 7]


SCORES = st.one_of(
    st.integers(0, 3), st.integers(0, 2**32 - 1), st.sampled_from([0, 2**31, 2**32 - 2, 2**32 - 1])
)  # ties, any, and the ends


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(SCORES, max_size=30), st.integers(0, 35)), min_size=1, max_size=5))
def test_smallest_equals_sorting(rows):
    counts = [len(scores) for scores, _ in rows]
    offsets, expected, ordered = offsets_of(counts), [], []
    for begin, (scores, count) in zip(offsets, rows):
        order = sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count]
        ordered += [begin + i for i in order]
        expected += [begin + i for i in sorted(order)]
    score = np.array([s for scores, _ in rows for s in scores], np.uint32)
    count = np.array([count for _, count in rows])
    assert noise.by_score(score, offsets, count).tolist() == ordered
    assert noise.smallest(score, offsets, count).tolist() == expected


def test_smallest_where_the_bound_does_not_suffice():
    """One score too few lies below the bound, in one row of two."""
    low, high = np.arange(9, dtype=np.uint32), np.full(491, 2**32 - 2, np.uint32)
    score = np.concatenate([high, low, low, high])
    taken = noise.smallest(score, np.array([0, 500, 1000]), np.array([10, 9]))
    assert taken.tolist() == [0, *range(491, 500), *range(500, 509)]


def test_order_of_very_many_rows():
    """Beyond what fits into 64 bits, rows are sorted another way, to the same effect."""
    rng = np.random.default_rng(0)
    for size in (3, 70_000):
        score = rng.integers(0, 2**32, 2 * size, dtype=np.uint32)
        order = noise.by_score(score, np.arange(0, 2 * size + 1, 2), np.full(size, 2))
        pairs = score.reshape(-1, 2)
        expected = np.sort(pairs, 1).reshape(-1)
        assert np.array_equal(score[order], expected)


# units


def test_units_from_starts():
    rows = rows_of(4, 0, 3)
    starts = np.array([0, 1, 0, 0, 1, 1, 0], bool)
    first, length = noise.units_from_starts(starts, rows)
    assert first.tolist() == [0, 1, 4, 5] and length.tolist() == [1, 3, 1, 2]
    assert not starts[0]  # the input stays as it was
    first, length = noise.units_from_starts(np.zeros(0, bool), rows_of(0, 0))
    assert first.tolist() == length.tolist() == []


def visit_all(score, counts, first, length, budget, sizes):
    """The loop of BERT's and ALBERT's code: visit every unit in order, with a set of what is covered."""
    taken, begin = [], 0
    for count, most in zip(counts, budget):
        covered: set[int] = set()
        for unit in sorted(range(begin, begin + count), key=lambda i: (score[i], i)):
            if len(covered) >= most:
                break
            size = sizes[unit]
            while True:
                tokens = [t for u in range(unit, unit + size) for t in range(first[u], first[u] + length[u])]
                if len(covered) + len(tokens) <= most or size == 1:
                    break
                size -= 1
            if len(covered) + len(tokens) > most or any(t in covered for t in tokens):
                continue
            covered |= set(tokens)
        taken += sorted(covered)
        begin += count
    return taken


def test_whole_words_by_hand():
    # words a(1) b(3) c(2) d(1), visited b c a d under a budget of 4: b, c is too long, a; then nothing is left
    first, length = np.array([1, 2, 5, 7]), np.array([1, 3, 2, 1])
    score = np.array([30, 10, 20, 40], np.uint32)
    taken = noise.fill_budget(score, np.array([0, 4]), first, length, np.array([4]))
    assert taken.tolist() == [1, 2, 3, 4]
    # budget 5: b, c; budget 2: c; budget 1: a
    for budget, expected in ((5, [2, 3, 4, 5, 6]), (2, [5, 6]), (1, [1]), (0, [])):
        assert noise.fill_budget(score, np.array([0, 4]), first, length, np.array([budget])).tolist() == expected


def test_ngrams_by_hand():
    # single-token words at 1 … 6, visited 3 (takes 3 4 5), 2 (2 3, meets 3, so nothing), 1 (1 2 3, cut to 1 2 by the
    # budget of 5); a budget of 4 cuts the second visit to 2 before it can meet 3
    first, length = np.arange(1, 7), np.ones(6, np.int64)
    score = np.array([30, 20, 10, 40, 50, 60], np.uint32)
    sizes = np.array([3, 2, 3, 1, 1, 1])
    for budget, expected in ((5, [1, 2, 3, 4, 5]), (4, [2, 3, 4, 5]), (3, [3, 4, 5]), (1, [3])):
        args = (score, np.array([0, 6]), first, length, np.array([budget]))
        assert noise.fill_budget(*args, lambda units: sizes[units]).tolist() == expected


def test_neighbours_stop_at_gaps_and_row_ends():
    # row 0: words at 1, 2 (two tokens), then a special token at 4, words at 5, 6; row 1 follows at 7 without a gap
    first, length, offsets = np.array([1, 2, 5, 6, 7, 8]), np.array([1, 2, 1, 1, 1, 1]), np.array([0, 4, 4, 6])
    units = np.arange(6)
    assert noise.neighbours(units, first, length, offsets, 3).tolist() == [2, 1, 2, 1, 2, 1]
    assert noise.neighbours(units, first, length, offsets, 1).tolist() == [1] * 6
    assert noise.neighbours(units[:0], first[:0], length[:0], np.array([0, 0]), 3).tolist() == []


def test_harmonic_sizes_by_hand():
    # P = 6/11, 3/11, 2/11 over 1, 2, 3
    u = np.array([0.0, 6 / 11 - 1e-9, 6 / 11 + 1e-9, 9 / 11 - 1e-9, 9 / 11 + 1e-9, 1 - 1e-9])
    assert noise.harmonic_sizes(u, np.full(6, 3)).tolist() == [1, 1, 2, 2, 3, 3]
    assert noise.harmonic_sizes(u, np.full(6, 1)).tolist() == [1] * 6
    assert noise.harmonic_sizes(np.array([0.66, 0.67]), np.array([2, 2])).tolist() == [1, 2]  # 2/3, 1/3


@st.composite
def unit_rows(draw):
    """Rows of units with gaps between some, budgets, and sizes that stay within runs of touching units."""
    counts, first, length, at = [], [], [], 0
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.one_of(st.integers(0, 6), st.integers(20, 60)))
        for _ in range(count):
            at += draw(st.sampled_from([0, 0, 0, 1]))
            first.append(at)
            length.append(draw(st.sampled_from([1, 1, 1, 2, 3, 9])))
            at += length[-1]
        counts.append(count)
    budget = [draw(st.integers(0, 40)) for _ in counts]
    seed = draw(st.integers(0, 2**32))
    return counts, np.array(first, np.int64), np.array(length, np.int64), budget, np.random.default_rng(seed)


@settings(max_examples=150, deadline=None)
@given(unit_rows(), st.sampled_from([1, 2, 3, 5]), st.booleans())
def test_fill_budget_equals_the_loop_over_all_units(case, limit, tied):
    counts, first, length, budget, rng = case
    score = rng.integers(0, 5 if tied else 2**32, len(first), dtype=np.uint64).astype(np.uint32)
    offsets = offsets_of(counts)
    most = noise.neighbours(np.arange(len(first)), first, length, offsets, limit)
    for unit, count in enumerate(most):  # neighbours by their definition
        row_end = offsets[np.searchsorted(offsets, unit, "right")]
        run = 1
        while (
            run < limit and unit + run < row_end and first[unit + run] == first[unit + run - 1] + length[unit + run - 1]
        ):
            run += 1
        assert count == run
    sizes = rng.integers(1, most + 1) if len(most) else most
    taken = noise.fill_budget(score, offsets, first, length, np.array(budget), lambda units: sizes[units])
    assert taken.tolist() == visit_all(score, counts, first, length, budget, sizes)


def test_fill_budget_where_the_lowest_scores_do_not_suffice():
    """Long units first: the shortcut of sorting few units has to fall back on all of them."""
    count = 400
    length = np.where(np.arange(count) < 300, 50, 1)
    first = np.cumsum(length) - length
    score = (np.arange(count) * 10_000_000).astype(np.uint32)
    for budget in (3, 49, 60, 1000):
        args = (score, np.array([0, count]), first, length, np.array([budget]))
        taken = noise.fill_budget(*args)
        assert taken.tolist() == visit_all(score, [count], first, length, [budget], np.ones(count, int))


# replacing


def test_replace_by_hand():
    values = np.arange(10, 20)
    rows = Ragged.from_rows([[1, 2], [], [0, 4]])  # positions in rows of 4, 1 and 5 tokens
    chosen, key = np.array([1, 2, 5, 9]), np.array([7, 8, 9], np.uint64)
    pool = np.array([100, 101, 102])

    def replaced(mask_prob, random_prob, **options):
        return noise.replace(
            values, chosen, key, rows, mask_id=4, pool=pool, mask_prob=mask_prob, random_prob=random_prob, **options
        )

    assert replaced(1.0, 0.0).tolist() == [10, 4, 4, 13, 14, 4, 16, 17, 18, 4]
    assert replaced(0.0, 0.0).tolist() == values.tolist()
    random = replaced(0.0, 1.0)
    assert np.isin(random[chosen], pool).all()
    assert np.array_equal(np.delete(random, chosen), np.delete(values, chosen))
    # by the definition of the draws, token by token
    decide, expected = [], values.copy()
    for index, row, position in zip(chosen, [0, 0, 2, 2], [1, 2, 0, 4]):
        u = keyed.uniform_at(key[row : row + 1], np.array([position]), noise.DECIDE)[0]
        decide.append(u)
        if u < 0.4:
            expected[index] = 4
        elif u < 0.8:
            expected[index] = pool[keyed.integers_at(key[row : row + 1], np.array([position]), noise.DRAW, 3)[0]]
    assert np.array_equal(replaced(0.4, 0.4), expected)
    shared = replaced(0.5, 0.0, decide_at=np.array([1, 1, 0, 0]))  # the second token goes with the first
    assert (shared[1] == 4) == (shared[2] == 4) == (decide[0] < 0.5)
    assert (shared[5] == 4) == (shared[9] == 4) == (decide[2] < 0.5)
    assert np.array_equal(values, np.arange(10, 20))
