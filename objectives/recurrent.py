"""Causal language modelling with segment memory (Transformer-XL).

    step 1: the cat sat | step 2: on the mat      predict each next token; step 2 sees the memory of "the cat sat"

Dai et al. 2019, "Transformer-XL: Attentive language models beyond a fixed-length context", arXiv 1901.02860,
section 3.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("recurrent_clm", mem_len=150)       # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Columns, Draws, Objective
from .losses import masked_lm_loss
from .ragged import Ragged, slices
from .registry import register
from .streams import StreamPlan
from .vocabulary import Vocabulary


@register("recurrent_clm")
@dataclass(frozen=True)
class RecurrentCausalLM(Objective):
    """Predict each next token of contiguous streams; attention reaches into the memory of earlier segments.

    A row holds one token more than the model reads, so that the last position of a segment is predicted too. The
    memory runs on across document ends, as in the paper's word-level experiments, and is cleared where a stream begins
    anew.

    Args:
        mem_len: hidden states of each layer kept from earlier segments (150 for the paper's base model).
    """

    summary: ClassVar[str] = "predict the next token with segment memory (Transformer-XL)"
    architecture: ClassVar[str] = "recurrent_lm"
    needs: ClassVar[tuple[str, ...]] = ()
    dense_shift: ClassVar[int] = 0

    mem_len: int = 150

    def __post_init__(self):
        if self.mem_len < 1:
            raise ValueError(f"mem_len must be at least 1, not {self.mem_len}; without memory, use clm")

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Parallel streams; each row is its segment and the token after it."""
        _ = vocabulary.separator  # refuse early
        return StreamPlan(documents, vocabulary, length, length + 1, global_batch)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Inputs are all tokens but a row's last, labels all but its first; padding is no label."""
        ids: Ragged = rows["input_ids"]
        lengths = np.maximum(ids.lengths - 1, 0)
        index = slices(ids.offsets[:-1], lengths)
        columns = {name: c for name, c in rows.items() if not isinstance(c, Ragged)}
        columns["input_ids"] = Ragged(ids.values[index], lengths)
        columns["label_positions"] = Ragged(slices(np.zeros(len(ids), np.int64), lengths), lengths)
        columns["label_ids"] = Ragged(ids.values[index + 1].astype(np.int64), lengths)
        if "attention_mask" in rows:  # rows that came with padding
            mask = rows["attention_mask"].values
            text = (mask[index] != 0) & (mask[index + 1] != 0)
            columns["attention_mask"] = Ragged(mask[index], lengths)
            columns |= {name: columns[name].keep(text) for name in ("label_positions", "label_ids")}
        return columns

    def loss(self, outputs, batch):
        """Cross-entropy of the next tokens; accuracy as a metric."""
        return masked_lm_loss(self.name, outputs, batch)

    def build(self, backbone, vocabulary):
        """A causal XLNet, the stock model nearest to Transformer-XL, with memory."""
        from ..models.recurrence import RecurrentModel

        return RecurrentModel.build(self, backbone)
