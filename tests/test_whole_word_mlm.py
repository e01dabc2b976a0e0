"""Whole-word masking: whole words within the budget, BERT's released loop, special tokens."""

import numpy as np
import pytest
from masked_rows import corrupt, draws_of, make_rows, within

from pretrain_zoo.objectives import Ragged, get_objective, keyed, noise
from pretrain_zoo.objectives.mlm import word_starts


@pytest.fixture(scope="module")
def rows(documents, vocabulary):
    return make_rows(documents, vocabulary)


def words_of(rows, vocabulary) -> list[list[int]]:
    """Words as lists of flat indices, by a plain loop; special tokens are words of their own."""
    words: list[list[int]] = []
    ids, starts = rows["input_ids"], rows["word_starts"].values
    for b in range(len(ids)):
        for index in range(ids.offsets[b], ids.offsets[b + 1]):
            special = not vocabulary.maskable[ids.values[index]]
            after = index > ids.offsets[b] and not vocabulary.maskable[ids.values[index - 1]]
            if starts[index] or special or after or index == ids.offsets[b]:
                words.append([])
            words[-1].append(index)
    return words


@pytest.mark.parametrize("name", ["whole_word_mlm", "ngram_mlm"])
@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_words_are_selected_whole_and_fill_the_budget(name, probability, rows, vocabulary):
    objective = get_objective(name, mlm_probability=probability)
    _, _, selected = corrupt(objective, rows, vocabulary)
    words = words_of(rows, vocabulary)
    assert all(selected[word].all() or not selected[word].any() for word in words)
    ids = rows["input_ids"]
    counts = np.add.reduceat(selected, ids.offsets[:-1])
    budget = np.maximum(1, np.rint(probability * ids.lengths))
    left_out = [
        min(
            len(w)
            for w in words
            if ids.rows[w[0]] == b and vocabulary.maskable[ids.values[w[0]]] and not selected[w[0]]
        )
        for b in range(len(ids))
    ]
    assert (counts <= budget).all()
    assert (counts + left_out > budget).all()  # no other word would have fitted


def test_independent_words(rows, vocabulary):
    _, _, selected = corrupt(get_objective("whole_word_mlm", selection="independent"), rows, vocabulary)
    words = [w for w in words_of(rows, vocabulary) if vocabulary.maskable[rows["input_ids"].values[w[0]]]]
    assert all(selected[word].all() or not selected[word].any() for word in words)
    assert within(sum(selected[word[0]] for word in words), len(words), 0.15)


def test_whole_words_equal_berts_loop(rows, vocabulary):
    """The released loop, row by row, in the order of the keyed scores."""
    ids, draws = rows["input_ids"], draws_of(rows)
    _, _, selected = corrupt(get_objective("whole_word_mlm"), rows, vocabulary)
    words = words_of(rows, vocabulary)
    for b in range(len(ids)):
        begin, n = int(ids.offsets[b]), int(ids.lengths[b])
        score = keyed.row_bits(draws.key[b : b + 1], ids.lengths[b : b + 1], noise.ORDER)
        units = [w for w in words if begin <= w[0] < begin + n and vocabulary.maskable[ids.values[w[0]]]]
        covered: list[int] = []
        for unit in sorted(units, key=lambda w: (score[w[0] - begin], w[0])):
            if len(covered) + len(unit) <= max(1, round(0.15 * n)):
                covered += unit
        assert np.flatnonzero(selected[begin : begin + n]).tolist() == sorted(i - begin for i in covered)


def test_special_tokens_are_words_of_their_own(vocabulary):
    ids = Ragged.from_rows([[2, 10, 11, 3, 12, 13, 3], [2, 10]], np.int64)
    starts = ids.with_values(np.array([0, 1, 0, 0, 0, 0, 0, 0, 0], bool))
    columns = {"input_ids": ids, "word_starts": starts}
    # [CLS] | 10 11 | [SEP] | 12 13 | [SEP]; the first token of a row is marked elsewhere
    assert word_starts(columns, vocabulary)[:7].tolist() == [True, True, False, True, True, False, True]
    objective = get_objective("whole_word_mlm", mlm_probability=0.3)  # 2 of 7
    for seed in range(20):
        positions = objective.corrupt(columns, draws_of(columns, seed=seed), vocabulary)["label_positions"]
        assert positions.row(0).tolist() in ([1, 2], [4, 5])
        assert positions.row(1).tolist() == [1]
