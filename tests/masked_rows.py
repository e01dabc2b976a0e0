"""Rows to mask, their draws, and the selection that a masked-LM objective makes in them."""

import numpy as np

from pretrain_zoo.objectives import Draws, Ragged
from pretrain_zoo.objectives.segments import pack

SELECTIONS = [("mlm", "independent"), ("mlm", "exact"), ("whole_word_mlm", "independent"), ("whole_word_mlm", "exact")]
SELECTIONS.append(("ngram_mlm", "exact"))


def make_rows(documents, vocabulary):
    """Documents in examples of 128 tokens, with word starts."""
    plan = pack(documents, vocabulary, length=128, columns=("word_starts",))
    return plan.rows(np.arange(len(plan)))


def random_rows(vocabulary, count: int, length: int, mean_word: float = 1.0, seed: int = 0):
    """Rows of random ordinary tokens, `[CLS] … [SEP]`, where each token begins a word by a coin."""
    rng = np.random.default_rng(seed)
    text = rng.choice(vocabulary.random_pool, (count, length - 2))
    ids = np.concatenate([np.full((count, 1), vocabulary.cls_id), text, np.full((count, 1), vocabulary.sep_id)], 1)
    batch = Ragged(ids.reshape(-1), np.full(count, length))
    return {"input_ids": batch, "word_starts": batch.with_values(rng.random(count * length) < 1 / mean_word)}


def draws_of(rows, seed=0, epoch=0, progress=0.0) -> Draws:
    example = np.arange(len(rows["input_ids"]))
    return Draws.of(seed, example, epoch, example, progress)


def corrupt(objective, rows, vocabulary, **draw):
    """(original ids, corrupted ids, bool selected), flat."""
    out = objective.corrupt(rows, draws_of(rows, **draw), vocabulary)
    ids = rows["input_ids"]
    selected = np.zeros(len(ids.values), bool)
    flat = np.repeat(ids.offsets[:-1], out["label_positions"].lengths) + out["label_positions"].values
    assert (np.diff(flat) > 0).all()
    selected[flat] = True
    assert np.array_equal(out["label_ids"].values, ids.values[flat])  # labels are the originals
    assert np.array_equal(out["label_ids"].lengths, out["label_positions"].lengths)
    assert np.array_equal(out["input_ids"].lengths, ids.lengths)
    return ids.values, out["input_ids"].values, selected


def within(count: float, trials: float, probability: float) -> bool:
    """Whether a binomial count lies within five standard errors."""
    return abs(count - trials * probability) < 5 * np.sqrt(trials * probability * (1 - probability))
