"""Denoising (BART).

    the cat sat. it purred.  →  it <mask>. the <mask> sat.      predict: the cat sat. it purred.

Lewis et al. 2019, "BART: Denoising sequence-to-sequence pre-training for natural language generation, translation, and
comprehension", arXiv 1910.13461, sections 2.2 and 3; fairseq's `denoising_dataset`. The five noises are plain functions
in `text_noise`.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("denoising")                                                          # doctest: +SKIP
    >>> get_objective("denoising", mask_ratio=0, permute_sentence_ratio=0, token_delete_ratio=0.3)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .base import Columns, Draws
from .collator import ObjectiveCollator
from .ragged import Ragged, slices
from .registry import register
from .seq2seq import Seq2SeqObjective, first_of, put_text, seq2seq_columns, text_of
from .text_noise import document_rotation, sentence_permutation, text_infilling, token_deletion, token_masking
from .vocabulary import Vocabulary


@register("denoising")
@dataclass(frozen=True)
class Denoising(Seq2SeqObjective):
    """Corrupt a text by any of five noises, and predict the whole text as it was.

    The default is the paper's recipe: 30 % of the words infilled, all sentences permuted. Noises apply in the order of
    the arguments below. Special tokens around the text stay where they are; those inside it are never masked or
    deleted, and move with their sentence.

    Where paper and fairseq differ from this: fairseq lets spans overlap by accident, so that 30 % become about 27 %;
    here no two do, and the share is exact (⌈mask_ratio · words⌉ words). Spans of length zero are insertions, of which
    a row never gets so many that it outgrows its text (none at a `replace_length` of −1, where fairseq inserts, too).
    fairseq's code turns some masks into random tokens (`--mask-random 0.1`); the paper does not speak of it.

    Args:
        permute_sentence_ratio: share of a row's sentences that change places among themselves.
        mask_ratio: share of words (or tokens, see `unit`) in infilled spans.
        poisson_lambda: mean of the spans' lengths, which are Poisson distributed.
        replace_length: what a span becomes: 1 one mask, −1 a mask for each of its tokens, 0 nothing.
        random_replace_prob: share of the infilling's masks that are random tokens instead.
        unit: infilled spans are so many "word"s, as in fairseq, or "token"s.
        token_mask_ratio: share of tokens masked one by one.
        token_delete_ratio: share of tokens deleted without a trace.
        rotate_probability: share of rows that are rotated to begin at a random token.
        packing: how documents become examples, see `segments`.
    """

    summary: ClassVar[str] = "rebuild a text from infilled, permuted sentences (BART)"
    needs: ClassVar[tuple[str, ...]] = ("pad", "mask")
    row_columns: ClassVar[tuple[str, ...]] = ("word_starts", "sentence_starts")

    permute_sentence_ratio: float = 1.0
    mask_ratio: float = 0.3
    poisson_lambda: float = 3.0
    replace_length: Literal[-1, 0, 1] = 1
    random_replace_prob: float = 0.0
    unit: Literal["word", "token"] = "word"
    token_mask_ratio: float = 0.0
    token_delete_ratio: float = 0.0
    rotate_probability: float = 0.0
    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "doc_sentences"

    def __post_init__(self):
        ratios = ("permute_sentence_ratio", "mask_ratio", "random_replace_prob", "token_mask_ratio")
        for name in (*ratios, "token_delete_ratio", "rotate_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0 … 1, not {getattr(self, name)}")
        if not 0 < self.poisson_lambda <= 100:
            raise ValueError(f"poisson_lambda must lie between 0 and 100, not {self.poisson_lambda}")
        if self.replace_length not in (-1, 0, 1):
            raise ValueError(f"replace_length must be -1, 0 or 1, not {self.replace_length}")
        if self.unit not in ("word", "token"):
            raise ValueError(f"unit must be 'word' or 'token', not {self.unit!r}")

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Inputs are the corrupted rows, targets the rows as they were, special tokens included."""
        ids: Ragged = rows["input_ids"]
        key, mask_id = draws.key, first_of(vocabulary, ("mask",))
        begin, length = text_of(ids, vocabulary)
        index = slices(begin, length)
        text = Ragged(ids.values[index].astype(np.int64, copy=False), length)
        words = np.ones(len(index), bool)
        if self.unit == "word" and self.mask_ratio > 0:
            words = _flags(rows, "word_starts")[index]
        if self.permute_sentence_ratio > 0:
            sentences = _flags(rows, "sentence_starts")[index]
            sentences[text.offsets[:-1][length > 0]] = True
            order = sentence_permutation(text, sentences, key, self.permute_sentence_ratio)
            text, words = text.with_values(text.values[order]), (words | sentences)[order]
        if self.mask_ratio > 0:
            maskable = vocabulary.maskable[text.values]
            text = text_infilling(
                text,
                words,
                maskable,
                key,
                mask_ratio=self.mask_ratio,
                poisson_lambda=self.poisson_lambda,
                mask_id=mask_id,
                replace_length=self.replace_length,
                random_replace_prob=self.random_replace_prob,
                pool=vocabulary.random_pool,
            )
        if self.token_mask_ratio > 0:
            maskable = vocabulary.maskable[text.values]
            text = token_masking(text, maskable, key, self.token_mask_ratio, mask_id)
        if self.token_delete_ratio > 0:
            text = token_deletion(text, vocabulary.maskable[text.values], key, self.token_delete_ratio)
        if self.rotate_probability > 0:
            text = text.with_values(text.values[document_rotation(text, key, self.rotate_probability)])
        targets = ids.with_values(ids.values.astype(np.int64, copy=False))
        return seq2seq_columns(rows, put_text(ids, begin, length, text), targets, self.start_id(vocabulary))


def _flags(rows: Columns, name: str) -> np.ndarray:
    if name not in rows:
        raise ValueError(f"rows need a column {name!r}, one value per token, 1 where a {name.split('_')[0]} begins")
    return rows[name].values.astype(bool, copy=False)


class DataCollatorForDenoising(ObjectiveCollator):
    """BART's denoising for a stock `BartForConditionalGeneration`, see `Denoising`.

    the cat sat. it purred.  →  it <mask>. the <mask> sat.      labels: the cat sat. it purred.

    Features may hold `word_starts` (or `word_ids`) and `sentence_starts`, with 1 at the tokens that begin one; without,
    the pieces themselves tell: words by their marks, sentences by a full stop, question or exclamation mark before.

    Args:
        tokenizer: with mask, pad and end tokens.
        settings: of `Denoising` and of `ObjectiveCollator`.

    >>> collator = DataCollatorForDenoising(tokenizer, mask_ratio=0.35, poisson_lambda=3.5)       # doctest: +SKIP
    """

    def __init__(self, tokenizer: Any, **settings: Any):
        super().__init__("denoising", tokenizer, **settings)


class DataCollatorForBartDenoisingLM(DataCollatorForDenoising):
    """`DataCollatorForDenoising` under the name and arguments of the Flax example.

    Args:
        tokenizer, decoder_start_token_id, mask_ratio, poisson_lambda, permute_sentence_ratio: as there.
        settings: others of `Denoising` and of `ObjectiveCollator`.
    """

    def __init__(
        self,
        tokenizer: Any,
        decoder_start_token_id: int | None = None,
        mask_ratio: float = 0.3,
        poisson_lambda: float = 3.0,
        permute_sentence_ratio: float = 1.0,
        **settings: Any,
    ):
        settings |= {"decoder_start_token_id": decoder_start_token_id, "mask_ratio": mask_ratio}
        settings |= {"poisson_lambda": poisson_lambda, "permute_sentence_ratio": permute_sentence_ratio}
        super().__init__(tokenizer, **settings)
