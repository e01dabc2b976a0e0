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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from . import keyed
from .base import Column, Columns, Draws
from .losses import token_losses
from .ragged import Ragged
from .registry import register
from .segments import SlicePlan, pack
from .sentinels import noise_counts, raw_length
from .span_corruption import SpanCorruption, token_blocks
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

MODES = np.array([mode for mode, _, _ in DENOISERS])
"""Kind of each denoiser: 0 for R, 1 for S, 2 for X."""


@register("ul2")
@dataclass(frozen=True)
class UL2(SpanCorruption):
    """Span corruption by one of seven denoisers per example, which a mode token at the front names.

    R: regular spans (3 or 8 tokens, 15 %). S: the last quarter (a prefix language model). X: long spans (64 tokens,
    15 %) or many (3, 8 or 64 tokens, 50 %). Spans are T5's; the paper draws their lengths from a normal distribution.
    So the last token is always noise, and with the few spans of 64 tokens the noise lies mostly at the end.

    A row is as long as its denoiser makes it fill the model's input (the mode token included), so a plan draws the
    denoisers, anew in each epoch. Targets are never longer than inputs, and differ from denoiser to denoiser. With
    another packing than "blocks", and alone, rows are what they are, and a row's key draws its denoiser. The losses of
    the three kinds are logged as `loss_r`, `loss_s` and `loss_x`.

    Args:
        mode_tokens: texts of the tokens for R, S and X; released checkpoints have [NLU], [S2S] and [NLG].
    """

    summary: ClassVar[str] = "span corruption by seven denoisers with mode tokens (UL2)"

    stock_names: ClassVar[Mapping[str, str | None]] = {"denoisers": None}

    mode_tokens: tuple[str, ...] = ("[R]", "[S]", "[X]")

    def __post_init__(self):
        super().__post_init__()
        if len(self.mode_tokens) != 3:
            raise ValueError(f"mode_tokens must be three, for R, S and X, not {self.mode_tokens}")
        if (self.noise_density, self.mean_noise_span_length) != (0.15, 3.0):
            raise ValueError("ul2 has its own seven densities and span lengths; use span_corruption to set them")

    @property
    def columns(self) -> dict[str, Column]:
        """Also the denoiser of each row."""
        return {**super().columns, "denoisers": Column(axis="row")}

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Two hundred sentinels, since half of 512 tokens in spans of three takes 128, and mode tokens."""
        return (*(self.sentinel.format(i) for i in range(200)), *self.mode_tokens)

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Refuse also tokenizers without the mode tokens."""
        super().check(vocabulary, config)
        missing = [token for token in self.mode_tokens if token not in vocabulary.special]
        if missing:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)} among its special tokens; add them with "
                f"tokenizer.add_tokens({missing}, special_tokens=True) and resize the model's embeddings"
            )

    def raw_lengths(self, length: int, vocabulary: Vocabulary) -> np.ndarray:
        """int64 `[7]`: tokens of a row before corruption with which each denoiser fills inputs of `length` tokens.

        Fewer where that would take more sentinels than the tokenizer has.
        """
        room, known, found = length - 1 - len(vocabulary.prefix), len(self.sentinels(vocabulary)), []
        for _, mean, density in DENOISERS:
            tokens = np.arange(raw_length(room, density, mean)[0] + 1)
            found.append(np.flatnonzero(noise_counts(tokens, density, mean)[1] <= known)[-1])
        return np.array(found)

    def raw_length(self, length: int, vocabulary: Vocabulary) -> int:
        """The least of `raw_lengths`, with which no denoiser's inputs or targets outgrow `length` tokens."""
        return int(self.raw_lengths(length, vocabulary).min())

    @property
    def replans(self) -> bool:  # type: ignore[override]
        """Whether rows are drawn with their denoisers."""
        return self.packing == "blocks"

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Examples as long as each one's denoiser makes them fill `length`."""
        raw = self.raw_lengths(length, vocabulary)
        if self.packing != "blocks":
            least = self.raw_length(length, vocabulary)
            return pack(documents, vocabulary, length=least, packing=self.packing, special=False)
        number = np.arange(-(-documents.num_tokens // int(raw.min())))
        denoisers = self.denoisers(keyed.combine(seed, epoch, number))
        return DenoiserPlan(token_blocks(documents, vocabulary, raw[denoisers]), denoisers)

    def denoisers(self, key: np.ndarray) -> np.ndarray:
        """Index into `DENOISERS` of each row's."""
        return keyed.integers_at(key, np.zeros(len(key), np.int64), DENOISER, len(DENOISERS))

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """As for span corruption, each row by its own denoiser."""
        if "denoisers" not in rows:
            rows = {**rows, "denoisers": self.denoisers(draws.key)}
        return super().corrupt(rows, draws, vocabulary)

    def noise(self, rows: Columns, draws: Draws) -> tuple[Any, Any]:
        """By each row's denoiser."""
        _, mean, density = np.array(DENOISERS)[rows["denoisers"]].T
        return density, mean

    def ahead(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> list[Ragged]:
        """The special tokens that the tokenizer puts before a text, and the mode token."""
        modes = np.array([vocabulary.special[token] for token in self.mode_tokens], np.int64)
        chosen = modes[MODES[rows["denoisers"]]]
        return [*super().ahead(rows, draws, vocabulary), Ragged(chosen, np.ones(len(chosen), np.int64))]

    def loss(self, outputs, batch):
        """Cross-entropy over the target tokens; accuracy, and the loss of each kind of denoiser, as metrics."""
        sums, metrics = super().loss(outputs, batch)
        with torch.no_grad():
            losses = token_losses(outputs["logits"], batch["label_ids"])
            row = batch["label_positions"] // batch["decoder_input_ids"].shape[1]
            mode = torch.as_tensor(MODES, device=row.device)[batch["denoisers"]][row]
            real = batch["label_ids"] != -100
            for number, name in enumerate("rsx"):
                own = real & (mode == number)
                metrics[f"loss_{name}"] = (losses.where(own, 0).sum(), own.sum())
        return sums, metrics


@dataclass(frozen=True)
class DenoiserPlan:
    """Blocks, and the denoiser that each was cut for."""

    blocks: SlicePlan
    chosen: np.ndarray

    @property
    def order(self) -> Literal["shuffled", "streams"]:
        """That of the blocks."""
        return self.blocks.order

    def __len__(self) -> int:
        return len(self.blocks)

    def rows(self, index: np.ndarray) -> Columns:
        """The examples as columns, with "denoisers", a value per row."""
        return {**self.blocks.rows(index), "denoisers": self.chosen[index]}
