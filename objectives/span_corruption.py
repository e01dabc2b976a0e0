"""Span corruption (T5).

    the cat sat on the mat  →  the <X> on the <Y>      predict: <X> cat sat <Y> mat </s>

Raffel et al. 2019, "Exploring the limits of transfer learning with a unified text-to-text transformer", arXiv
1910.10683, section 3.1.4, and the released preprocessors (`random_spans_noise_mask`, `noise_span_to_unique_sentinel`,
`nonnoise_span_to_unique_sentinel`, `random_spans_helper`).

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("span_corruption", noise_density=0.15, mean_noise_span_length=3.0)       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from . import keyed, noise
from .base import Columns, Draws
from .collator import ObjectiveCollator
from .documents import DOCUMENT_END
from .ragged import Ragged, constant, join, slices
from .registry import register
from .segments import SlicePlan, pack
from .seq2seq import Seq2SeqObjective, first_of, seq2seq_columns, take_text
from .vocabulary import Vocabulary

CLEAN, NOISY = range(300, 302)
"""Streams of randomness: lengths of clean and of noise spans."""


@register("span_corruption")
@dataclass(frozen=True)
class SpanCorruption(Seq2SeqObjective):
    """Replace spans by sentinels in the input, and predict each sentinel followed by what it replaces.

    Rows of a plan are longer than the model's input, by as much as corruption shortens them, so that inputs fill their
    length exactly (568 tokens give 512 of input and 114 of target). As released, a row begins with a clean span and
    ends with a noise span, and no sentinel closes the target (the paper's figure shows one). Rows of one token have no
    noise and ask for the end token alone. A sentinel that stands in the text itself is left out.

    Args:
        noise_density: share of tokens that are noise.
        mean_noise_span_length: mean number of tokens in a noise span.
        sentinel: text of the k-th sentinel token.
        packing: how documents become examples: "blocks" cuts the stream of all tokens, without anything between
            documents, as released; the others are described in `segments`.
    """

    summary: ClassVar[str] = "predict spans behind their sentinels (T5)"
    start_tokens: ClassVar[tuple[str, ...]] = ("pad",)

    noise_density: float = 0.15
    mean_noise_span_length: float = 3.0
    sentinel: str = "<extra_id_{}>"
    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "blocks"

    def __post_init__(self):
        if not 0 < self.noise_density < 1:
            raise ValueError(f"noise_density must lie between 0 and 1, not {self.noise_density}")
        if self.mean_noise_span_length < 1:
            raise ValueError(f"mean_noise_span_length must be at least 1, not {self.mean_noise_span_length}")
        if self.sentinel.format(0) == self.sentinel.format(1):
            raise ValueError(f"sentinel must have a place for the number, as '<extra_id_{{}}>', not {self.sentinel!r}")

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Refuse also tokenizers without sentinels or end token."""
        super().check(vocabulary, config)
        first_of(vocabulary, ("eos", "sep"))
        self.require_sentinels(vocabulary, 1)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """T5's hundred sentinels."""
        return tuple(self.sentinel.format(i) for i in range(100))

    def sentinels(self, vocabulary: Vocabulary) -> np.ndarray:
        """Ids of the sentinels, in order, as many as the tokenizer has."""
        ids: list[int] = []
        while (token := vocabulary.special.get(self.sentinel.format(len(ids)))) is not None:
            ids.append(token)
        return np.array(ids, np.int64)

    def require_sentinels(self, vocabulary: Vocabulary, count: int) -> None:
        """Raise `ValueError` unless the tokenizer has that many sentinels."""
        known = len(self.sentinels(vocabulary))
        if known < count:
            raise ValueError(
                f"rows of this length have {count} noise span(s), and the tokenizer has {known} sentinels "
                f"({self.sentinel.format(0)} …) among its special tokens; add them with tokenizer.add_tokens("
                f"[{self.sentinel!r}.format(i) for i in range({max(count, 100)})], special_tokens=True) "
                "and resize the model's embeddings"
            )

    def raw_length(self, length: int, vocabulary: Vocabulary) -> int:
        """Tokens of a row before corruption, for inputs of `length` tokens."""
        return raw_length(length - len(vocabulary.prefix), self.noise_density, self.mean_noise_span_length)[0]

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Examples as long as corruption makes them fill `length`."""
        raw = self.raw_length(length, vocabulary)
        _, spans = self.noise_counts(np.array([raw]), None)
        self.require_sentinels(vocabulary, int(spans.max()))
        if self.packing == "blocks":
            return token_blocks(documents, vocabulary, raw)
        return pack(documents, vocabulary, length=raw, packing=self.packing, special=False)

    def noise_counts(self, lengths: np.ndarray, draws: Draws | None) -> tuple[np.ndarray, np.ndarray]:
        """(noise tokens, noise spans) of rows of these lengths, int64 `[B]` each."""
        return noise_counts(lengths, self.noise_density, self.mean_noise_span_length)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Inputs with a sentinel for each noise span, targets with one for each clean span; both end with the end."""
        sentinels = self.sentinels(vocabulary)
        text = take_text(rows["input_ids"], vocabulary)
        if text.values.size and (inside := np.isin(text.values, sentinels, kind="table")).any():
            text = text.keep(~inside)
        count, spans = self.noise_counts(text.lengths, draws)
        if spans.max(initial=0) > len(sentinels):
            self.require_sentinels(vocabulary, int(spans.max()))
        mask = random_spans_noise_mask(draws.key, text.lengths, count, spans)
        end = constant(first_of(vocabulary, ("eos", "sep")), len(text))
        inputs = join([*self.ahead(draws, vocabulary), noise_span_to_unique_sentinel(text, mask, sentinels), end])
        targets = join([noise_span_to_unique_sentinel(text, ~mask, sentinels), end])
        empty = np.flatnonzero(count == 0)
        if len(empty):
            first = targets.offsets[:-1][empty[text.lengths[empty] > 0]]
            keep = np.ones(len(targets.values), bool)
            keep[first] = False  # a sentinel that nothing follows
            targets = targets.keep(keep)
        return seq2seq_columns(rows, inputs, targets, self.start_id(vocabulary))

    def ahead(self, draws: Draws, vocabulary: Vocabulary) -> list[Ragged]:
        """What stands before each input: the special tokens that the tokenizer puts before a text."""
        return [constant(vocabulary.prefix, len(draws))] if vocabulary.prefix else []


def raw_length(length: int, noise_density: float, mean_noise_span_length: float) -> tuple[int, int]:
    """(tokens of a row before corruption, tokens of its target) for inputs of `length` tokens, end tokens included.

    The largest row that fits; at a density of one half, one token less where the target would outgrow the input.
    Raises `ValueError` for a length without room.

    >>> raw_length(512, 0.15, 3.0)
    (568, 114)
    """

    def lengths(tokens: int) -> tuple[int, int]:
        count, spans = noise_counts(np.array([tokens]), noise_density, mean_noise_span_length)
        return tokens - int(count[0]) + int(spans[0]) + 1, int(count[0] + spans[0]) + 1

    if length < 3:
        raise ValueError(f"length {length} leaves no room for text, sentinel and end token; use a larger length")
    tokens = length - 1
    while lengths(tokens + 1)[0] <= length:
        tokens += 1
    target = lengths(tokens)[1]
    if noise_density == 0.5 and target > lengths(tokens)[0]:
        return tokens - 1, target - 1
    return tokens, target


def noise_counts(lengths: np.ndarray, density: Any, mean: Any) -> tuple[np.ndarray, np.ndarray]:
    """(noise tokens, noise spans) of rows, int64 `[B]` each, rounded half to even; rows below two tokens have none.

    Args:
        lengths: int64 `[B]`.
        density, mean: share of noise tokens and mean span length; a number, or one per row.
    """
    count = np.clip(np.rint(lengths * density).astype(np.int64), 1, np.maximum(lengths - 1, 1))
    count[lengths < 2] = 0
    spans = np.maximum(np.rint(count / mean).astype(np.int64), 1)
    return count, np.minimum(spans, np.maximum(np.minimum(count, lengths - count), 1))


def random_spans_noise_mask(key: np.ndarray, lengths: np.ndarray, count: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """bool `[T]`, true on noise: spans alternate, clean first, noise last, every division equally likely.

    Args:
        key: uint64 `[B]`, of the rows.
        lengths, count, spans: int64 `[B]`, tokens, noise tokens and noise spans of each row.
    """
    clean = random_segmentation(key, lengths - count, spans, CLEAN)
    noisy = random_segmentation(key, count, spans, NOISY)
    sizes = np.stack([clean.values, noisy.values], 1).reshape(-1)
    return np.repeat(np.tile([False, True], len(clean.values)), sizes)


def random_segmentation(key: np.ndarray, total: np.ndarray, parts: np.ndarray, stream: int) -> Ragged:
    """Each row's `total` divided into so many positive `parts`, every division equally likely; int64 lengths.

    A `total` of 0 in one part is one of length 0.
    """
    inner = np.maximum(total - 1, 0)  # places where a part may end before the row does
    offsets = np.append(0, np.cumsum(inner))
    chosen = noise.smallest(keyed.row_bits(key, inner, stream), offsets, parts - 1)
    ends = np.empty(int(parts.sum()), np.int64)
    last = np.cumsum(parts) - 1
    before = np.ones(len(ends), bool)
    before[last] = False
    ends[last] = total
    ends[before] = chosen - np.repeat(offsets[:-1], parts - 1) + 1
    lengths = np.diff(ends, prepend=0)
    first = (last + 1 - parts)[parts > 0]
    lengths[first] = ends[first]
    return Ragged(lengths, parts)


def noise_span_to_unique_sentinel(rows: Ragged, mask: np.ndarray, sentinels: np.ndarray) -> Ragged:
    """Each run of masked tokens in a row becomes one sentinel, the first run the first sentinel.

    Args:
        mask: bool `[T]`.
        sentinels: int64 ids, at least as many as a row has runs.

    >>> rows, mask = Ragged.from_rows([[1, 2, 3, 4]]), np.array([False, True, True, False])
    >>> noise_span_to_unique_sentinel(rows, mask, np.array([99, 98])).tolist()
    [[1, 99, 4]]
    """
    begins = mask.copy()
    begins[1:] &= ~mask[:-1]
    starts = rows.offsets[:-1][rows.lengths > 0]
    begins[starts] = mask[starts]
    first = np.flatnonzero(begins)
    counts = noise.row_counts(first, rows.offsets)
    number = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = rows.values.astype(np.int64)
    values[first] = sentinels[number]
    keep = ~mask
    keep[first] = True
    return rows.with_values(values).keep(keep)


def token_blocks(documents, vocabulary: Vocabulary, length: int) -> SlicePlan:
    """Blocks of `length` tokens of all documents end to end, their closing slots left out."""
    if not len(documents):
        raise ValueError("the corpus has no documents; check its path and filters")
    number = np.arange(len(documents))
    first = documents.offsets[:-1] - number  # of each document, counting tokens alone
    starts = np.arange(0, documents.num_tokens, length)
    ends = np.minimum(starts + length, documents.num_tokens)
    slots, stops = (t + np.searchsorted(first, t, "right") - 1 for t in (starts, ends - 1))
    return TokenBlocks(documents, slots, stops + 1 - slots, vocabulary, special=False)


class TokenBlocks(SlicePlan):
    """Slices of the stream without the closing slots in them."""

    def rows(self, index: np.ndarray) -> Columns:
        """The examples as columns."""
        lengths = self.lengths[index]
        tokens = Ragged(self.documents.tokens[slices(self.starts[index], lengths)].astype(np.int64), lengths)
        return {"input_ids": tokens.keep(tokens.values != DOCUMENT_END)}


class DataCollatorForT5MLM(ObjectiveCollator):
    """Span corruption for a stock `T5ForConditionalGeneration`, under the name and arguments of the Flax example.

    the cat sat on the mat  →  the <X> on the <Y>      labels: <X> cat sat <Y> mat </s>

    Unlike there, rows may have any length, and sentinels are found by their text.

    Args:
        tokenizer: with sentinels among its special tokens.
        noise_density, mean_noise_span_length: see `SpanCorruption`.
        input_length, target_length: lengths that every row must come to; a `ValueError` names the first that does not.
        settings: others of `SpanCorruption` and of `ObjectiveCollator`.

    >>> collator = DataCollatorForT5MLM(tokenizer)       # doctest: +SKIP
    """

    def __init__(
        self,
        tokenizer: Any,
        noise_density: float = 0.15,
        mean_noise_span_length: float = 3.0,
        input_length: int | None = None,
        target_length: int | None = None,
        **settings: Any,
    ):
        settings |= {"noise_density": noise_density, "mean_noise_span_length": mean_noise_span_length}
        super().__init__("span_corruption", tokenizer, **settings)
        self.expected = {"input_ids": input_length, "labels": target_length}

    def __call__(self, features: list[Mapping], return_tensors: str | None = None) -> Any:
        """The batch; raises `ValueError` for unusable features."""
        batch = super().__call__(features, return_tensors)
        for name, length in self.expected.items():
            if length is not None and name in batch and batch[name].shape[1] != length:
                raise ValueError(
                    f"{name} have {batch[name].shape[1]} tokens where {length} are expected; make rows of as many "
                    f"tokens as span_corruption.raw_length(input_length, …) says"
                )
        return batch
