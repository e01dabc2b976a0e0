"""Permutation language modelling (XLNet).

    the cat sat on the mat  →  the cat sat on the mat      predict: cat from "the sat on mat", then the₂ from both

Yang et al. 2019, "XLNet: Generalized autoregressive pretraining for language understanding", arXiv 1906.08237,
sections 2.2–2.6. The model reads real tokens everywhere; a random order says which of them each prediction may see.
Predicted tokens come in spans; in the order, they see all tokens that are not predicted and the predicted ones that
come earlier.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("plm", max_span_length=5)       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from . import keyed, noise
from .base import LABEL_COLUMNS, Column, Columns, Draws, Objective
from .collator import ObjectiveCollator, tensor_kind
from .losses import masked_lm_loss
from .mlm import allowed
from .ragged import Ragged, slices
from .registry import register
from .streams import StreamPlan, TwoSegmentPlan
from .vocabulary import Vocabulary

SPAN, TOP_UP, RANK = range(200, 203)
"""Streams of randomness."""


@register("plm")
@dataclass(frozen=True)
class PermutationLM(Objective):
    """Predict spans of tokens in a random order, each from what comes before it in that order.

    The collator hands over ranks (`perm_ranks`, −1 for tokens that are neither predicted nor special), from which
    `permutation_mask` builds the `[B, L, L]` mask on the device.

    Where paper and code differ: a span is `n` tokens, as in the paper and, in effect, in the code (which means words
    but counts pieces); special tokens are never predicted, so that the budget is met exactly. The order covers each
    part as a whole, which is the released setting (`perm_size` = `reuse_len`). `DataCollatorForPermutationLanguage-
    Modeling` of transformers masks the predicted tokens in the input; this does not.

    Args:
        plm_probability: share of tokens to predict (85 of 512 in the released models).
        max_span_length: spans are 1 … this long, P(n) ∝ 1/n.
        context_ratio: a span of n tokens comes with n times this many tokens of context around it.
        reuse_len: tokens a row shares with the next one's memory; `None`: half the length. The first `reuse_len`
            tokens never see the others.
        two_segments: end rows with `A <sep> B <sep> <cls>`; `False` gives plain text.
        bi_data: read every other stream backwards.
        mem_len: hidden states kept from earlier segments; 0 trains without memory.
    """

    summary: ClassVar[str] = "predict tokens in a random order (XLNet)"
    architecture: ClassVar[str] = "permutation_lm"
    needs: ClassVar[tuple[str, ...]] = ("pad", "sep", "cls")
    row_columns: ClassVar[tuple[str, ...]] = ("word_starts",)
    replans: ClassVar[bool] = True

    plm_probability: float = 1 / 6
    max_span_length: int = 5
    context_ratio: int = 6
    reuse_len: int | None = None
    two_segments: bool = True
    bi_data: bool = False
    mem_len: int = 384

    def __post_init__(self):
        if not 0 < self.plm_probability <= 1:
            raise ValueError(f"plm_probability must lie in 0 … 1, not {self.plm_probability}")
        if self.max_span_length < 1 or self.context_ratio < 1:
            raise ValueError("max_span_length and context_ratio must be at least 1")
        if self.mem_len < 0:
            raise ValueError(f"mem_len must not be negative, not {self.mem_len}")

    @property
    def columns(self) -> dict[str, Column]:
        """Sparse labels, and what the mask is made of."""
        return {**LABEL_COLUMNS, "perm_ranks": Column(pad=-1), "parts": Column(pad=1)}

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Parallel streams, one per row of the global batch."""
        reuse = length // 2 if self.reuse_len is None else self.reuse_len
        size = length - 3 if self.two_segments else length
        if not 0 < reuse < size - 1:
            raise ValueError(f"reuse_len {reuse} must leave room in rows of {length} tokens; lower it")
        arguments = (documents, vocabulary, reuse, size, global_batch, self.bi_data, (*self.row_columns, "parts"))
        if self.two_segments:
            return TwoSegmentPlan(*arguments, seed=seed, epoch=epoch)
        return StreamPlan(*arguments)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Inputs stay as they are; adds the predicted positions, their tokens, and the ranks of the order."""
        ids: Ragged = rows["input_ids"]
        parts = rows["parts"].values if "parts" in rows else np.zeros(len(ids.values), np.int64)
        functional = ~allowed(rows, vocabulary, slice(None))
        chosen = self.choose(rows, draws.key, parts, functional, vocabulary)
        counts = noise.row_counts(chosen, ids.offsets)
        ranks = np.full(len(ids.values), -1, np.int64)
        ordered = functional.copy()
        ordered[chosen] = True
        at = np.flatnonzero(ordered)
        per_row = noise.row_counts(at, ids.offsets)
        score = keyed.row_bits(draws.key, ids.lengths, RANK)[at]
        row = np.repeat(np.arange(len(ids), dtype=np.uint64), per_row)
        order = np.argsort((row << np.uint64(32)) | score, kind="stable")
        ranks[at[order]] = slices(np.zeros(len(ids), np.int64), per_row)
        return {
            **rows,
            "perm_ranks": ids.with_values(ranks),
            "parts": ids.with_values(parts),
            "label_positions": Ragged(chosen - np.repeat(ids.offsets[:-1], counts), counts),
            "label_ids": Ragged(ids.values[chosen].astype(np.int64), counts),
        }

    def choose(self, rows, key, parts, functional, vocabulary) -> np.ndarray:
        """Sorted flat indices of the tokens to predict: spans in each part, then single tokens up to the budget."""
        ids: Ragged = rows["input_ids"]
        pieces, owner = _parts_of(ids, parts)
        budget = _split_budget(np.rint(ids.lengths * self.plm_probability), pieces, owner)
        key = keyed.combine(key[owner], parts[pieces.offsets[:-1]]) if len(pieces) else key[:0]
        words = functional | (rows["word_starts"].values != 0) if "word_starts" in rows else np.ones(len(parts), bool)
        words[1:] |= functional[:-1]
        words[ids.offsets[:-1][ids.lengths > 0]] = True  # whatever row stands before
        taken, left = self._spans(key, pieces, budget, np.flatnonzero(words), functional)
        free = np.flatnonzero(~(taken | functional))
        offsets = np.searchsorted(free, pieces.offsets)
        score = keyed.row_bits(key, pieces.lengths, TOP_UP)[free]
        taken[free[noise.smallest(score, offsets, left)]] = True
        return np.flatnonzero(taken)

    def _spans(self, key, pieces: Ragged, budget, word_starts, functional) -> tuple[np.ndarray, np.ndarray]:
        """(taken `[T]`, budget left): spans with context between them, all pieces side by side."""
        harmonic = np.cumsum(1 / np.arange(1, self.max_span_length + 1))
        cumulative = harmonic / harmonic[-1]
        taken = np.zeros(len(functional), bool)
        current, end, left = pieces.offsets[:-1].copy(), pieces.offsets[1:], budget.copy()
        blocked = np.append(0, np.cumsum(functional))
        word_starts = np.append(word_starts, len(taken))  # past the last word lies the end
        stream = keyed.combine(key, SPAN)
        low = np.uint64(0xFFFFFFFF)
        active = np.flatnonzero(left > 0)
        while len(active):
            stream += keyed.GOLDEN
            bits = keyed.mix(stream[active])  # the visit's draw, in two halves
            size = np.searchsorted(cumulative, (bits >> np.uint64(32)) * 2.0**-32, "right") + 1
            size = np.minimum(size, left[active])
            context = size * self.context_ratio
            before = (((bits & low) * context.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
            begin = word_starts[np.searchsorted(word_starts, np.minimum(current[active] + before, len(taken)))]
            stop = begin + size
            fits = stop < end[active]
            clear = fits & (blocked[np.minimum(stop, len(taken))] == blocked[np.minimum(begin, len(taken))])
            taken[slices(begin[clear], size[clear])] = True
            left[active[clear]] -= size[clear]
            current[active] = stop + context - before
            active = active[fits & (left[active] > 0) & (current[active] < end[active])]
        return taken, left

    def loss(self, outputs, batch):
        """Cross-entropy of the predicted tokens; accuracy as a metric."""
        return masked_lm_loss(self.name, outputs, batch)

    def build(self, backbone, vocabulary):
        """An XLNet with two streams."""
        from ..models.recurrence import PermutationModel

        return PermutationModel.build(self, backbone)


def _parts_of(ids: Ragged, parts: np.ndarray) -> tuple[Ragged, np.ndarray]:
    """The runs of equal `parts` in each row as a ragged array of their own, and the row of each."""
    starts = np.zeros(len(parts), bool)
    starts[ids.offsets[:-1][ids.lengths > 0]] = True
    starts[1:] |= parts[1:] != parts[:-1]
    first = np.flatnonzero(starts)
    return Ragged(parts, np.diff(first, append=len(parts))), np.searchsorted(ids.offsets, first, "right") - 1


def _split_budget(budget: np.ndarray, pieces: Ragged, owner: np.ndarray) -> np.ndarray:
    """Each row's budget over its parts by their lengths, whole numbers that add up to it."""
    if not len(pieces):
        return np.zeros(0, np.int64)
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    total = np.add.reduceat(pieces.lengths, first)
    count = np.diff(first, append=len(owner))
    before = np.cumsum(pieces.lengths) - np.repeat((np.cumsum(pieces.lengths) - pieces.lengths)[first], count)
    upto = np.floor(budget[owner] * before / np.repeat(total, count) + 0.5).astype(np.int64)
    previous = np.concatenate([[0], upto[:-1]])
    previous[first] = 0
    return upto - previous


def permutation_mask(ranks: torch.Tensor, targets: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """Which position may not attend which, bool `[B, L, L]`; element `[b, i, j]`: `i` does not see `j`.

    A position that is predicted sees those before it in the order; a special token also itself; any other token sees
    neither. Tokens that are neither predicted nor special are seen by all, but nothing of a later part is seen.

    Args:
        ranks: int `[B, L]`, place in the order, −1 for tokens that are neither predicted nor special.
        targets: bool `[B, L]`, predicted positions.
        parts: int `[B, L]`.
    """
    own = torch.where(targets, ranks, ranks + 1)
    hidden = (ranks[:, None, :] >= 0) & (own[:, :, None] <= ranks[:, None, :])
    later = parts[:, :, None] < parts[:, None, :]
    earlier = parts[:, :, None] > parts[:, None, :]
    return (hidden & ~earlier) | later


def target_positions(batch: Mapping[str, Any], length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row and column of each label, and its number within its row: int64 `[N]` each, in order of rows."""
    flat = batch["label_positions"]
    row, column = flat // length, flat % length
    counts = torch.bincount(row, minlength=int(batch["input_ids"].shape[0]))
    first = torch.cumsum(counts, 0) - counts
    return row, column, torch.arange(len(flat), device=flat.device) - first[row]


class DataCollatorForPermutationLanguageModeling(ObjectiveCollator):
    """Permutation LM for a stock `XLNetLMHeadModel`, under the name and with the arguments of transformers' collator.

    Hands over `input_ids` (real tokens everywhere), `attention_mask`, `perm_mask` `[B, L, L]`, `target_mapping`
    `[B, P, L]` and `labels` `[B, P]`, where P is the largest number of predictions in the batch. Rows may have any
    length, odd ones included.

    Args:
        tokenizer: with sep, cls and pad tokens.
        settings: `plm_probability`, `max_span_length` and others of `PermutationLM`, and of `ObjectiveCollator`.
    """

    def __init__(self, tokenizer: Any, **settings: Any):
        super().__init__("plm", tokenizer, sparse_labels=True, **settings)

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> Any:
        """The batch; raises `ValueError` for unusable features."""
        batch = super().__call__(features, return_tensors="pt")
        rows, length = batch["input_ids"].shape
        row, column, number = target_positions(batch, length)
        targets = torch.zeros(rows, length, dtype=torch.bool)
        targets[row, column] = True
        most = int(number.max()) + 1 if len(number) else 1
        mapping, labels = torch.zeros(rows, most, length), torch.full((rows, most), -100)
        mapping[row, number, column] = 1.0
        labels[row, number] = batch.pop("label_ids")
        del batch["label_positions"]
        blocked = permutation_mask(batch.pop("perm_ranks"), targets, batch.pop("parts"))
        batch.update(perm_mask=blocked.float(), target_mapping=mapping, labels=labels)
        if tensor_kind(return_tensors or self.return_tensors) == "np":
            batch.update({name: tensor.numpy() for name, tensor in batch.items()})
        return batch
