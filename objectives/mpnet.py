"""Masked and permuted language modelling (MPNet).

    the cat sat on the mat  →  the cat sat on the mat + [MASK]₂ [MASK]₅      predict: the₅, then cat from all but itself

Song et al. 2020, "MPNet: Masked and permuted pre-training for language understanding", arXiv 2004.09297, section 2.
Like permutation LM, predictions come in a random order and see the predicted tokens before them; like masked LM, they
see the positions of all others too, as mask tokens ("position compensation"), so that each sees a full sentence.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("mpnet", whole_words=True)       # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from . import keyed
from .base import LABEL_COLUMNS, Column, Columns, Draws
from .mlm import WholeWordMaskedLM
from .ragged import Ragged, join, slices
from .registry import register
from .vocabulary import Vocabulary

RANK = 300
"""Stream of the random order."""

CONTEXT, TARGET, COMPENSATION, QUERY = range(4)
"""Roles: a token that is not predicted, a predicted token, the mask token at its place, the row that predicts it."""


@register("mpnet")
@dataclass(frozen=True)
class MaskedPermutedLM(WholeWordMaskedLM):
    """Predict masked tokens one after another, each seeing exactly as many positions as the row has tokens.

    A row of L tokens with q predictions becomes L + 2q: the tokens, then for each prediction what stands in for it
    before it is known (`mask_replace_prob` … of BERT), then the position that predicts it, which nobody attends. With
    `roles` and `perm_ranks`, `compensated_mask` builds the mask on the device.

    Where paper and code differ: special tokens are never predicted (the code may predict the first token) and padding
    is masked out (the code permutes it among the tokens).

    Args:
        whole_words: choose whole words.
        others: as for `mlm`; the number of predictions is exact.
    """

    summary: ClassVar[str] = "predict masked tokens in a random order, all positions known (MPNet)"
    architecture: ClassVar[str] = "masked_permuted_lm"

    whole_words: bool = True
    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "full_sentences"

    def __post_init__(self):
        super().__post_init__()
        if self.selection != "exact":
            raise ValueError("mpnet predicts an exact share; selection must be 'exact'")

    @property
    def columns(self) -> dict[str, Column]:
        """Sparse labels, and what the mask is made of."""
        return {**LABEL_COLUMNS, "roles": Column(pad=QUERY), "perm_ranks": Column(pad=-1), "position_ids": Column()}

    def choose(self, rows, key, rate, vocabulary):
        """Sorted flat indices of the tokens to predict: words, or single tokens."""
        return (super().choose if self.whole_words else super(WholeWordMaskedLM, self).choose)(
            rows, key, rate, vocabulary
        )

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Appends stand-ins and predicting positions; labels are on the latter."""
        ids: Ragged = rows["input_ids"]
        masked = super().corrupt(rows, draws, vocabulary)
        position, labels = masked["label_positions"], masked["label_ids"]
        counts = position.lengths
        chosen = position.values + np.repeat(ids.offsets[:-1], counts)
        stand_in = Ragged(masked["input_ids"].values[chosen], counts)
        row = np.repeat(np.arange(len(ids), dtype=np.uint64), counts)
        score = keyed.row_bits(draws.key, ids.lengths, RANK)[chosen]
        order = np.argsort((row << np.uint64(32)) | score, kind="stable")
        rank = np.empty(len(chosen), np.int64)
        rank[order] = slices(np.zeros(len(ids), np.int64), counts)
        roles, ranks = np.full(len(ids.values), CONTEXT), np.full(len(ids.values), -1)
        roles[chosen], ranks[chosen] = TARGET, rank
        rank_rows = Ragged(rank, counts)
        placed = ids.with_values(slices(np.zeros(len(ids), np.int64), ids.lengths))
        alike = {name: Ragged(np.full(len(chosen), role), counts) for name, role in (("m", COMPENSATION), ("q", QUERY))}
        kept = {name: c for name, c in rows.items() if not isinstance(c, Ragged)}
        if "attention_mask" in rows:  # rows that came with padding
            given = rows["attention_mask"].values
            roles[given == 0] = QUERY
            ones = Ragged(np.ones(len(chosen), given.dtype), counts)
            kept["attention_mask"] = join([ids.with_values(given), ones, ones])
        return {
            **kept,
            "input_ids": join([ids, stand_in, stand_in]),
            "position_ids": join([placed, position, position]),
            "roles": join([ids.with_values(roles), alike["m"], alike["q"]]),
            "perm_ranks": join([ids.with_values(ranks), rank_rows, rank_rows]),
            "label_positions": Ragged(slices(ids.lengths + counts, counts), counts),
            "label_ids": labels,
        }

    def build(self, backbone, vocabulary):
        """A masked LM that takes positions and masks of its own."""
        from ..models.masked_permuted import MaskedPermutedModel

        return MaskedPermutedModel.build(self, backbone, vocabulary)


def compensated_mask(roles: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """Which position may attend which, bool `[B, S, S]`; element `[b, i, j]`: `i` sees `j`.

    All see the context. A predicted token sees those before it in the order, and itself, as tokens, and those after it
    as stand-ins; its query sees itself as a stand-in too. Context and stand-ins see all stand-ins and no predicted
    token. Nobody sees a query, nor padding, which has the role of one.

    Args:
        roles, ranks: int `[B, S]`.
    """
    i, j = roles[:, :, None], roles[:, None, :]
    before = ranks[:, None, :] < ranks[:, :, None]
    same = ranks[:, None, :] == ranks[:, :, None]
    token = (j == TARGET) & (((i == QUERY) & before) | ((i == TARGET) & (before | same)))
    later = ((i == QUERY) & ~before) | ((i == TARGET) & ~(before | same))
    stand_in = (j == COMPENSATION) & ((i == CONTEXT) | (i == COMPENSATION) | later)
    return (j == CONTEXT) | token | stand_in
