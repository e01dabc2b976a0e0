"""Prefix language modelling with an encoder-decoder.

    the cat sat on the mat  →  the cat sat </s>      predict: on the mat </s>

Raffel et al. 2019, "Exploring the limits of transfer learning with a unified text-to-text transformer", arXiv
1910.10683, sections 3.2.1 and 3.3.1, and the released preprocessors (`random_prefix_noise_mask`): the encoder reads the
beginning of a text, the decoder goes on with it. `prefix_lm` is the same with one decoder.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("seq2seq_prefix_lm", packing="documents")       # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .base import Columns, Draws
from .collator import ObjectiveCollator
from .prefix_lm import split
from .ragged import Ragged, constant, join, slices
from .registry import register
from .segments import check_packing, pack
from .seq2seq import Seq2SeqObjective, first_of, seq2seq_columns, take_text
from .span_corruption import token_blocks
from .vocabulary import Vocabulary


@register("seq2seq_prefix_lm")
@dataclass(frozen=True)
class Seq2SeqPrefixLM(Seq2SeqObjective):
    """Cut a text in two; the encoder reads the first part, the decoder predicts the second and the end token.

    The first part has k tokens, k uniform on 1 … n − 1 for a text of n; of a text of one token, that token is the first
    part, and the end token alone is asked for.

    Args:
        packing: how documents become examples: "blocks" cuts the stream of all tokens, without anything between
            documents, as released; the others are described in `segments`.
    """

    summary: ClassVar[str] = "predict the rest of a text in the decoder (prefix LM of T5)"
    start_tokens: ClassVar[tuple[str, ...]] = ("pad",)

    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "blocks"

    def __post_init__(self):
        check_packing(self.packing)

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Refuse also tokenizers without an end token."""
        super().check(vocabulary, config)
        first_of(vocabulary, ("eos", "sep"))

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Texts with which neither inputs nor targets outgrow `length`, wherever they are cut."""
        room = length - len(vocabulary.prefix)
        if room < 2:
            raise ValueError(f"length {length} leaves no room for text and end token; use a larger length")
        if self.packing == "blocks":
            return token_blocks(documents, vocabulary, room)
        return pack(documents, vocabulary, length=room, packing=self.packing, special=False)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Both parts, an end token behind each; before the first what the tokenizer puts before a text."""
        text = take_text(rows["input_ids"], vocabulary)
        values, begin = text.values.astype(np.int64, copy=False), text.offsets[:-1]
        first = np.minimum(split(draws.key, text.lengths), text.lengths)
        rest = text.lengths - first
        end = constant(first_of(vocabulary, ("eos", "sep")), len(text))
        ahead = [constant(vocabulary.prefix, len(text))] if vocabulary.prefix else []
        inputs = join([*ahead, Ragged(values[slices(begin, first)], first), end])
        targets = join([Ragged(values[slices(begin + first, rest)], rest), end])
        return seq2seq_columns(rows, inputs, targets, self.start_id(vocabulary))


class DataCollatorForSeq2SeqPrefixLM(ObjectiveCollator):
    """Prefix LM for a stock `T5ForConditionalGeneration`: `DataCollatorForSeq2SeqPrefixLM(tokenizer)`."""

    def __init__(self, tokenizer: Any, **settings: Any):
        super().__init__("seq2seq_prefix_lm", tokenizer, **settings)
