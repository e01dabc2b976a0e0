"""Masked LM: what is selected and replaced at which rates, exact counts, what is excluded, settings out of range."""

import numpy as np
import pytest
from masked_rows import SELECTIONS, corrupt, draws_of, make_rows, random_rows, within

from pretrain_zoo.objectives import Ragged, Vocabulary, get_objective

KINDS = ("mlm", "whole_word_mlm", "ngram_mlm")


@pytest.fixture(scope="module")
def rows(documents, vocabulary):
    return make_rows(documents, vocabulary)


# rates


@pytest.mark.parametrize(("name", "selection"), SELECTIONS)
def test_what_is_selected_and_what_is_left(name, selection, any_tokenizer, texts):
    vocabulary = Vocabulary.from_tokenizer(any_tokenizer)
    ids = Ragged.from_rows(any_tokenizer(texts).input_ids)
    words = ids.with_values(np.random.default_rng(0).random(len(ids.values)) < 0.6)
    rows = {"input_ids": ids, "word_starts": words}
    before = ids.values.copy()
    original, corrupted, selected = corrupt(get_objective(name, selection=selection), rows, vocabulary)
    assert np.array_equal(ids.values, before)  # the input stays as it was
    assert np.array_equal(original[~selected], corrupted[~selected])
    special = list(vocabulary.special.values())
    assert not np.isin(original[selected], special).any()
    changed = corrupted[selected & (original != corrupted)]
    assert set(changed[np.isin(changed, special)]) == {vocabulary.mask_id}  # a random token is never special
    assert len(set(changed)) > 10


@pytest.mark.parametrize(("name", "selection"), SELECTIONS)
def test_rates_and_replacement(name, selection, vocabulary):
    """80 % masked, 10 % random, 10 % as they were; a random token is the original once in the size of the pool."""
    rows = random_rows(vocabulary, 400, 256, mean_word=1.3)
    objective = get_objective(name, selection=selection)
    original, corrupted, selected = corrupt(objective, rows, vocabulary)
    maskable, count = 400 * 254, int(selected.sum())
    if selection == "exact":
        assert abs(count - 400 * round(0.15 * 256)) <= (0 if name == "mlm" else 20)
    else:  # words are chosen whole, so that their lengths add to the variance
        assert abs(count - 0.15 * maskable) < 5 * np.sqrt(maskable * 0.15 * 0.85) * (1 if name == "mlm" else 1.7)
    masked = corrupted[selected] == vocabulary.mask_id
    same = corrupted[selected] == original[selected]
    pool = len(vocabulary.random_pool)
    observed = np.array([masked.sum(), same.sum(), (~masked & ~same).sum()])
    expected = count * np.array([0.8, 0.1 + 0.1 / pool, 0.1 * (1 - 1 / pool)])
    assert ((observed - expected) ** 2 / expected).sum() < 2 + 5 * 2  # χ², 2 degrees of freedom
    random = corrupted[selected][~masked & ~same]
    counts = np.bincount(random, minlength=vocabulary.size)[vocabulary.random_pool]
    statistic = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(statistic - (pool - 1)) < 5 * np.sqrt(2 * (pool - 1))  # every token alike


def test_random_tokens_are_unchanged_once_in_the_size_of_the_pool(vocabulary):
    rows = random_rows(vocabulary, 400, 256)
    objective = get_objective("mlm", mlm_probability=1.0, mask_replace_prob=0.0, random_replace_prob=1.0)
    original, corrupted, selected = corrupt(objective, rows, vocabulary)
    assert selected.sum() == 400 * 254
    assert within((original == corrupted)[selected].sum(), 400 * 254, 1 / len(vocabulary.random_pool))


def test_pure_masking_and_nothing_at_all(vocabulary, rows):
    objective = get_objective("mlm", mask_replace_prob=1.0, random_replace_prob=0.0)
    _, corrupted, selected = corrupt(objective, rows, vocabulary)
    assert (corrupted[selected] == vocabulary.mask_id).all()
    original, corrupted, selected = corrupt(get_objective("mlm", mlm_probability=0.0), rows, vocabulary)
    assert not selected.any() and np.array_equal(original, corrupted)


@pytest.mark.parametrize("limit", [None, 5])
def test_exact_counts_follow_bert(limit, vocabulary):
    """k = min(max_predictions, max(1, round(p n))) of n tokens, special ones included; none where none is maskable."""
    lengths = [2, 3, 4, 10, 17, 18, 30, 50, 101]
    rng = np.random.default_rng(0)
    texts = [[2, *rng.choice(vocabulary.random_pool, n - 2).tolist(), 3] for n in lengths]
    ids = Ragged.from_rows(texts, np.int64)
    rows = {"input_ids": ids, "word_starts": ids.with_values(np.ones(len(ids.values), bool))}
    counts = [min(max(1, round(0.15 * n)), n - 2, limit or 1000) for n in lengths]
    assert counts[:3] == [0, 1, 1]
    for name in KINDS:
        objective = get_objective(name, selection="exact", max_predictions_per_seq=limit)
        out = objective.corrupt(rows, draws_of(rows), vocabulary)
        assert out["label_positions"].lengths.tolist() == counts


# excluded tokens


def test_padding_does_not_count(vocabulary):
    """Rows padded beforehand have as many predictions as without their padding, at the same places."""
    rows = random_rows(vocabulary, 6, 50)
    ids, starts = rows["input_ids"], rows["word_starts"]
    padded = Ragged.from_rows([np.append(ids.row(b), np.zeros(150, np.int64)) for b in range(6)])
    given = {
        "input_ids": padded,
        "word_starts": Ragged.from_rows([np.append(starts.row(b), np.ones(150, bool)) for b in range(6)]),
        "attention_mask": padded.with_values(padded.positions < 50),
    }
    for name, selection in SELECTIONS:
        objective = get_objective(name, selection=selection)
        plain = objective.corrupt(rows, draws_of(rows), vocabulary)
        out = objective.corrupt(given, draws_of(rows), vocabulary)
        assert out["label_positions"].tolist() == plain["label_positions"].tolist()


def test_columns_can_exclude_tokens(vocabulary):
    rows = random_rows(vocabulary, 50, 64)
    ids = rows["input_ids"]
    excluded = ids.positions % 2 == 0
    for name, selection in SELECTIONS:
        objective = get_objective(name, selection=selection, mlm_probability=0.5)
        _, _, selected = corrupt(objective, rows | {"special_tokens_mask": ids.with_values(excluded)}, vocabulary)
        assert selected.any() and not (selected & excluded).any()
        _, _, selected = corrupt(objective, rows | {"attention_mask": ids.with_values(~excluded)}, vocabulary)
        assert selected.any() and not (selected & excluded).any()


# settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlm_probability": 1.5}, "mlm_probability must lie in 0 … 1, not 1.5"),
        ({"mask_replace_prob": 0.8, "random_replace_prob": 0.3}, "must not exceed 1 together"),
        ({"selection": "some"}, "selection must be 'independent' or 'exact', not 'some'"),
        ({"dupe_factor": 0}, "dupe_factor must be at least 1"),
        ({"mlm_schedule": "step", "final_mlm_probability": 0.2}, "unknown schedule 'step'"),
        ({"max_predictions_per_seq": -1}, "max_predictions_per_seq must be at least 1"),
        ({"packing": "sentences"}, "unknown packing 'sentences'"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        get_objective("mlm", **settings)


def test_ngram_settings_out_of_range():
    with pytest.raises(ValueError, match="max_ngram must be at least 1"):
        get_objective("ngram_mlm", max_ngram=0)
    with pytest.raises(ValueError, match="selection must be 'exact'"):
        get_objective("ngram_mlm", selection="independent")
