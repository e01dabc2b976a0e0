"""Span corruption (T5).

    the cat sat on the mat  →  the <X> on the <Y>      predict: <X> cat sat <Y> mat </s>

Raffel et al. 2019, "Exploring the limits of transfer learning with a unified text-to-text transformer", arXiv
1910.10683, section 3.1.4, and the released preprocessors (`random_spans_noise_mask`, `noise_span_to_unique_sentinel`,
`nonnoise_span_to_unique_sentinel`, `random_spans_helper`).

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("span_corruption", noise_density=0.15, mean_noise_span_length=3.0)       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .base import Columns, Draws
from .collator import ObjectiveCollator
from .documents import DOCUMENT_END
from .ragged import Ragged, constant, join, slices
from .registry import register
from .segments import SlicePlan, pack
from .sentinels import noise_counts, noise_span_to_unique_sentinel, random_spans_noise_mask, raw_length
from .seq2seq import Seq2SeqObjective, first_of, seq2seq_columns, take_text
from .vocabulary import Vocabulary


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
        if not self.mean_noise_span_length >= 1:
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
        _, spans = noise_counts(np.array([raw]), self.noise_density, self.mean_noise_span_length)
        self.require_sentinels(vocabulary, int(spans.max()))
        if self.packing == "blocks":
            return token_blocks(documents, vocabulary, raw)
        return pack(documents, vocabulary, length=raw, packing=self.packing, special=False)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Inputs with a sentinel for each noise span, targets with one for each clean span; both end with the end."""
        sentinels = self.sentinels(vocabulary)
        text = take_text(rows["input_ids"], vocabulary)
        if text.values.size and (inside := np.isin(text.values, sentinels, kind="table")).any():
            text = text.keep(~inside)
        count, spans = noise_counts(text.lengths, *self.noise(rows, draws))
        if spans.max(initial=0) > len(sentinels):
            self.require_sentinels(vocabulary, int(spans.max()))
        mask = random_spans_noise_mask(draws.key, text.lengths, count, spans)
        end = constant(first_of(vocabulary, ("eos", "sep")), len(text))
        inputs = join([*self.ahead(rows, draws, vocabulary), noise_span_to_unique_sentinel(text, mask, sentinels), end])
        targets = join([noise_span_to_unique_sentinel(text, ~mask, sentinels), end])
        empty = np.flatnonzero(count == 0)
        if len(empty):
            first = targets.offsets[:-1][empty[text.lengths[empty] > 0]]
            keep = np.ones(len(targets.values), bool)
            keep[first] = False  # a sentinel that nothing follows
            targets = targets.keep(keep)
        return seq2seq_columns(rows, inputs, targets, self.start_id(vocabulary))

    def noise(self, rows: Columns, draws: Draws) -> tuple[Any, Any]:
        """(noise density, mean length of noise spans), for all rows or one of each for every row."""
        return self.noise_density, self.mean_noise_span_length

    def ahead(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> list[Ragged]:
        """What stands before each input: the special tokens that the tokenizer puts before a text."""
        return [constant(vocabulary.prefix, len(draws))] if vocabulary.prefix else []


def token_blocks(documents, vocabulary: Vocabulary, length: int | np.ndarray) -> SlicePlan:
    """Blocks of all documents end to end, their closing slots left out.

    Args:
        length: tokens of each block, or of one block after another, as many as the documents fill; the last may be
            shorter.
    """
    if not documents.num_tokens:
        raise ValueError("the corpus has no documents with text; check its path and filters")
    number = np.arange(len(documents))
    first = documents.offsets[:-1] - number  # of each document, counting tokens alone
    if np.ndim(length) == 0:
        length = np.full(-(-documents.num_tokens // int(length)), length)
    ends = np.cumsum(length)
    ends = np.minimum(ends[: np.searchsorted(ends, documents.num_tokens) + 1], documents.num_tokens)
    starts = np.append(0, ends[:-1])
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
        pad_token_id: the tokenizer's, which need not be given.
        decoder_start_token_id: what the decoder reads first; by default the padding token, as T5's does.
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
        pad_token_id: int | None = None,
        decoder_start_token_id: int | None = None,
        **settings: Any,
    ):
        if pad_token_id not in (None, tokenizer.pad_token_id):
            raise ValueError(f"pad_token_id is {pad_token_id}, and the tokenizer's is {tokenizer.pad_token_id}")
        settings |= {"noise_density": noise_density, "mean_noise_span_length": mean_noise_span_length}
        settings["decoder_start_token_id"] = decoder_start_token_id
        super().__init__("span_corruption", tokenizer, **settings)
        self.expected = {"input_ids": input_length, "labels": target_length}

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> Any:
        """The batch; raises `ValueError` for unusable features."""
        batch = super().__call__(features, return_tensors)
        real = {"input_ids": batch["attention_mask"]}
        if "labels" in batch:
            real["labels"] = batch["labels"] != -100
        for name, tokens in real.items():
            length, found = self.expected[name], tokens.sum(1)
            if length is not None and (found != length).any():
                raise ValueError(
                    f"{name} have {int(found[found != length][0])} tokens where {length} are expected; make rows of as "
                    f"many tokens as sentinels.raw_length(input_length, …) says"
                )
        return batch
