"""Small mixtures and phases, for the tests of their draws, losses and runs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from conftest import make_texts

from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.training.encode import encode
from pretrain_zoo.training.mixture import Component, Phase, PhasedDataset
from pretrain_zoo.training.quotas import Weights
from pretrain_zoo.training.tokenizer import train_tokenizer

LENGTH = 16
COMMON = {"model_name_or_path": "bert-tiny", "use_cpu": True, "output_dir": "out"}
"""Settings of every recipe."""


@lru_cache
def corpus():
    """(tokenizer, vocabulary, two corpora that share no document)."""
    texts = make_texts(120)
    tokenizer = train_tokenizer(texts, "wordpiece", vocab_size=200)
    documents = encode(tokenizer.backend_tokenizer, texts)
    halves = documents.select(np.arange(90)), documents.select(np.arange(90, 120))
    return tokenizer, Vocabulary.from_tokenizer(tokenizer), *halves


def components(text, *names: str, length: int = LENGTH) -> tuple[Component, ...]:
    """Components a, b, … of these objectives, on the first corpus and the second in turn."""
    _, _, *halves = text
    return tuple(
        Component("abc"[i], get_objective(name), length, halves[i % 2], halves[1 - i % 2], order=i)
        for i, name in enumerate(names)
    )


def run_of(text, *parts: Component, weights=(1, 1), steps=4, rows=8, mixing="example", micro_batches=1, **more):
    shares = Weights(tuple(map(float, weights)), tuple(map(float, weights)), **more)
    phase = Phase("only", steps, rows, parts, shares, mixing)
    return PhasedDataset([phase], text[1], micro_batches=micro_batches, seed=3)


def drawn(dataset, numbers):
    return dataset.__getitems__(list(numbers))


def one(name: str, component: Component, steps: int, rows: int) -> Phase:
    """A phase of one component."""
    return Phase(name, steps, rows, (component,), Weights((1.0,), (1.0,)))


def two_phases(text, micro_batches: int = 1, rows: tuple[int, int] = (8, 4), **own: bool):
    """Four steps causal in short rows, then four masked in long ones and smaller batches, mixed with more text."""
    _, vocabulary, train, held_out = text
    causal = Component("causal", get_objective("clm"), 12, train, held_out)
    falling = get_objective("mlm", mlm_probability=0.8, final_mlm_probability=0.0, packing="documents")
    masked = Component("masked", falling, 24, train, held_out, order=1)
    other = Component("other", get_objective("mlm"), 24, held_out, train, order=2)
    shares = Weights((3.0, 1.0), (1.0, 3.0))
    second = Phase("second", 4, rows[1], (masked, other), shares, **own)
    return PhasedDataset([one("first", causal, 4, rows[0]), second], vocabulary, micro_batches=micro_batches, seed=5)
