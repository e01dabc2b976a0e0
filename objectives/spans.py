"""Span masking and the span-boundary objective (SpanBERT).

    an American football game to decide  →  an [MASK] [MASK] game to decide
        masked LM predicts American football in place; the span boundary objective predicts them from "an" and "game"

Joshi et al. 2019, "SpanBERT: Improving pre-training by representing and predicting spans", arXiv 1907.10529, sections
3.1 and 3.2.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("span_mlm")                        # doctest: +SKIP
    >>> get_objective("span_mlm", sbo_weight=0.0)        # span masking alone, any stock masked LM  # doctest: +SKIP
    >>> get_objective("span_mlm+sop")                    # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from . import keyed, noise
from .base import LABEL_COLUMNS, Column, Columns, Draws, Term
from .losses import token_losses
from .mlm import WholeWordMaskedLM, allowed, word_starts
from .ragged import Ragged, row_sums, slices
from .registry import register
from .vocabulary import Vocabulary

SPAN = 120
"""Stream of the spans' anchors and lengths."""

_AT_ONCE = 16  # visits whose draws are made together


@register("span_mlm")
@dataclass(frozen=True)
class SpanMaskedLM(WholeWordMaskedLM):
    """Masked LM that selects spans of words; each masked token is also predicted from the tokens around its span.

    A span begins at the start of the word that holds a random token not yet selected, and is ℓ words long, P(ℓ)
    geometric over 1 … `max_span_length`, renormalised (mean 3.80 words). Spans are drawn until ⌈p · n⌉ of the row's n
    ordinary tokens are selected, the last one cut short where it must be. Spans that touch are one span, and mask,
    random or unchanged is decided per span. They never reach over a special token.

    The span boundary objective (SBO) predicts up to `max_pair_targets` tokens of a span from the last hidden states of
    the two tokens next to it, which are never selected, and from the place in the span. Spans at the edge of the text
    (beside a special token or a row's end) have no SBO targets.

    Where paper and code differ: the paper draws clipped lengths, the code renormalises over 1 … 10, as here. The code
    draws random tokens by their frequency in the corpus; here they are drawn uniformly from all ordinary tokens, as in
    BERT, so that noise does not depend on more than the row. The code divides the SBO's sum by its count plus one,
    here by the count; its default SBO weight is 0, the published runs use 1. The code drops sentences that are longer
    than a row; here they are split.

    Args:
        geometric_p: of the geometric distribution of span lengths.
        max_span_length: most words of a drawn span.
        sbo_weight: weight of the SBO's term; 0 leaves it and its head out.
        max_pair_targets: most tokens of a span that SBO predicts (20 in the code; 15 in the published command).
        position_size: size of the embedding of the place in the span.
        others: as for `mlm`; `packing` keeps to single documents.
    """

    summary: ClassVar[str] = "predict masked spans, also from their boundaries (SpanBERT)"

    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "doc_sentences"
    geometric_p: float = 0.2
    max_span_length: int = 10
    sbo_weight: float = 1.0
    max_pair_targets: int = 20
    position_size: int = 200

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.geometric_p <= 1:
            raise ValueError(f"geometric_p must lie above 0 and up to 1, not {self.geometric_p}")
        for name in ("max_span_length", "max_pair_targets", "position_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.sbo_weight < 0:
            raise ValueError(f"sbo_weight must not be negative, not {self.sbo_weight}")
        if self.selection != "exact":
            raise ValueError("span_mlm fills an exact budget; selection must be 'exact'")

    @property
    def terms(self) -> dict[str, Term]:
        """Masked LM, and SBO unless its weight is 0."""
        return {self.name: Term()} | ({"sbo": Term(self.sbo_weight)} if self.sbo_weight else {})

    @property
    def columns(self) -> dict[str, Column]:
        """Sparse labels; for SBO the positions of both boundaries, the place in the span and the token."""
        boundary, flat = Column(axis="flat", index="input"), Column(axis="flat")
        sbo = {"sbo_left": boundary, "sbo_right": boundary, "sbo_offsets": flat, "sbo_label_ids": flat}
        return LABEL_COLUMNS | (sbo if self.sbo_weight else {})

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """As `mlm`, and the targets of SBO."""
        columns = super().corrupt(rows, draws, vocabulary)
        return columns | self.boundary_targets(rows, columns, vocabulary) if self.sbo_weight else columns

    def choose(self, rows: Columns, key: np.ndarray, rate: Any, vocabulary: Vocabulary) -> np.ndarray:
        """Sorted flat indices of the tokens of all spans."""
        ids: Ragged = rows["input_ids"]
        ok = allowed(rows, vocabulary, slice(None))
        starts = word_starts(rows, vocabulary) | ~ok
        starts[1:] |= ~ok[:-1]
        starts[ids.offsets[:-1][ids.lengths > 0]] = True
        words = np.append(np.flatnonzero(starts), len(ok))
        word_of = np.cumsum(starts) - 1
        breaks = ~ok  # no span goes on beyond
        breaks[ids.offsets[:-1][ids.lengths > 0]] = True
        breaks = np.append(np.flatnonzero(breaks), len(ok))
        candidates = np.flatnonzero(ok)
        per_row = noise.row_counts(candidates, ids.offsets)
        begin = np.cumsum(per_row) - per_row
        left = self.budget(per_row, np.asarray(rate))
        taken = ~ok
        active, visit = np.flatnonzero(left > 0), 0
        while len(active):
            draw = keyed.bits_at(
                np.repeat(key[active], _AT_ONCE), np.tile(np.arange(visit, visit + _AT_ONCE), len(active)), SPAN
            ).reshape(-1, _AT_ONCE)
            place = ((draw >> np.uint64(32)) * per_row[active, None].astype(np.uint64)) >> np.uint64(32)
            anchor = candidates[begin[active, None] + place.astype(np.int64)]
            word = word_of[anchor]
            size = self.span_lengths((draw & np.uint64(0xFFFFFFFF)) * 2.0**-32)
            start, stop = words[word], words[np.minimum(word + size, len(words) - 1)]
            stop = np.minimum(stop, breaks[np.searchsorted(breaks, start, "right")])
            _take_spans(taken, left, active, anchor, start, stop)
            active, visit = active[left[active] > 0], visit + _AT_ONCE
        return np.flatnonzero(taken & ok)

    def span_lengths(self, u: np.ndarray) -> np.ndarray:
        """int64: lengths in words for uniform numbers in [0, 1), geometric over 1 … `max_span_length`, renormalised."""
        weights = (1 - self.geometric_p) ** np.arange(self.max_span_length)
        return np.searchsorted(np.cumsum(weights / weights.sum())[:-1], u, "right") + 1

    def budget(self, lengths: np.ndarray, rate: Any) -> np.ndarray:
        """⌈p · n⌉ of n ordinary tokens, int64 `[B]`."""
        budget = np.ceil(lengths * rate - 1e-9).astype(np.int64)  # 0.15 · 20 is a little more than 3
        return budget if self.max_predictions_per_seq is None else np.minimum(budget, self.max_predictions_per_seq)

    def decisions(self, chosen: np.ndarray, position: np.ndarray) -> np.ndarray:
        """The first position of each token's span."""
        return position[_span_heads(chosen, position)]

    def boundary_targets(self, rows: Columns, columns: Columns, vocabulary: Vocabulary) -> Columns:
        """`sbo_left`, `sbo_right`, `sbo_offsets`, `sbo_label_ids`: a value per target, row by row."""
        ids: Ragged = rows["input_ids"]
        positions, labels = columns["label_positions"], columns["label_ids"]
        start = np.repeat(ids.offsets[:-1], positions.lengths)
        heads = _span_heads(start + positions.values, positions.values)
        offset = np.arange(len(heads)) - heads
        last = np.append(heads[1:] != heads[:-1], True)[: len(heads)]
        length = np.repeat(offset[last] + 1, offset[last] + 1)
        left = positions.values - offset - 1
        right = left + length + 1
        inside = (left >= 0) & (right < np.repeat(ids.lengths, positions.lengths)) & (offset < self.max_pair_targets)
        at = np.flatnonzero(inside)
        edges = (start + left)[at], (start + right)[at]
        at = at[allowed(rows, vocabulary, edges[0]) & allowed(rows, vocabulary, edges[1])]
        counts = noise.row_counts(at, positions.offsets)
        found = {"sbo_left": left, "sbo_right": right, "sbo_offsets": offset, "sbo_label_ids": labels.values}
        return {name: Ragged(values[at], counts) for name, values in found.items()}

    def counts(self, batch):
        """Selected tokens, and tokens that SBO predicts."""
        counts = {self.name: (batch["label_ids"] != -100).sum()}
        return counts | ({"sbo": (batch["sbo_label_ids"] != -100).sum()} if self.sbo_weight else {})

    def loss(self, outputs, batch):
        """Cross-entropies of both heads, and their accuracies."""
        sums, metrics = super().loss(outputs, batch)
        if not self.sbo_weight:
            return sums, metrics
        logits, labels = outputs["sbo"], batch["sbo_label_ids"]
        with torch.no_grad():
            correct = (logits.argmax(-1) == labels).sum()
        metrics["sbo_accuracy"] = (correct, (labels != -100).sum())
        return sums | {"sbo": token_losses(logits, labels).sum()}, metrics

    def heads(self, main, vocabulary):
        """The head of SBO."""
        if not self.sbo_weight:
            return {}
        from ..models.heads import SpanBoundaryHead

        head = SpanBoundaryHead(main.get_input_embeddings(), main.config, self.max_pair_targets, self.position_size)
        return {"sbo": head.to(main.dtype)}


def _take_spans(taken, left, active, anchor, start, stop) -> None:
    """Visit the spans of each row in turn, `[rows, visits]`: select what is free in them until `left` is used up.

    A span whose anchor is selected already is passed over. `taken`, bool `[T]`, and `left`, `[B]`, are updated.
    """
    rows = np.arange(len(active))
    for visit in range(anchor.shape[1]):
        rows = rows[left[active[rows]] > 0]
        if not len(rows):
            return
        here = rows[~taken[anchor[rows, visit]]]
        begin, length = start[here, visit], stop[here, visit] - start[here, visit]
        index = slices(begin, length)
        free = ~taken[index]
        offsets = np.append(0, np.cumsum(length))
        number = np.cumsum(free)
        number -= np.repeat(np.append(0, number)[offsets[:-1]], length)  # free tokens of the span so far
        free &= number <= np.repeat(left[active[here]], length)
        taken[index[free]] = True
        left[active[here]] -= row_sums(free, offsets)


def _span_heads(chosen: np.ndarray, position: np.ndarray) -> np.ndarray:
    """int64: for each selected token the index, among the selected, of the first of its span.

    Args:
        chosen, position: sorted flat indices of the selected tokens, and their positions in their rows. Neighbours in
            a row are one span.
    """
    begins = np.ones(len(chosen), bool)
    begins[1:] = (chosen[1:] != chosen[:-1] + 1) | (position[1:] == 0)
    return np.maximum.accumulate(np.where(begins, np.arange(len(chosen)), 0))
