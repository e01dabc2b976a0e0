"""A vocabulary of BART's kind without a tokenizer, rows of random text for it, and noise upon them."""

import numpy as np

from pretrain_zoo.objectives import Draws, Ragged, Vocabulary

BOS, PAD, EOS, MASK, FIRST, SIZE = 0, 1, 2, 4, 10, 5000


def make_vocabulary():
    maskable = np.arange(SIZE) >= FIRST
    return Vocabulary(
        SIZE,
        maskable,
        np.flatnonzero(maskable),
        mask_id=MASK,
        pad_id=PAD,
        bos_id=BOS,
        eos_id=EOS,
        prefix=(BOS,),
        suffix=(EOS,),
    )


def keys(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, count).astype(np.uint64)


def make_rows(lengths, seed=0, framed=True, word_rate=0.7, sentence_rate=0.1):
    """Rows of distinct ids with words and sentences, special tokens around them."""
    rng = np.random.default_rng(seed)
    ids, words, sentences = [], [], []
    for n in lengths:
        row = FIRST + rng.permutation(SIZE - FIRST)[:n]
        begin, end = rng.random(n) < word_rate, rng.random(n) < sentence_rate
        begin |= end
        if framed:
            row = np.concatenate([[BOS], row, [EOS]])
            begin, end = (np.concatenate([[True], x, [True]]) for x in (begin, end))
        ids.append(row.astype(np.int64))
        words.append(begin)
        sentences.append(end)
    return {
        "input_ids": Ragged.from_rows(ids),
        "word_starts": Ragged.from_rows(words),
        "sentence_starts": Ragged.from_rows(sentences),
    }


def corrupt(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(token in rest for token in part)
