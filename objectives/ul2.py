"""Mixture of denoisers (UL2).

    the cat sat on the mat  →  [R] the <X> on the <Y>      predict: <X> cat sat <Y> mat </s>
                            →  [S] the cat sat on <X>      predict: <X> the mat </s>
                            →  [X] the <X> on <Y>          predict: <X> cat sat <Y> the mat </s>

Tay et al. 2022, "UL2: Unifying language learning paradigms", arXiv 2205.05131, section 3.1. The paper's code for this
is not released; OpenBA trains on the same seven denoisers, drawn evenly per example from blocks of one length.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("ul2", mode_tokens=("[NLU]", "[S2S]", "[NLG]"))       # doctest: +SKIP
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from . import keyed
from .base import Draws
from .ragged import Ragged
from .registry import register
from .sentinels import noise_counts, raw_length
from .span_corruption import SpanCorruption
from .vocabulary import Vocabulary

DENOISER = 340
"""Stream of randomness."""

DENOISERS: tuple[tuple[int, float, float], ...] = (
    (0, 3, 0.15),
    (0, 8, 0.15),
    (1, math.inf, 0.25),
    (2, 3, 0.5),
    (2, 8, 0.5),
    (2, 64, 0.15),
    (2, 64, 0.5),
)
"""(mode, mean span length, noise density): R, S and X denoisers. An endless mean is one span, at the end of the row."""


@register("ul2")
@dataclass(frozen=True)
class UL2(SpanCorruption):
    """Span corruption by one of seven denoisers per example, which a mode token at the front names.

    R: regular spans (3 or 8 tokens, 15 %). S: the last quarter (a prefix language model). X: long spans (64 tokens,
    15 %) or many (3, 8 or 64 tokens, 50 %). Spans are T5's; the paper draws their lengths from a normal distribution.
    So the last token is always noise, and with the few spans of 64 tokens the noise lies mostly at the end.

    All rows have one length before corruption, the largest at which no denoiser's input or target outgrows the model's
    length. Inputs and targets therefore differ in length between modes.

    Args:
        mode_tokens: texts of the tokens for R, S and X; released checkpoints have [NLU], [S2S] and [NLG].
    """

    summary: ClassVar[str] = "span corruption by seven denoisers with mode tokens (UL2)"

    mode_tokens: tuple[str, ...] = ("[R]", "[S]", "[X]")

    def __post_init__(self):
        super().__post_init__()
        if len(self.mode_tokens) != 3:
            raise ValueError(f"mode_tokens must be three, for R, S and X, not {self.mode_tokens}")
        if (self.noise_density, self.mean_noise_span_length) != (0.15, 3.0):
            raise ValueError("ul2 has its own seven densities and span lengths; use span_corruption to set them")

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Sentinels and mode tokens."""
        return (*super().special_tokens, *self.mode_tokens)

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Refuse also tokenizers without the mode tokens."""
        super().check(vocabulary, config)
        missing = [token for token in self.mode_tokens if token not in vocabulary.special]
        if missing:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)} among its special tokens; add them with "
                f"tokenizer.add_tokens({missing}, special_tokens=True) and resize the model's embeddings"
            )

    def raw_length(self, length: int, vocabulary: Vocabulary) -> int:
        """Tokens of a row before corruption, for inputs and targets of at most `length` tokens, mode token included."""
        room = length - 1 - len(vocabulary.prefix)
        return min(raw_length(room, density, mean)[0] for _, mean, density in DENOISERS)

    def denoisers(self, key: np.ndarray) -> np.ndarray:
        """Index into `DENOISERS` of each row's."""
        return keyed.integers_at(key, np.zeros(len(key), np.int64), DENOISER, len(DENOISERS))

    def noise_counts(self, lengths: np.ndarray, draws: Draws | None) -> tuple[np.ndarray, np.ndarray]:
        """By each row's denoiser; without draws, by each of them in turn."""
        chosen = np.arange(len(DENOISERS)) if draws is None else self.denoisers(draws.key)
        lengths = np.broadcast_to(lengths, chosen.shape)
        _, mean, density = np.array(DENOISERS)[chosen].T
        return noise_counts(lengths, density, mean)

    def ahead(self, draws: Draws, vocabulary: Vocabulary) -> list[Ragged]:
        """The special tokens that the tokenizer puts before a text, and the mode token."""
        modes = np.array([vocabulary.special[token] for token in self.mode_tokens], np.int64)
        of_denoiser = modes[[mode for mode, _, _ in DENOISERS]]
        chosen = of_denoiser[self.denoisers(draws.key)]
        return [*super().ahead(draws, vocabulary), Ragged(chosen, np.ones(len(chosen), np.int64))]
