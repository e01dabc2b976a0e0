"""Masked language modelling.

    the cat sat on the mat  →  the [MASK] sat on the mat      predict: cat

BERT (Devlin et al. 2018, arXiv 1810.04805, section 3.1), dynamic masking of RoBERTa (Liu et al. 2019, arXiv
1907.11692, section 4.1), whole-word masking (BERT's later release), n-grams of ALBERT (Lan et al. 2019, arXiv
1909.11942, section 3.1).

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("mlm", mlm_probability=0.3, selection="exact")       # doctest: +SKIP
    >>> get_objective("whole_word_mlm"), get_objective("ngram_mlm")         # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from . import keyed, noise
from .base import Columns, Draws, Objective
from .losses import masked_lm_loss
from .ragged import Ragged, row_sums
from .registry import register
from .schedules import check_shape, interpolate
from .segments import check_packing
from .vocabulary import Vocabulary


@register("mlm")
@dataclass(frozen=True)
class MaskedLM(Objective):
    """Predict tokens that were masked, replaced at random, or left as they were; the others are not predicted.

    Where papers and code differ: the random token is drawn from all tokens but special ones (BERT's code draws from
    the whole vocabulary list, special tokens included), and special tokens are never selected.

    Args:
        mlm_probability: share of tokens to select.
        mask_replace_prob, random_replace_prob: shares of the selected that become the mask token or a random token;
            the rest stays as it is (BERT: 80 %, 10 %, 10 %).
        selection: "independent", each token by its own coin (RoBERTa in transformers), or "exact", a fixed number per
            row drawn without replacement: max(1, round(p · n)), n counting special tokens but not padding (BERT); all
            that may be selected, where they are fewer.
        max_predictions_per_seq: upper bound of that number (BERT's code: 20 at length 128).
        dupe_factor: `None` draws new noise at every visit (RoBERTa); `n` uses n noises per example in turn (BERT's
            static masking, 10).
        final_mlm_probability, mlm_schedule: move the share from `mlm_probability` to this over the run, "linear" or
            "cosine" (arXiv 2305.15096 lets it fall).
        packing: how documents become examples, see `segments`.
    """

    summary: ClassVar[str] = "predict masked tokens (BERT, RoBERTa)"
    architecture: ClassVar[str] = "masked_lm"
    needs: ClassVar[tuple[str, ...]] = ("mask", "pad")

    mlm_probability: float = 0.15
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    selection: Literal["independent", "exact"] = "independent"
    max_predictions_per_seq: int | None = None
    dupe_factor: int | None = None
    final_mlm_probability: float | None = None
    mlm_schedule: Literal["linear", "cosine"] = "linear"
    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "full_sentences"

    def __post_init__(self):
        for name in ("mlm_probability", "mask_replace_prob", "random_replace_prob", "final_mlm_probability"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in 0 … 1, not {value}")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise ValueError("mask_replace_prob and random_replace_prob must not exceed 1 together")
        if self.selection not in ("independent", "exact"):
            raise ValueError(f"selection must be 'independent' or 'exact', not {self.selection!r}")
        for name in ("dupe_factor", "max_predictions_per_seq"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        check_shape(self.mlm_schedule)
        check_packing(self.packing)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Selected positions become labels; their inputs are masked, random or unchanged."""
        ids: Ragged = rows["input_ids"]
        key = draws.key if self.dupe_factor is None else draws.static(self.dupe_factor).key
        chosen = self.choose(rows, key, self._rate(draws), vocabulary)
        counts = noise.row_counts(chosen, ids.offsets)
        positions = Ragged(chosen - np.repeat(ids.offsets[:-1], counts), counts)
        labels = ids.values[chosen].astype(np.int64, copy=False)
        values = noise.replace(
            ids.values,
            chosen,
            key,
            positions,
            mask_id=vocabulary.mask_id,
            pool=vocabulary.random_pool,
            mask_prob=self.mask_replace_prob,
            random_prob=self.random_replace_prob,
            decide_at=self.decisions(chosen, positions.values),
        )
        return {
            **rows,
            "input_ids": ids.with_values(values),
            "label_positions": positions,
            "label_ids": Ragged(labels, counts),
        }

    def choose(self, rows: Columns, key: np.ndarray, rate: Any, vocabulary: Vocabulary) -> np.ndarray:
        """Sorted flat indices of the tokens to predict."""
        ids: Ragged = rows["input_ids"]
        if self.selection == "independent":
            chosen = noise.bernoulli(key, ids, rate)
            return chosen[allowed(rows, vocabulary, chosen)]
        candidates = np.flatnonzero(allowed(rows, vocabulary, slice(None)))
        score = keyed.row_bits(key, ids.lengths, noise.CHOOSE)[candidates]
        offsets = np.searchsorted(candidates, ids.offsets)
        return candidates[noise.smallest(score, offsets, self.budget(text_lengths(rows), rate))]

    def decisions(self, chosen: np.ndarray, position: np.ndarray) -> np.ndarray | None:
        """Position whose draw decides on mask, random or unchanged for each selected token; `None`: its own.

        Args:
            chosen, position: sorted flat indices of the selected tokens, and their positions in their rows.
        """
        return None

    def budget(self, lengths: np.ndarray, rate: Any) -> np.ndarray:
        """Number of tokens to select in rows of these lengths, int64 `[B]`."""
        budget = np.maximum(np.rint(lengths * rate), 1).astype(np.int64)
        return budget if self.max_predictions_per_seq is None else np.minimum(budget, self.max_predictions_per_seq)

    def _rate(self, draws: Draws) -> float | np.ndarray:
        if self.final_mlm_probability is None:
            return self.mlm_probability
        return interpolate(self.mlm_probability, self.final_mlm_probability, draws.progress, self.mlm_schedule)

    def loss(self, outputs, batch):
        """Cross-entropy over the labelled positions; accuracy as a metric."""
        return masked_lm_loss(self.name, outputs, batch)


@register("whole_word_mlm")
@dataclass(frozen=True)
class WholeWordMaskedLM(MaskedLM):
    """Masked LM that selects whole words; mask, random or unchanged is decided per piece, as in BERT.

        the [un ##believ ##able] cat  →  the [MASK] [MASK] [MASK] cat      predict: un ##believ ##able

    With `selection="exact"` (the default, as in BERT) the budget counts pieces, and a word that would overshoot it is
    skipped; "independent" tosses one coin per word.
    """

    summary: ClassVar[str] = "predict whole masked words (BERT whole-word masking)"
    row_columns: ClassVar[tuple[str, ...]] = ("word_starts",)

    selection: Literal["independent", "exact"] = "exact"

    def choose(self, rows: Columns, key: np.ndarray, rate: Any, vocabulary: Vocabulary) -> np.ndarray:
        """Sorted flat indices of all pieces of the chosen words."""
        ids: Ragged = rows["input_ids"]
        first, length = noise.units_from_starts(word_starts(rows, vocabulary), ids)
        usable = _allowed_words(rows, vocabulary, first)
        first, length = first[usable], length[usable]
        score = keyed.row_bits(key, ids.lengths, noise.ORDER)[first]
        offsets = np.searchsorted(first, ids.offsets)
        if self.selection == "independent":
            taken = noise.below(score, np.diff(offsets), rate)
            return noise.slices(first[taken], length[taken])
        budget = self.budget(text_lengths(rows), rate)
        return noise.fill_budget(score, offsets, first, length, budget, self.sizes(key, ids, first, length, offsets))

    def sizes(self, key, ids, first, length, offsets) -> Callable[[np.ndarray], np.ndarray]:
        """A function from indices of words to how many neighbouring words a visit to each takes: one."""
        return np.ones_like


@register("ngram_mlm")
@dataclass(frozen=True)
class NgramMaskedLM(WholeWordMaskedLM):
    """Masked LM that selects n-grams of words, n up to `max_ngram`, P(n) ∝ 1/n (Lan et al. 2019, arXiv 1909.11942).

        the [quick brown] fox jumps  →  the [MASK] [MASK] fox jumps      predict: quick brown

    Near the end of a text the distribution is renormalised over the sizes that fit; an n-gram is shortened until it
    fits the budget, and skipped where it would overlap another. Where ALBERT's code differs: its n-grams may reach
    across a separator, and their sizes come from a generator that the seed does not govern.
    """

    summary: ClassVar[str] = "predict masked n-grams of words (ALBERT)"

    max_ngram: int = 3

    def __post_init__(self):
        super().__post_init__()
        if self.max_ngram < 1:
            raise ValueError(f"max_ngram must be at least 1, not {self.max_ngram}")
        if self.selection != "exact":
            raise ValueError("ngram_mlm fills an exact budget; selection must be 'exact'")

    def sizes(self, key, ids, first, length, offsets) -> Callable[[np.ndarray], np.ndarray]:
        """P(n) ∝ 1/n over the sizes that the words up to the next special token leave room for."""
        bits = keyed.row_bits(key, ids.lengths, noise.SIZE)

        def sizes_of(words: np.ndarray) -> np.ndarray:
            most = noise.neighbours(words, first, length, offsets, self.max_ngram)
            return noise.harmonic_sizes(bits[first[words]] * 2.0**-32, most)

        return sizes_of


def allowed(rows: Columns, vocabulary: Vocabulary, index) -> np.ndarray:
    """bool: which of these flat indices may be selected: no special token, no padding, nothing the features exclude."""
    ids: Ragged = rows["input_ids"]
    ok = vocabulary.maskable[ids.values[index]]
    if "special_tokens_mask" in rows:
        ok &= rows["special_tokens_mask"].values[index] == 0
    if "attention_mask" in rows:
        ok &= rows["attention_mask"].values[index] != 0
    return ok


def text_lengths(rows: Columns) -> np.ndarray:
    """int64 `[B]`: tokens in each row, special ones included, padding not."""
    ids: Ragged = rows["input_ids"]
    return row_sums(rows["attention_mask"].values != 0, ids.offsets) if "attention_mask" in rows else ids.lengths


def _allowed_words(rows: Columns, vocabulary: Vocabulary, first: np.ndarray) -> np.ndarray:
    """bool: which of the words with these first tokens may be selected; none of which a token may not be."""
    if "special_tokens_mask" not in rows or not len(first):
        return allowed(rows, vocabulary, first)
    return np.logical_and.reduceat(allowed(rows, vocabulary, slice(None)), first)


def word_starts(rows: Columns, vocabulary: Vocabulary) -> np.ndarray:
    """Word starts with every special token as a word of its own."""
    starts = rows["word_starts"].values.astype(bool)
    special = np.flatnonzero(~vocabulary.maskable[rows["input_ids"].values])
    starts[special] = True
    after = special[special + 1 < len(starts)] + 1
    starts[after] = True
    return starts
