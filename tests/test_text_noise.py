"""BART's other noises: sentences and rotation by enumeration, masking and deletion by their rates."""

import itertools
import math
from collections import Counter

import numpy as np
from bart_rows import MASK, is_subsequence, keys, make_rows, make_vocabulary

from pretrain_zoo.objectives import Ragged
from pretrain_zoo.objectives.text_noise import document_rotation, sentence_permutation, token_deletion, token_masking


def test_sentences_are_permuted_whole_and_uniformly():
    rows = 30_000
    text = Ragged.from_rows([[1, 2, 3, 4, 5, 6]] * rows)
    starts = np.tile([True, False, False, True, True, False], rows)
    order = sentence_permutation(text, starts, keys(rows))
    seen = Counter(map(tuple, text.values[order].reshape(rows, 6).tolist()))
    sentences = [(1, 2, 3), (4,), (5, 6)]
    assert set(seen) == {sum(p, ()) for p in itertools.permutations(sentences)}
    assert all(abs(n - rows / 6) < 5 * math.sqrt(rows * 5 / 36) for n in seen.values())


def test_a_share_of_the_sentences_is_permuted():
    text = Ragged.from_rows([np.arange(10)] * 2000)
    order = sentence_permutation(text, np.ones(20_000, bool), keys(2000), 0.31).reshape(2000, 10) % 10
    moved = (order != np.arange(10)).sum(1)
    assert moved.max() == 4  # ⌈0.31 · 10⌉
    assert (np.sort(order, 1) == np.arange(10)).all()
    places = (order != np.arange(10)).mean(0)
    assert abs(places - places.mean()).max() < 0.05  # anywhere
    assert abs(moved.mean() - 3) < 5 * math.sqrt(1 / 2000)  # a permutation of n keeps one in its place on average


def test_rotation_is_cyclic_and_uniform():
    rows = 20_000
    text = Ragged.from_rows([[1, 2, 3, 4, 5], []] * rows)
    turned = text.values[document_rotation(text, keys(2 * rows))].reshape(rows, 5).tolist()
    offsets = Counter(row[0] for row in turned)
    assert all(row == [(row[0] - 1 + i) % 5 + 1 for i in range(5)] for row in turned)
    assert set(offsets) == {2, 3, 4, 5}
    assert all(abs(n - rows / 4) < 5 * math.sqrt(rows * 3 / 16) for n in offsets.values())
    some = text.values[document_rotation(text, keys(2 * rows), 0.3)].reshape(rows, 5)
    assert abs((some[:, 0] != 1).mean() - 0.3) < 5 * math.sqrt(0.21 / rows)


def test_token_noise_rates_and_what_stays():
    vocabulary = make_vocabulary()
    rows = make_rows([1000] * 40, framed=False)
    text = rows["input_ids"]
    maskable = vocabulary.maskable[text.values] & (np.arange(40_000) % 7 > 0)
    masked = token_masking(text, maskable, keys(40), 0.3, MASK)
    hit = masked.values == MASK
    assert not hit[~maskable].any()
    assert np.array_equal(masked.values[~hit], text.values[~hit])
    assert abs(hit[maskable].mean() - 0.3) < 5 * math.sqrt(0.21 / maskable.sum())
    deleted = token_deletion(text, maskable, keys(40), 0.3)
    gone = maskable.sum() - (len(deleted.values) - (~maskable).sum())
    assert abs(gone / maskable.sum() - 0.3) < 5 * math.sqrt(0.21 / maskable.sum())
    assert MASK not in deleted.values
    for before, after in zip(text.tolist(), deleted.tolist(), strict=True):
        assert is_subsequence(after, before)
    stays = [np.isin(before, after) for before, after in zip(text.tolist(), deleted.tolist(), strict=True)]
    both = hit & ~np.concatenate(stays)
    assert abs(both[maskable].mean() - 0.09) < 5 * math.sqrt(0.09 * 0.91 / maskable.sum())  # draws of their own
