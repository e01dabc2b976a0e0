"""Masked sequence to sequence (MASS).

    the cat sat on the mat  →  the <mask> <mask> <mask> the mat      predict: cat sat on, reading: the cat sat

Song et al. 2019, "MASS: Masked sequence to sequence pre-training for language generation", arXiv 1905.02450, section
3, and the released code for machine translation (`restricted_mask_sent`).

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("mass", mass_ratio=0.5)       # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from . import keyed, noise
from .base import Column, Columns, Draws
from .collator import ObjectiveCollator
from .ragged import Ragged, slices
from .registry import register
from .segments import pack
from .seq2seq import SEQ2SEQ_COLUMNS, Seq2SeqObjective, first_of, text_of
from .vocabulary import Vocabulary

WHERE, START = range(330, 332)
"""Streams of randomness."""

SHORTEST = 5
"""Rows of fewer tokens are left out of a plan."""


@register("mass")
@dataclass(frozen=True)
class MASS(Seq2SeqObjective):
    """Mask one fragment of the text in the encoder, and let the decoder predict it from the fragment itself.

    The decoder reads the token before the fragment and the fragment without its last token, and predicts the fragment,
    at the positions that the tokens have in the text. Stock decoders count positions from their first input, so what
    lies before is padding that nothing attends to; what lies behind is left out. Models with relative positions (T5)
    see no difference without that padding, and are faster so: `original_positions=False`.

    A row's first token is never in the fragment, and special tokens around the text are not. Where the released codes
    and this differ: the one for translation hides the masked positions from cross-attention, which stock models cannot
    do; the one for summarisation masks a fragment in each block of 64 tokens, 15 % unless told otherwise, where the
    paper argues for one of 50 %.

    Args:
        mass_ratio: length of the fragment as a share of the text.
        mask_replace_prob, random_replace_prob: shares of the fragment's tokens that become the mask or a random token
            in the encoder's input; the rest stays.
        edge_prob: probability that the fragment lies at the beginning, and the same for the end; otherwise it lies
            anywhere.
        original_positions: pad the decoder's input so that its tokens have the positions of the text.
        packing: how documents become examples, see `segments`.
    """

    summary: ClassVar[str] = "predict a masked fragment in the decoder (MASS)"
    needs: ClassVar[tuple[str, ...]] = ("pad", "mask")
    start_tokens: ClassVar[tuple[str, ...]] = ("bos", "cls", "eos", "sep")

    mass_ratio: float = 0.5
    mask_replace_prob: float = 0.8
    random_replace_prob: float = 0.1
    edge_prob: float = 0.2
    original_positions: bool = True
    packing: Literal["full_sentences", "doc_sentences", "blocks", "documents"] = "doc_sentences"

    def __post_init__(self):
        if not 0 < self.mass_ratio <= 1:
            raise ValueError(f"mass_ratio must lie in 0 … 1 and not be 0, not {self.mass_ratio}")
        if min(self.mask_replace_prob, self.random_replace_prob) < 0:
            raise ValueError("mask_replace_prob and random_replace_prob must not be negative")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise ValueError("mask_replace_prob and random_replace_prob must not exceed 1 together")
        if not 0 <= self.edge_prob <= 0.5:
            raise ValueError(f"edge_prob must lie in 0 … 0.5, not {self.edge_prob}")

    @property
    def columns(self) -> dict[str, Column]:
        """Also which of the decoder's inputs are padding."""
        return {**SEQ2SEQ_COLUMNS, "decoder_attention_mask": Column(axis="target")}

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Examples of at least five tokens, as in the released code."""
        plan = pack(documents, vocabulary, length=length, packing=self.packing)
        long = plan.lengths >= SHORTEST
        return replace(plan, starts=plan.starts[long], lengths=plan.lengths[long])

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """The fragment is masked in the input; the decoder reads it one token late and predicts it."""
        ids: Ragged = rows["input_ids"]
        begin, size = fragments(ids, *text_of(ids, vocabulary), draws.key, self.mass_ratio, self.edge_prob)
        fragment = slices(begin, size)
        positions = Ragged(fragment - np.repeat(ids.offsets[:-1], size), size)
        values = ids.values.astype(np.int64, copy=False)
        masked = noise.replace(
            values,
            fragment,
            draws.key,
            positions,
            mask_id=first_of(vocabulary, ("mask",)),
            pool=vocabulary.random_pool,
            mask_prob=self.mask_replace_prob,
            random_prob=self.random_replace_prob,
        )
        first = ids.offsets[:-1] if self.original_positions else begin - 1
        reach = np.where(size > 0, begin - 1 + size - first, 0)  # of the decoder's input
        index = slices(first, reach)
        real = index >= np.repeat(begin - 1, reach)
        read = values[index]
        read[~real] = vocabulary.pad_id
        rest = {name: c for name, c in rows.items() if not isinstance(c, Ragged)}
        return {
            **rest,
            "input_ids": ids.with_values(masked),
            "decoder_input_ids": Ragged(read, reach),
            "decoder_attention_mask": Ragged(real.astype(np.int64), reach),
            "label_positions": Ragged(fragment - 1 - np.repeat(first, size), size),
            "label_ids": Ragged(values[fragment], size),
        }


def fragments(
    ids: Ragged, begin: np.ndarray, length: np.ndarray, key: np.ndarray, ratio: float, edge_prob: float
) -> tuple[np.ndarray, np.ndarray]:
    """(flat index of the first, number of) tokens of each row's fragment.

    Args:
        begin, length: each row's text as `text_of` gives it; its first token counts as text but stays out of the
            fragment where the row begins with it.
        ratio, edge_prob: see `MASS`.
    """
    head = (begin == ids.offsets[:-1]) & (length > 0)
    room = length - head
    size = np.clip(np.rint(length * ratio).astype(np.int64), np.minimum(1, room), room)
    zero = np.zeros(len(ids), np.int64)
    u = keyed.uniform_at(key, zero, WHERE)
    start = keyed.integers_at(key, zero, START, room - size + 1)
    start[u < 2 * edge_prob] = (room - size)[u < 2 * edge_prob]
    start[u < edge_prob] = 0
    return begin + head + start, size


class DataCollatorForMASS(ObjectiveCollator):
    """MASS for a stock `BartForConditionalGeneration`: `DataCollatorForMASS(tokenizer, mass_ratio=0.5)`, see `MASS`.

    Hands over `decoder_input_ids` and `decoder_attention_mask` beside `input_ids`, `attention_mask` and `labels`.
    """

    def __init__(self, tokenizer: Any, **settings: Any):
        super().__init__("mass", tokenizer, **settings)
