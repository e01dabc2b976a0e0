"""N-gram masking: sizes drawn by 1/n, runs of words, no n-gram across special tokens."""

from collections import Counter

import numpy as np
import pytest
from masked_rows import corrupt, draws_of, random_rows, within

from pretrain_zoo.objectives import Ragged, get_objective


@pytest.mark.parametrize("most", [1, 3, 5])
def test_ngram_sizes_are_drawn_by_one_over_n(most, vocabulary):
    rows = random_rows(vocabulary, 20, 2002)
    ids = rows["input_ids"]
    first = np.flatnonzero(vocabulary.maskable[ids.values])
    offsets = np.searchsorted(first, ids.offsets)
    objective = get_objective("ngram_mlm", max_ngram=most)
    sizes = objective.sizes(draws_of(rows).key, ids, first, np.ones(len(first), np.int64), offsets)
    drawn = sizes(np.arange(len(first)))
    rest = offsets[1:].repeat(np.diff(offsets)) - np.arange(len(first))
    assert (drawn <= np.minimum(rest, most)).all()
    counts = Counter(drawn[rest >= most].tolist())
    total, harmonic = sum(counts.values()), sum(1 / n for n in range(1, most + 1))
    statistic = sum((counts[n] - total / n / harmonic) ** 2 / (total / n / harmonic) for n in range(1, most + 1))
    assert statistic < most - 1 + 5 * np.sqrt(2 * max(most - 1, 1))
    assert set(counts) == set(range(1, most + 1))


def test_ngrams_are_runs_of_words(vocabulary):
    """On long input, few n-grams touch, so the lengths of runs follow the sizes drawn: mean 18/11."""
    rows = random_rows(vocabulary, 200, 1002)
    objective = get_objective("ngram_mlm", mlm_probability=0.02)
    _, _, selected = corrupt(objective, rows, vocabulary)
    assert selected.sum() == 200 * 20
    edges = np.flatnonzero(np.diff(np.append(0, selected), append=0))
    runs = edges[1::2] - edges[::2]
    assert abs(runs.mean() - 18 / 11) < 0.1
    assert 0.15 < (runs == 3).mean() < 0.22


def test_ngrams_do_not_cross_special_tokens(vocabulary):
    text = [2] + [20, 21, 3] * 40
    ids = Ragged.from_rows([text] * 30, np.int64)
    columns = {"input_ids": ids, "word_starts": ids.with_values(np.ones(len(ids.values), bool))}
    first = np.flatnonzero(vocabulary.maskable[ids.values])
    objective = get_objective("ngram_mlm")
    offsets = np.searchsorted(first, ids.offsets)
    sizes = objective.sizes(draws_of(columns).key, ids, first, np.ones(len(first), np.int64), offsets)
    drawn = sizes(np.arange(len(first)))
    assert set(drawn[::2]) == {1, 2} and set(drawn[1::2]) == {1}
    assert within((drawn[::2] == 1).sum(), len(drawn) // 2, 2 / 3)  # renormalised over the sizes that fit
