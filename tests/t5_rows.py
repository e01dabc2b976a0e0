"""A vocabulary and a tokenizer of T5's kind, rows of random text, and corrupted text put together again."""

import numpy as np
from transformers import T5Tokenizer

from pretrain_zoo.objectives import Draws, Ragged, Vocabulary

PAD, END, FIRST, SIZE = 0, 1, 10, 1000
SENTINELS = [SIZE - 1 - k for k in range(100)]
MODES = {"[R]": 3, "[S]": 4, "[X]": 5}


def make_vocabulary():
    maskable = np.zeros(SIZE, bool)
    maskable[FIRST:900] = True
    special = {f"<extra_id_{k}>": i for k, i in enumerate(SENTINELS)} | MODES
    return Vocabulary(SIZE, maskable, np.flatnonzero(maskable), pad_id=PAD, eos_id=END, suffix=(END,), special=special)


def make_tokenizer():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)] + [(f"▁w{i}", -3.0) for i in range(500)]
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    return T5Tokenizer(vocab=pieces, extra_ids=100)


def rows_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return {"input_ids": Ragged.from_rows([rng.integers(FIRST, 900, n) for n in lengths], np.int64)}


def corrupt(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


def spliced(inputs, targets, sentinels):
    """The source rebuilt: each sentinel of the input replaced by what follows it in the target."""
    parts, current = {}, None
    for token in targets:
        if token in sentinels:
            current = parts.setdefault(token, [])
        elif token != END:
            current.append(token)
    return [t for token in inputs if token != END for t in (parts[token] if token in sentinels else [token])]
