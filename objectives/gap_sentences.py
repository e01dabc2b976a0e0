"""Gap-sentence generation (PEGASUS).

    Rain fell. The cat sat on the mat. The mat was wet.  →  Rain fell. <mask_1> The mat was wet.
                                                            predict: The cat sat on the mat. </s>

Zhang et al. 2019, "PEGASUS: Pre-training with extracted gap-sentences for abstractive summarization", arXiv 1912.08777,
section 3.1, and the released operations (`sentence_selection`).

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("gsg", gap_sentence_ratio=0.3, min_share=1.0)       # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from . import keyed, noise
from .base import Columns, Draws
from .collator import ObjectiveCollator
from .ragged import Ragged, constant, join, slices
from .registry import register
from .segments import pack
from .seq2seq import Seq2SeqObjective, first_of, put_text, seq2seq_columns, text_of
from .vocabulary import Vocabulary

SHARE, SCORE, INTACT = range(350, 353)
"""Streams of randomness."""


@register("gsg")
@dataclass(frozen=True)
class GapSentences(Seq2SeqObjective):
    """Take the sentences out of a text that say most about the rest, and predict them, one after another.

    Sentences are scored one by one (the paper's "Ind-Orig") by ROUGE-1 F1 against all others of the row, tokens being
    the unigrams. max(1, ⌊ratio · sentences⌋) are taken. The released code draws its noise from a generator that begins
    anew in every document, and makes a normal variable of it; here it is uniform, as its description says.

    Args:
        gap_sentence_ratio: largest share of sentences to take.
        min_share: the share of a row is this times a uniform number between `min_share` and 1 (0.33 in the released
            setting: 15 to 45 %).
        score_noise: scores are multiplied by a uniform number between 1 − this and 1 + this.
        mask_replace_prob: share of the taken sentences that a mask stands for in the input; the others stay there.
        sentence_mask: text of the token that stands for a sentence; without it, the tokenizer's mask token does.
        packing: how documents become examples, see `segments`.
    """

    summary: ClassVar[str] = "predict the most telling sentences (PEGASUS)"
    needs: ClassVar[tuple[str, ...]] = ("pad",)
    row_columns: ClassVar[tuple[str, ...]] = ("sentence_starts",)
    start_tokens: ClassVar[tuple[str, ...]] = ("pad",)

    gap_sentence_ratio: float = 0.45
    min_share: float = 0.33
    score_noise: float = 0.2
    mask_replace_prob: float = 0.9
    sentence_mask: str = "<mask_1>"
    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "doc_sentences"

    def __post_init__(self):
        for name in ("gap_sentence_ratio", "min_share", "score_noise", "mask_replace_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0 … 1, not {getattr(self, name)}")

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Refuse also tokenizers without end token or anything to mask a sentence with."""
        super().check(vocabulary, config)
        first_of(vocabulary, ("eos", "sep"))
        if self.sentence_mask not in vocabulary.special:
            vocabulary.require("mask")

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Examples that leave room for the end token of the target."""
        room = length if vocabulary.suffix else length - 1
        return pack(documents, vocabulary, length=room, packing=self.packing, columns=self.row_columns)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """A mask for each sentence taken; targets are these sentences in their order, and the end token."""
        ids: Ragged = rows["input_ids"]
        begin, length = text_of(ids, vocabulary)
        index = slices(begin, length)
        text = Ragged(ids.values[index].astype(np.int64, copy=False), length)
        first, size = noise.units_from_starts(rows["sentence_starts"].values[index].astype(bool), text)
        chosen = self.choose(text, first, size, draws.key)
        row = np.searchsorted(text.offsets, first[chosen], "right") - 1
        key, position = draws.key[row], first[chosen] - text.offsets[row]
        masked = chosen[keyed.uniform_at(key, position, INTACT) < self.mask_replace_prob]
        values, keep = text.values.copy(), np.ones(len(text.values), bool)
        values[first[masked]] = vocabulary.special.get(self.sentence_mask, vocabulary.mask_id)
        keep[slices(first[masked] + 1, size[masked] - 1)] = False
        inputs = put_text(ids, begin, length, text.with_values(values).keep(keep))
        taken = np.zeros(len(text.values), bool)
        taken[slices(first[chosen], size[chosen])] = True
        targets = join([text.keep(taken), constant(first_of(vocabulary, ("eos", "sep")), len(text))])
        return seq2seq_columns(rows, inputs, targets, self.start_id(vocabulary))

    def choose(self, text: Ragged, first: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Sorted numbers of the sentences to take, among those that begin at `first` with `size` tokens."""
        per_row = noise.row_counts(first, text.offsets)
        row = np.repeat(np.arange(len(text)), per_row)
        zero = np.zeros(len(text), np.int64)
        share = self.min_share + (1 - self.min_share) * keyed.uniform_at(key, zero, SHARE)
        count = np.floor(self.gap_sentence_ratio * share * per_row + 1e-9).astype(np.int64)
        count = np.minimum(np.maximum(count, 1), per_row)
        u = keyed.uniform_at(key[row], first - text.offsets[row], SCORE)
        score = rouge1(text, first, size) * (1 + self.score_noise * (2 * u - 1))
        order = np.lexsort((-score, row))
        return np.sort(order[slices(np.cumsum(per_row) - per_row, count)])


def rouge1(text: Ragged, first: np.ndarray, size: np.ndarray) -> np.ndarray:
    """float64: ROUGE-1 F1 of each sentence against all other tokens of its row.

    Precision is the overlap divided by the sentence's tokens, recall by the others', so F1 is twice the overlap divided
    by all tokens of the row.

    Args:
        first, size: int64, flat index and number of tokens of the sentences, which cover all rows, in order.
    """
    sentence = np.repeat(np.arange(len(first)), size)
    pairs, own = np.unique((sentence << 32) | text.values, return_counts=True)
    sentence, token = pairs >> 32, pairs & 0xFFFFFFFF
    row = np.searchsorted(text.offsets, first, "right") - 1
    _, place = np.unique((row[sentence] << 32) | token, return_inverse=True)
    others = np.bincount(place, weights=own)[place] - own
    overlap = np.bincount(sentence, weights=np.minimum(own, others), minlength=len(first))
    return 2 * overlap / np.maximum(text.lengths[row], 1)


class DataCollatorForGapSentences(ObjectiveCollator):
    """Gap sentences for a stock `PegasusForConditionalGeneration`, see `GapSentences`.

    Features may hold `sentence_starts`, with 1 at the tokens that begin one; without, a full stop, question or
    exclamation mark ends a sentence.
    """

    def __init__(self, tokenizer: Any, **settings: Any):
        super().__init__("gsg", tokenizer, **settings)
