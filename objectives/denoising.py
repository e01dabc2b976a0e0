"""Denoising (BART).

    the cat sat. it purred.  →  it <mask>. the <mask> sat.      predict: the cat sat. it purred.

Lewis et al. 2019, "BART: Denoising sequence-to-sequence pre-training for natural language generation, translation, and
comprehension", arXiv 1910.13461, sections 2.2 and 3; fairseq's `denoising_dataset`. The five noises are plain functions
over ragged arrays of text (no special tokens around it), each of use by itself.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("denoising")                                                          # doctest: +SKIP
    >>> get_objective("denoising", mask_ratio=0, permute_sentence_ratio=0, token_delete_ratio=0.3)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np

from . import keyed, noise
from .base import Columns, Draws
from .collator import ObjectiveCollator
from .ragged import Ragged, row_sums, slices
from .registry import register
from .seq2seq import Seq2SeqObjective, first_of, put_text, seq2seq_columns, text_of
from .vocabulary import Vocabulary

MASK, DELETE, LENGTHS, PLACE, RANDOM, PERMUTED, SHUFFLE, ROTATED, OFFSET = range(310, 319)
"""Streams of randomness."""


@register("denoising")
@dataclass(frozen=True)
class Denoising(Seq2SeqObjective):
    """Corrupt a text by any of five noises, and predict the whole text as it was.

    The default is the paper's recipe: 30 % of the words infilled, all sentences permuted. Noises apply in the order of
    the arguments below; special tokens around the text and inside it stay where they are.

    Where paper and fairseq differ from this: fairseq lets spans overlap by accident, so that 30 % become about 27 %;
    here no two do, and the share is exact (⌈mask_ratio · words⌉ words). Spans of length zero are insertions, of which
    a row never gets so many that it outgrows its text. fairseq's code turns some masks into random tokens
    (`--mask-random 0.1`); the paper does not speak of it.

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
        if self.permute_sentence_ratio > 0:
            order = sentence_permutation(text, _flags(rows, "sentence_starts")[index], key, self.permute_sentence_ratio)
            text, index = text.with_values(text.values[order]), index[order]
        if self.mask_ratio > 0:
            maskable = vocabulary.maskable[text.values]
            words = _flags(rows, "word_starts")[index] if self.unit == "word" else np.ones(len(index), bool)
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


def token_masking(text: Ragged, maskable: np.ndarray, key: np.ndarray, ratio: float, mask_id: int) -> Ragged:
    """Each `maskable` token becomes the mask with this probability.

    the cat sat on the mat  →  the <mask> sat on <mask> mat
    """
    chosen = noise.bernoulli(keyed.combine(key, MASK), text, ratio)
    values = text.values.copy()
    values[chosen[maskable[chosen]]] = mask_id
    return text.with_values(values)


def token_deletion(text: Ragged, maskable: np.ndarray, key: np.ndarray, ratio: float) -> Ragged:
    """Each `maskable` token is deleted with this probability, and nothing marks its place.

    the cat sat on the mat  →  the sat on mat
    """
    chosen = noise.bernoulli(keyed.combine(key, DELETE), text, ratio)
    keep = np.ones(len(text.values), bool)
    keep[chosen] = ~maskable[chosen]
    return text.keep(keep)


def sentence_permutation(text: Ragged, sentence_starts: np.ndarray, key: np.ndarray, ratio: float = 1.0) -> np.ndarray:
    """Index `[T]` that lays each row's sentences in another order, ⌈ratio · sentences⌉ of them among themselves.

    the cat sat. it purred. rain fell.  →  rain fell. the cat sat. it purred.

    Args:
        sentence_starts: bool `[T]`; the first token of a row begins a sentence in any case.
    """
    first, size = noise.units_from_starts(sentence_starts, text)
    per_row = noise.row_counts(first, text.offsets)
    row = np.repeat(np.arange(len(text), dtype=np.uint64), per_row)
    number = slices(np.zeros(len(text), np.int64), per_row)
    chosen = np.arange(len(first))
    if ratio < 1:
        score = (keyed.bits_at(key[row], number, PERMUTED) >> np.uint64(32)).astype(np.uint32)
        budget = np.ceil(per_row * ratio - 1e-9).astype(np.int64)
        chosen = noise.smallest(score, np.append(0, np.cumsum(per_row)), budget)
    score = keyed.bits_at(key[row[chosen]], number[chosen], SHUFFLE) >> np.uint64(32)
    order = np.arange(len(first))
    order[chosen] = chosen[np.argsort((row[chosen] << np.uint64(32)) | score, kind="stable")]
    return slices(first[order], size[order])


def document_rotation(text: Ragged, key: np.ndarray, probability: float = 1.0) -> np.ndarray:
    """Index `[T]` that lets a row, with this probability, begin at any of its tokens but the first.

    the cat sat on the mat  →  on the mat the cat sat
    """
    zero = np.zeros(len(text), np.int64)
    chosen = (text.lengths > 1) & (keyed.uniform_at(key, zero, ROTATED) < probability)
    offset = np.where(chosen, 1 + keyed.integers_at(key, zero, OFFSET, np.maximum(text.lengths - 1, 1)), 0)
    size = np.repeat(text.lengths, text.lengths)
    position = text.positions + np.repeat(offset, text.lengths)
    return position - size * (position >= size) + np.repeat(text.offsets[:-1], text.lengths)


def text_infilling(
    text: Ragged,
    word_starts: np.ndarray,
    maskable: np.ndarray,
    key: np.ndarray,
    *,
    mask_ratio: float = 0.3,
    poisson_lambda: float = 3.0,
    mask_id: int,
    replace_length: int = 1,
    random_replace_prob: float = 0.0,
    pool: np.ndarray | None = None,
) -> Ragged:
    """Spans of words become one mask each, whatever their length; spans of no word insert a mask.

    the cat sat on the mat  →  the <mask> on <mask> the mat

    ⌈mask_ratio · words⌉ words of each row are in spans, no two of which overlap; every placement is equally likely.
    Tokens that are not maskable are no words: they stay, even inside a span.

    Args:
        word_starts, maskable: bool `[T]`.
        replace_length, random_replace_prob: see `Denoising`.
        pool: ids of random tokens.
    """
    starts = word_starts | ~maskable
    starts[1:] |= ~maskable[:-1]
    first, size = noise.units_from_starts(starts, text)
    usable = maskable[first]
    if not usable.all():
        first, size = first[usable], size[usable]
    words = noise.row_counts(first, text.offsets)
    budget = np.ceil(words * mask_ratio - 1e-9).astype(np.int64)
    spans = poisson_spans(key, budget, poisson_lambda)
    begin, spans = place_spans(key, words, spans)
    key = np.repeat(key, spans.lengths)
    row = np.repeat(np.arange(len(text)), spans.lengths)
    word = begin.values + np.repeat(np.cumsum(words) - words, spans.lengths)  # in `first`; maybe one past the row's
    filled = spans.values > 0

    values, keep = text.values.copy(), np.ones(len(text.values), bool)
    covered = slices(word[filled], spans.values[filled])
    covered = slices(first[covered], size[covered])
    keep[covered] = replace_length < 0
    marks = first[word[filled]]
    number = begin.positions
    fill = _fill(key, number, mask_id, random_replace_prob, pool)
    if replace_length < 0:
        owner = np.searchsorted(marks, covered, "right") - 1
        place = covered - text.offsets[row[filled][owner]] + (1 << 32)
        values[covered] = _fill(key[filled][owner], place, mask_id, random_replace_prob, pool)
    elif replace_length > 0:
        values[marks] = fill[filled]
        keep[marks] = True
    inserted = np.flatnonzero(~filled)
    if replace_length == 0 or not len(inserted):
        return Ragged(values, text.lengths).keep(keep)
    at_end = begin.values[inserted] >= words[row[inserted]]
    place = np.where(at_end, text.offsets[1:][row[inserted]], first[np.minimum(word[inserted], len(first) - 1)])
    lengths = row_sums(keep, text.offsets) + noise.row_counts(inserted, begin.offsets)
    values = np.insert(values, place, fill[inserted])
    return Ragged(values[np.insert(keep, place, True)], lengths)


def _fill(key: np.ndarray, number: np.ndarray, mask_id: int, random_prob: float, pool: np.ndarray | None) -> np.ndarray:
    """Masks, with this probability random tokens; `number` tells a row's apart."""
    fill = np.full(len(key), mask_id, np.int64)
    if random_prob > 0 and pool is not None:
        random = keyed.uniform_at(key, number, RANDOM) < random_prob
        fill[random] = pool[keyed.integers_at(key[random], number[random], noise.DRAW, len(pool))]
    return fill


def poisson_spans(key: np.ndarray, budget: np.ndarray, poisson_lambda: float) -> Ragged:
    """Lengths of each row's spans: Poisson draws until they sum to its `budget`, the last one cut to it.

    Draws of zero are kept as far as the input then does not outgrow its text: as many as the spans save words.
    """
    table = _poisson(poisson_lambda)
    draws = int(budget.max(initial=0) / poisson_lambda * 1.25) + 16
    while True:
        bits = keyed.row_bits(key, np.full(len(budget), draws), LENGTHS).reshape(len(budget), draws)
        drawn = np.searchsorted(table, bits, "right")
        total = drawn.cumsum(1)
        if (total[:, -1] >= budget).all():
            break
        draws *= 2
    short = total < budget[:, None]
    used = short.copy()
    used[:, 0] |= budget > 0
    used[:, 1:] |= short[:, :-1]
    rows = np.flatnonzero(budget)
    last = used[rows].sum(1) - 1
    drawn[rows, last] -= total[rows, last] - budget[rows]
    zero = used & (drawn == 0)
    if zero.any():
        saved = budget - (used & ~zero).sum(1)
        used &= ~zero | (zero.cumsum(1) <= saved[:, None])
    return Ragged(drawn[used], used.sum(1))


@lru_cache
def _poisson(mean: float) -> np.ndarray:
    """uint32: draws of 32 bits below `table[n]` are lengths up to `n`."""
    number = np.arange(1, int(mean + 12 * mean**0.5 + 40))
    density = np.exp(-mean + np.concatenate([[0.0], np.cumsum(np.log(mean / number))]))
    return np.minimum(np.round(np.cumsum(density) * 2.0**32), 2.0**32 - 1).astype(np.uint32)


def place_spans(key: np.ndarray, units: np.ndarray, spans: Ragged) -> tuple[Ragged, Ragged]:
    """(unit of the row at which each span begins, in order; the spans' lengths in that order).

    A row of n units with spans of k units in all is a row of n − k units and one item per span, whichever places the
    spans take; so places are drawn without replacement, and every placement without overlap is equally likely.

    Args:
        units: int64 `[B]`, units of each row, at least as many as its spans cover.
        spans: lengths of the spans, some of which may be zero.
    """
    items = units - row_sums(spans.values, spans.offsets) + spans.lengths
    offsets = np.append(0, np.cumsum(items))
    chosen = noise.by_score(keyed.row_bits(key, items, PLACE), offsets, spans.lengths)
    order = np.argsort(chosen)  # keeps to the rows
    spans = spans.with_values(spans.values[order])
    before = np.append(0, np.cumsum(spans.values))
    before = before[:-1] - np.repeat(before[spans.offsets[:-1]], spans.lengths)
    begin = chosen[order] - np.repeat(offsets[:-1], spans.lengths) - spans.positions + before
    return spans.with_values(begin), spans


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
