"""Masked diffusion language modelling (MDLM, LLaDA).

    the cat sat on the mat  →  [MASK] cat [MASK] [MASK] the mat      predict: the sat on, each loss times 1 / t, t = ½

Sahoo et al. 2024, "Simple and effective masked diffusion language models", arXiv 2406.07524, section 3; Nie et al.
2025, "Large language diffusion models" (LLaDA), arXiv 2502.09992, section 2. A bidirectional model learns to fill in
rows of which any share may be masked; `models.sampling` generates with it, from masks alone.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("diffusion", weighting="llada", crop_probability=0.01)       # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from . import keyed, noise
from .base import LABEL_COLUMNS, Column, Columns, Draws, Objective
from .losses import token_losses
from .mlm import allowed
from .ragged import Ragged, row_sums
from .registry import register
from .segments import check_packing
from .vocabulary import Vocabulary

TIME, CROP = 400, 401
"""Streams of randomness: where the sequence of times starts, and lengths of cropped rows."""

TICKS = 2**24
"""Times travel as integers below this, which float32 holds exactly; columns of floats may be cast to half precision."""


@register("diffusion")
@dataclass(frozen=True)
class MaskedDiffusion(Objective):
    """Predict masked tokens, each row masked at a rate of its own, the loss weighted by one over the row's time.

    A row's time is t = ε + (1 − ε)u. Times are stratified: u walks through [0, 1) by the golden ratio from draw to draw
    (a Weyl sequence, in place of the papers' antithetic sampling within a batch), so that neighbouring draws, and with
    them batches of any size, have evenly spread times. Terms are divided by all tokens that could have been masked, not
    by the masked ones, which would cancel the weight.

    Special tokens are never masked, so neither is padding; the papers' code masks every token of the block, separators
    included. Features may exclude more (a prompt) by `special_tokens_mask`. Alone, the collator hands over
    `label_ticks` for the labels from first to last, from which `time` gives t, and `maskable_tokens` by row.

    Args:
        weighting: "mdlm": tokens are masked with probability (1 − ε)t, and the model may not predict the mask token
            (its logit counts as −∞). "llada": they are masked with probability t.
        epsilon: smallest time; weights are at most 1 / ε.
        crop_probability: share of rows cut to a random length, uniform on 1 … n (LLaDA: 0.01, of batches).
        packing: how documents become examples, see `segments`.
    """

    summary: ClassVar[str] = "predict tokens masked at every rate, weighted (masked diffusion: MDLM, LLaDA)"
    needs: ClassVar[tuple[str, ...]] = ("mask", "pad")

    weighting: Literal["mdlm", "llada"] = "mdlm"
    epsilon: float = 1e-3
    crop_probability: float = 0.0
    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "full_sentences"

    def __post_init__(self):
        if self.weighting not in ("mdlm", "llada"):
            raise ValueError(f"weighting must be 'mdlm' or 'llada', not {self.weighting!r}")
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon must lie between 0 and 1, not {self.epsilon}")
        if not 0 <= self.crop_probability <= 1:
            raise ValueError(f"crop_probability must lie in 0 … 1, not {self.crop_probability}")
        check_packing(self.packing)

    @property
    def columns(self) -> dict[str, Column]:
        """Sparse labels, the time of each, and what the term is divided by."""
        return {**LABEL_COLUMNS, "label_ticks": Column(axis="flat"), "maskable_tokens": Column(axis="row")}

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Masks each token that may be masked by its own coin, at its row's rate."""
        rows = self._crop(rows, draws)
        ids: Ragged = rows["input_ids"]
        ticks = stratified_ticks(draws)
        rate = self.time(ticks) * (1 - self.epsilon if self.weighting == "mdlm" else 1)
        may = allowed(rows, vocabulary, slice(None))
        chosen = noise.bernoulli(draws.key, ids, rate)
        chosen = chosen[may[chosen]]
        counts = noise.row_counts(chosen, ids.offsets)
        values = ids.values.copy()
        values[chosen] = vocabulary.mask_id
        return {
            **rows,
            "input_ids": ids.with_values(values),
            "label_positions": Ragged(chosen - np.repeat(ids.offsets[:-1], counts), counts),
            "label_ids": Ragged(ids.values[chosen].astype(np.int64, copy=False), counts),
            "label_ticks": Ragged(np.repeat(ticks, counts), counts),
            "maskable_tokens": row_sums(may, ids.offsets),
        }

    def time(self, ticks):
        """Times in [ε, 1) of integer ticks, an array (float64) or a tensor (float32)."""
        share = (ticks.float() if isinstance(ticks, torch.Tensor) else ticks) / TICKS
        return self.epsilon + (1 - self.epsilon) * share

    def _crop(self, rows: Columns, draws: Draws) -> Columns:
        if not self.crop_probability:
            return rows
        ids: Ragged = rows["input_ids"]
        length = 1 + keyed.integers_at(draws.key, np.full(len(ids), 1), CROP, ids.lengths)
        cut = keyed.uniform_at(draws.key, np.zeros(len(ids)), CROP) < self.crop_probability
        keep = ids.positions < np.repeat(np.where(cut, length, ids.lengths), ids.lengths)
        return {name: column.keep(keep) if isinstance(column, Ragged) else column for name, column in rows.items()}

    def counts(self, batch):
        """Tokens that could have been masked."""
        return {self.name: batch["maskable_tokens"].sum()}

    def label_weights(self, batch):
        """One over the time of the token's row."""
        return 1 / self.time(batch["label_ticks"])

    def loss(self, outputs, batch):
        """Cross-entropy of masked tokens, each over its row's time; accuracy as a metric."""
        logits, labels = outputs["logits"], batch["label_ids"]
        if self.weighting == "mdlm":
            mask = batch["input_ids"].reshape(-1)[batch["label_positions"]]  # every predicted position holds it
            logits = logits.scatter(1, mask[:, None], -torch.inf)
        losses = token_losses(logits, labels) * self.label_weights(batch)
        with torch.no_grad():
            correct = (logits.argmax(-1) == labels).sum()
        return {self.name: losses.sum()}, {"accuracy": (correct, (labels != -100).sum())}


def stratified_ticks(draws: Draws) -> np.ndarray:
    """int64 `[B]` in 0 … `TICKS` − 1: the draws' numbers times the golden ratio, modulo 1, from a random start."""
    start = keyed.combine(draws.seed, TIME, draws.component, draws.epoch)
    sequence = start + draws.number.astype(np.uint64) * keyed.GOLDEN
    return (sequence >> np.uint64(40)).astype(np.int64)
