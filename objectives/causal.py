"""Causal language modelling (GPT).

    the cat sat on  →  the cat sat on      predict, at each token, the next: cat sat on the

Radford et al. 2018, "Improving language understanding by generative pre-training", section 3.1. Documents are laid
end to end with a separator between them and cut into blocks; with `document_attention` no prediction sees another
document. The shift happens once, here: labels are the next tokens.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("clm", document_attention=True)       # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from .base import LABEL_COLUMNS, Column, Columns, Draws, Objective
from .losses import masked_lm_loss
from .ragged import Ragged, row_sums, slices
from .registry import register
from .segments import check_packing, pack
from .vocabulary import Vocabulary


@register("clm")
@dataclass(frozen=True)
class CausalLM(Objective):
    """Predict each token from those before it.

    Alone, the collator hands over `labels` equal to `input_ids`, as causal models of Hugging Face shift inside, with
    −100 for padding and for the first token of a row, which nothing predicts. Unlike
    `DataCollatorForLanguageModeling(mlm=False)` it goes by the attention mask, so that a real end-of-sequence token
    stays a target when it doubles as padding.

    Args:
        packing: "blocks" slices the whole stream; the others are described in `segments`.
        document_attention: keep attention within documents and restart positions at each (block-diagonal mask).
    """

    summary: ClassVar[str] = "predict the next token (GPT, LLaMA)"
    architecture: ClassVar[str] = "causal_lm"
    needs: ClassVar[tuple[str, ...]] = ()
    dense_shift: ClassVar[int] = 1

    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "blocks"
    document_attention: bool = False

    def __post_init__(self):
        check_packing(self.packing)

    @property
    def columns(self) -> dict[str, Column]:
        """Sparse labels, and the document of each token."""
        return {**LABEL_COLUMNS, "document_ids": Column(pad=-1)}

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Slices of the stream, without special tokens around them."""
        columns = ("document_ids",) if self.document_attention else ()
        return pack(documents, vocabulary, length=length, packing=self.packing, columns=columns, special=False)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Each position but the last of a row predicts the next; none predicts across a document with its own mask."""
        ids: Ragged = rows["input_ids"]
        inside = np.maximum(ids.lengths - 1, 0)
        index = slices(ids.offsets[:-1], inside)
        keep = np.ones(len(index), bool)
        if "document_ids" in rows:
            documents = rows["document_ids"].values
            keep = documents[index] == documents[index + 1]
        if "attention_mask" in rows:
            text = rows["attention_mask"].values != 0
            keep &= text[index] & text[index + 1]
        counts = row_sums(keep, np.append(0, np.cumsum(inside)))
        index = index[keep]
        return {
            **rows,
            "label_positions": Ragged(index - np.repeat(ids.offsets[:-1], counts), counts),
            "label_ids": Ragged(ids.values[index + 1].astype(np.int64), counts),
        }

    def loss(self, outputs, batch):
        """Cross-entropy of the next tokens; accuracy as a metric."""
        return masked_lm_loss(self.name, outputs, batch)
