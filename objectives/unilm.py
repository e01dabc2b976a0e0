"""Unified language modelling (UniLM).

    the cat sat on the mat  →  [CLS] the [MASK] sat [SEP] on [MASK] mat [SEP]      predict: cat the

Dong et al. 2019, "Unified language model pre-training for natural language understanding and generation", arXiv
1905.03197, section 2.3: masked tokens of two segments are predicted, in some rows from both sides, in some from the
left only, in some from the right only, and in some from the whole first segment and the left.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("unilm", seq2seq_rate=1.0, bidirectional_rate=0.0)       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from . import keyed, noise
from .base import Column, Columns, Draws
from .mlm import NgramMaskedLM
from .prefix_lm import PADDING_RANK, prefix_ranks, split
from .ragged import Ragged, constant, join, slices
from .registry import register
from .segments import pack
from .seq2seq import without_padding
from .vocabulary import Vocabulary

KIND = 411
"""Stream of randomness: how a row is read."""


@register("unilm")
@dataclass(frozen=True)
class UnifiedLM(NgramMaskedLM):
    """Predict masked tokens of two segments under one of four attention masks, drawn for each row.

    A row is cut in two at a random place and framed as a pair; the first segment's tokens all see each other under the
    sequence-to-sequence mask, the second's what comes before. Of the visits that choose what to mask, 80 % take a
    token, 10 % two and 10 % three neighbours (the paper: a bigram or trigram in 20 %). Where this differs from the
    paper: there is no next-sentence prediction and no segment embedding by kind of mask, and special tokens are never
    masked. Alone, the collator hands over `attention_ranks`, as for `prefix_lm`.

    Args:
        bidirectional_rate, seq2seq_rate: shares of rows; of the rest one half is read from left to right, the other
            from right to left.
        ngram_rate: share of visits that take two or three tokens.
        others: as for `mlm`.
    """

    summary: ClassVar[str] = "predict masked tokens from both sides, one side or a source (UniLM)"
    row_columns: ClassVar[tuple[str, ...]] = ()

    bidirectional_rate: float = 1 / 3
    seq2seq_rate: float = 1 / 3
    ngram_rate: float = 0.2
    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "full_sentences"

    def __post_init__(self):
        super().__post_init__()
        for name in ("bidirectional_rate", "seq2seq_rate", "ngram_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0 … 1, not {getattr(self, name)}")
        if self.bidirectional_rate + self.seq2seq_rate > 1 + 1e-9:
            raise ValueError("bidirectional_rate and seq2seq_rate must not exceed 1 together")
        if self.max_ngram != 3:
            raise ValueError("unilm takes up to three tokens at once; set ngram_rate, and leave max_ngram out")

    @property
    def columns(self) -> dict[str, Column]:
        """Sparse labels, and what the mask is made of."""
        return {**super().columns, "attention_ranks": Column(pad=PADDING_RANK)}

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Slices of the stream without special tokens, short enough for those of a pair."""
        room = length - _frame(vocabulary)
        return pack(documents, vocabulary, length=room, packing=self.packing, special=False)

    def from_features(self, features: list[Mapping], vocabulary: Vocabulary) -> Columns:
        """Text of the features, without padding and the tokens around it; `max_length` must leave room for a pair's."""
        rows = without_padding(super().from_features(features, vocabulary), vocabulary)
        ids: Ragged = rows["input_ids"]
        text = ~np.isin(ids.values, vocabulary.framing)
        return {name: c.keep(text) if isinstance(c, Ragged) else c for name, c in rows.items()}

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Cuts each row in two, masks it, and gives its tokens their ranks."""
        ids: Ragged = rows["input_ids"]
        cut = np.minimum(split(draws.key, ids.lengths), ids.lengths)
        first = Ragged(ids.values[slices(ids.offsets[:-1], cut)], cut)
        second = Ragged(ids.values[slices(ids.offsets[:-1] + cut, ids.lengths - cut)], ids.lengths - cut)
        before, middle, after = (
            constant(part, len(ids), ids.values.dtype)
            for part in (vocabulary.pair_prefix, vocabulary.middle, vocabulary.pair_suffix)
        )
        pair = join([before, first, middle, second, after])
        columns: Columns = {name: c for name, c in rows.items() if not isinstance(c, Ragged)}
        columns |= {"input_ids": pair, "word_starts": pair.with_values(np.ones(len(pair.values), bool))}
        columns = super().corrupt(columns, draws, vocabulary)
        ranks = self._ranks(pair, cut + len(vocabulary.pair_prefix) + len(vocabulary.middle), draws.key)
        return {**columns, "attention_ranks": pair.with_values(ranks)}

    def _ranks(self, pair: Ragged, source: np.ndarray, key: np.ndarray) -> np.ndarray:
        """int64 `[T]`: 0 in rows read from both sides, else rising in reading order from the end of the source on."""
        kind = keyed.uniform_at(key, np.zeros(len(pair), np.int64), KIND)
        edges = np.cumsum([self.bidirectional_rate, self.seq2seq_rate])
        leftward = (edges[1] + 1) / 2
        prefix = np.select([kind < edges[0], kind < edges[1]], [pair.lengths, source], 1)
        ranks = prefix_ranks(pair, prefix)
        backward = np.repeat(kind >= leftward, pair.lengths)
        return np.where(backward, np.repeat(pair.lengths, pair.lengths) - 1 - pair.positions, ranks)

    def sizes(self, key, ids, first, length, offsets):
        """One token, two or three."""
        bits = keyed.row_bits(key, ids.lengths, noise.SIZE)

        def sizes_of(tokens: np.ndarray) -> np.ndarray:
            most = noise.neighbours(tokens, first, length, offsets, 3)
            share = bits[first[tokens]] * 2.0**-32
            wanted = 1 + (share < self.ngram_rate) + (share < self.ngram_rate / 2)
            return np.minimum(wanted, most)

        return sizes_of

    def build(self, backbone, vocabulary) -> Any:
        """A masked LM that attends by rank."""
        from ..models.ranked_attention import RankedAttentionModel

        return RankedAttentionModel.build(self, backbone, vocabulary)


def _frame(vocabulary: Vocabulary) -> int:
    """Special tokens around and between a pair of texts."""
    return len(vocabulary.pair_prefix) + len(vocabulary.middle) + len(vocabulary.pair_suffix)
