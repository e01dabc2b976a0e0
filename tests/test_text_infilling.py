"""Text infilling: lengths and places of spans, masks and insertions, each by brute force or by hand."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from bart_rows import EOS, MASK, corrupt, keys, make_rows, make_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain_zoo.objectives import Ragged, get_objective
from pretrain_zoo.objectives.text_noise import place_spans, poisson_spans, text_infilling


@pytest.fixture(scope="module")
def vocabulary():
    return make_vocabulary()


def test_drawn_lengths_are_poisson():
    budget = 30_000
    spans = poisson_spans(keys(8), np.full(8, budget), 3.0)
    assert (np.add.reduceat(spans.values, spans.offsets[:-1]) == budget).all()
    drawn = np.concatenate([row[:-1] for row in np.split(spans.values, spans.offsets[1:-1])])  # the last may be cut
    for length in range(12):
        p = math.exp(-3) * 3**length / math.factorial(length)
        assert abs((drawn == length).mean() - p) < 5 * math.sqrt(p * (1 - p) / len(drawn)), length
    assert drawn.max() < 25


def test_spans_meet_any_budget_and_insertions_never_outgrow_it():
    budget = np.array([0, 1, 2, 3, 10, 500])
    for lam in (0.05, 0.5, 3.0, 40.0):
        spans = poisson_spans(keys(6, seed=int(lam)), budget, lam)
        for b, row in zip(budget, spans.tolist(), strict=True):
            assert sum(row) == b
            assert len(row) <= b
            assert lam > 0.05 or len(row) == b  # nearly all draws are zero: as many as there is room for stay
    one = poisson_spans(keys(1), np.array([500]), 3.0)
    many = poisson_spans(np.repeat(keys(1), 2), np.array([500, 90_000]), 3.0)  # more draws are made, the same first
    assert one.tolist()[0] == many.tolist()[0]


def test_every_placement_without_overlap_is_equally_likely():
    rows, units, lengths = 40_000, 6, (2, 1, 0)
    spans = Ragged.from_rows([np.array(lengths)] * rows)
    begin, placed = place_spans(keys(rows), np.full(rows, units), spans)
    seen = Counter()
    for b, n in zip(begin.values.reshape(rows, 3).tolist(), placed.values.reshape(rows, 3).tolist(), strict=True):
        assert sorted(n) == sorted(lengths)
        assert all(b[i] + n[i] <= b[i + 1] for i in range(2))
        assert b[-1] + n[-1] <= units
        seen[tuple(zip(b, n, strict=True))] += 1
    items = units - sum(lengths) + len(lengths)
    expected = set()
    for places in itertools.combinations(range(items), 3):
        for order in itertools.permutations(lengths):
            starts = [place - i + sum(order[:i]) for i, place in enumerate(places)]
            expected.add(tuple(zip(starts, order, strict=True)))
    assert set(seen) == expected
    p = 1 / len(expected)
    assert all(abs(n - rows * p) < 5 * math.sqrt(rows * p * (1 - p)) for n in seen.values())


def explain(source_words, output, budget):
    """Whether masks in `output` can stand for spans of words, `budget` in all, so that the rest is as in the source."""
    at = covered = 0
    for token in output:
        if token == MASK:
            continue
        while at < len(source_words) and (not source_words[at] or source_words[at][0] != token):
            covered += 1
            at += 1
        if at == len(source_words):
            return False
        source_words[at] = source_words[at][1:]
        if not source_words[at]:
            at += 1
    covered += len(source_words) - at
    return covered == budget


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    ratio=st.floats(0, 1),
    lam=st.floats(0.3, 8),
    seed=st.integers(0, 1000),
)
def test_infilling_removes_whole_words_exactly_to_the_budget(vocabulary, lengths, ratio, lam, seed):
    rows = make_rows(lengths, seed, framed=False)
    ids, starts = rows["input_ids"], rows["word_starts"].values
    out = text_infilling(
        ids,
        starts,
        vocabulary.maskable[ids.values],
        keys(len(ids), seed),
        mask_ratio=ratio,
        poisson_lambda=lam,
        mask_id=MASK,
    )
    for tokens, begins, output in zip(ids.tolist(), rows["word_starts"].tolist(), out.tolist(), strict=True):
        words = []
        for i, token in enumerate(tokens):
            if i == 0 or begins[i]:
                words.append([])
            words[-1].append(token)
        assert explain(words, output, math.ceil(len(words) * ratio - 1e-9))
        assert len(output) <= len(tokens)


def test_a_mask_stands_at_the_place_of_each_span_and_insertion(vocabulary):
    rows = make_rows([40] * 200, framed=False)
    ids, starts = rows["input_ids"], rows["word_starts"].values
    starts[ids.offsets[:-1]] = True
    out = text_infilling(
        ids, starts, np.ones(len(starts), bool), keys(200), mask_ratio=0.5, poisson_lambda=2, mask_id=MASK
    )
    words = [
        np.split(np.array(tokens), np.flatnonzero(begins)[1:])
        for tokens, begins in zip(ids.tolist(), rows["word_starts"].tolist(), strict=True)
    ]
    count = np.array([len(row) for row in words])
    spans = poisson_spans(keys(200), np.ceil(count * 0.5).astype(np.int64), 2)
    begin, spans = place_spans(keys(200), count, spans)
    inserted = 0
    for row, begins, lengths, output in zip(words, begin.tolist(), spans.tolist(), out.tolist(), strict=True):
        expected, at = [], 0
        for b, n in zip(begins, lengths, strict=True):
            expected += [*itertools.chain(*row[at:b]), MASK]
            at = b + n
        assert output == expected + [*itertools.chain(*row[at:])]
        inserted += lengths.count(0)
    assert inserted > 200


def test_the_stated_rate_is_the_real_one(vocabulary):
    rows = make_rows([512] * 100, word_rate=1.0)
    out = corrupt(get_objective("denoising", permute_sentence_ratio=0), rows, vocabulary)
    left = [sum(token != MASK for token in row) for row in out["input_ids"].tolist()]
    assert left == [514 - math.ceil(0.3 * 512)] * 100
    masks = np.array([row.count(MASK) for row in out["input_ids"].tolist()])
    assert abs(masks.mean() - 154 / 3) < 5 * math.sqrt(154 / 9 / 100) + 1  # spans needed to reach 154 words
    zero = math.exp(-3)
    runs = [
        sum(1 for _ in group) for row in out["input_ids"].tolist() for k, group in itertools.groupby(row) if k == MASK
    ]
    assert 0.5 * zero < np.mean(np.array(runs) > 1) < 1


def test_protected_tokens_stay_even_inside_a_span(vocabulary):
    ids = Ragged.from_rows([[50, 51, EOS, 52, 53]] * 300, np.int64)
    starts = np.ones(1500, bool)
    out = text_infilling(ids, starts, vocabulary.maskable[ids.values], keys(300), mask_ratio=1.0, mask_id=MASK)
    for row in out.tolist():
        assert [token for token in row if token != MASK] == [EOS]
    assert {tuple(row) for row in out.tolist()} >= {(MASK, EOS), (MASK, EOS, MASK)}
    joined = np.tile([True, False, False, False, False], 300)  # a word ends at a special token, and one begins after it
    out = text_infilling(ids, joined, vocabulary.maskable[ids.values], keys(300), mask_ratio=1.0, mask_id=MASK)
    assert {tuple(row) for row in out.tolist()} >= {(MASK, EOS), (MASK, EOS, MASK)}
    assert not np.isin(out.values, [50, 51, 52, 53]).any()


def test_replace_length(vocabulary):
    rows = make_rows([60] * 50)
    kwargs = {"permute_sentence_ratio": 0.0, "mask_ratio": 0.4}
    one, each, none = (
        corrupt(get_objective("denoising", replace_length=n, **kwargs), rows, vocabulary)["input_ids"].tolist()
        for n in (1, -1, 0)
    )
    for a, b, c in zip(one, each, none, strict=True):
        assert [t for t in a if t != MASK] == [t for t in b if t != MASK] == c
        assert b.count(MASK) >= a.count(MASK)
        assert b.count(MASK) - 62 + len(c) >= 0  # one for each token that is gone, and insertions


def test_random_tokens_instead_of_masks(vocabulary):
    rows = make_rows([500] * 40)
    for length in (1, -1):
        plain, noisy = (
            corrupt(get_objective("denoising", random_replace_prob=p, replace_length=length), rows, vocabulary)[
                "input_ids"
            ]
            for p in (0.0, 0.25)
        )
        masks = plain.values == MASK
        assert np.array_equal(plain.lengths, noisy.lengths)
        assert np.array_equal(plain.values[~masks], noisy.values[~masks])
        n, share = masks.sum(), (noisy.values[masks] != MASK).mean()
        assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / n)
        drawn = noisy.values[masks & (noisy.values != MASK)]
        assert vocabulary.maskable[drawn].all()
        assert len(np.unique(drawn)) > len(drawn) / 2
