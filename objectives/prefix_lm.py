"""Prefix language modelling.

    the cat sat on the mat  →  (the cat sat) on the mat      predict, after the prefix, each next token: on the mat

Raffel et al. 2019, "Exploring the limits of transfer learning with a unified text-to-text transformer", arXiv
1910.10683, section 3.2.1; as an objective of one decoder, Liu et al. 2018, arXiv 1801.10198. The tokens of the prefix
see each other in both directions, those after it what comes before.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("prefix_lm", packing="documents")       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from . import keyed
from .base import Column, Columns, Draws
from .causal import CausalLM
from .ragged import Ragged
from .registry import register
from .seq2seq import without_padding
from .vocabulary import Vocabulary

SPLIT = 410
"""Stream of randomness: where the prefix ends."""

PADDING_RANK = 2**30
"""Rank of padding: above that of any token."""


@register("prefix_lm")
@dataclass(frozen=True)
class PrefixLM(CausalLM):
    """Predict each token after a prefix, which is read in both directions.

    The prefix has k tokens, k uniform on 1 … n − 1 for a row of n. Its last token predicts the first one after it; no
    token of the prefix is predicted. Alone, the collator hands over `attention_ranks`, `[B, L]`, of which
    `models.ranked_attention.ranked_mask` makes the mask that a stock model needs.

    Args:
        packing: see `clm`. Documents are not kept apart.
    """

    summary: ClassVar[str] = "predict the text after a prefix read in both directions (prefix LM)"

    def __post_init__(self):
        super().__post_init__()
        if self.document_attention:
            raise ValueError("prefix_lm has a mask of its own; leave document_attention out (packing='documents')")

    @property
    def columns(self) -> dict[str, Column]:
        """Sparse labels, and what the mask is made of."""
        return {**super().columns, "attention_ranks": Column(pad=PADDING_RANK)}

    def from_features(self, features: list[Mapping], vocabulary: Vocabulary) -> Columns:
        """Rows of the features without their padding."""
        return without_padding(super().from_features(features, vocabulary), vocabulary)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Labels after the prefix only, and ranks: 0 in the prefix, then 1, 2, …"""
        ids: Ragged = rows["input_ids"]
        columns = super().corrupt(rows, draws, vocabulary)
        prefix = split(draws.key, ids.lengths)
        position: Ragged = columns["label_positions"]
        after = position.values >= np.repeat(prefix - 1, position.lengths)
        return {
            **columns,
            "attention_ranks": ids.with_values(prefix_ranks(ids, prefix)),
            "label_positions": position.keep(after),
            "label_ids": columns["label_ids"].keep(after),
        }

    def build(self, backbone, vocabulary) -> Any:
        """A causal LM that attends by rank."""
        from ..models.ranked_attention import RankedAttentionModel

        return RankedAttentionModel.build(self, backbone, vocabulary)


def split(key: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 `[B]`: length of the first part of each row, uniform on 1 … n − 1 (1 in rows too short to split)."""
    return 1 + keyed.integers_at(key, np.zeros(len(lengths), np.int64), SPLIT, np.maximum(lengths - 1, 1))


def prefix_ranks(ids: Ragged, prefix: np.ndarray) -> np.ndarray:
    """int64 `[T]`: 0 for the first `prefix[b]` tokens of row `b`, then 1, 2, …"""
    return np.maximum(ids.positions - np.repeat(prefix, ids.lengths) + 1, 0)
