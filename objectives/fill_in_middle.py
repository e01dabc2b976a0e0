"""Fill in the middle.

    the cat sat on the mat  →  <prefix> the cat <suffix> the mat <middle> sat on </s>      predict each next token

Bavarian et al. 2022, "Efficient training of language models to fill in the middle", arXiv 2207.14255, sections 2 and 3.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("fim", fim_rate=0.9)       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from . import keyed
from .base import Columns, Draws
from .causal import CausalLM
from .character_cuts import SPARE, cut_between_characters
from .collator import ObjectiveCollator
from .documents import DOCUMENT_END
from .ragged import Ragged, join, row_sums, slices
from .registry import register
from .segments import pack
from .seq2seq import text_of, without_padding
from .vocabulary import Vocabulary

RATE, ORDER, CUT = range(360, 363)
"""Streams of randomness."""


@register("fim")
@dataclass(frozen=True)
class FillInMiddle(CausalLM):
    """Causal LM on texts cut in three, the middle moved to the end behind what surrounds it.

    Prefix, suffix, middle:   <prefix> P <suffix> S <middle> M </s>
    Suffix, prefix, middle:   <prefix> <suffix> S <middle> P M </s>      (the paper's second variant)

    Both cuts are uniform over all places, the ends included, so that any part may be empty. The paper cuts between
    characters, so that models also learn to go on in the middle of a token; `fim_unit="character"` does so for
    byte-level vocabularies. The token that a cut goes through is then spelled anew in two parts (see `character_cuts`);
    the paper tokenizes all three parts again. Rows are cut after packing (the paper's "context level"), hold one
    document each, and are shorter than the model's input by the tokens that this adds, four or up to ten, so that
    nothing is truncated. The middle ends with the end token; a row that is not rearranged does where its document ends.
    Alone, what the tokenizer puts before a text (LLaMA's `<s>`) stays before it all, as in the prompts it makes.

    Args:
        fim_rate: share of rows that are rearranged.
        fim_spm_rate: share of these in the second order.
        fim_unit: cuts fall between "token"s or "character"s.
        fim_prefix, fim_suffix, fim_middle: texts of the three special tokens.
        packing: "documents" or "doc_sentences", see `segments`.
    """

    summary: ClassVar[str] = "predict the middle of a text after both ends (FIM)"

    packing: Literal["doc_sentences", "documents"] = "documents"
    fim_rate: float = 0.5
    fim_spm_rate: float = 0.5
    fim_unit: Literal["token", "character"] = "token"
    fim_prefix: str = "<fim_prefix>"
    fim_suffix: str = "<fim_suffix>"
    fim_middle: str = "<fim_middle>"

    def __post_init__(self):
        for name in ("fim_rate", "fim_spm_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0 … 1, not {getattr(self, name)}")
        if self.packing not in ("doc_sentences", "documents"):
            raise ValueError(f"packing must be 'documents' or 'doc_sentences', not {self.packing!r}")
        if self.fim_unit not in ("token", "character"):
            raise ValueError(f"fim_unit must be 'token' or 'character', not {self.fim_unit!r}")
        if self.document_attention:
            raise ValueError("fim has one document per row; leave document_attention out")

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Those around prefix, suffix and middle."""
        return (self.fim_prefix, self.fim_suffix, self.fim_middle)

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Refuse also tokenizers without the three special tokens, or that cannot spell parts of tokens."""
        super().check(vocabulary, config)
        _ = vocabulary.separator
        if self.fim_unit == "character":
            _ = vocabulary.spelling
        names = (self.fim_prefix, self.fim_suffix, self.fim_middle)
        missing = [name for name in names if name not in vocabulary.special]
        if missing:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)} among its special tokens; add them with "
                f"tokenizer.add_tokens({missing}, special_tokens=True) and resize the model's embeddings"
            )

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """Pieces of documents that leave room for what is added, with their closing slot where a document ends."""
        room = length - 4 - (2 * SPARE if self.fim_unit == "character" else 0)
        plan = pack(documents, vocabulary, length=room, packing=self.packing, special=False)
        closing = documents.tokens[plan.starts + plan.lengths] == DOCUMENT_END
        return replace(plan, lengths=plan.lengths + closing)

    def from_features(self, features: list[Mapping], vocabulary: Vocabulary) -> Columns:
        """Rows of the features without their padding."""
        return without_padding(super().from_features(features, vocabulary), vocabulary)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Rearranged rows, each position but the last predicting the next."""
        rest = {name: c for name, c in rows.items() if not isinstance(c, Ragged)}
        names = (self.fim_prefix, self.fim_suffix, self.fim_middle)
        special = (*(vocabulary.special[name] for name in names), vocabulary.separator)
        ids: Ragged = rows["input_ids"]
        closed = ids.lengths > 0
        closed[closed] = ids.values[ids.offsets[1:][closed] - 1] == special[-1]
        zero = np.zeros(len(ids), np.int64)
        moved = keyed.uniform_at(draws.key, zero, RATE) < self.fim_rate
        late = moved & (keyed.uniform_at(draws.key, zero, ORDER) < self.fim_spm_rate)
        ahead = text_of(ids, vocabulary)[0] - ids.offsets[:-1]
        size = ids.lengths - closed - ahead
        if self.fim_unit == "character":
            size = row_sums(vocabulary.spelling.characters[ids.values], ids.offsets)
        cuts = np.sort([keyed.integers_at(draws.key, zero + which, CUT, size + 1) for which in (0, 1)], 0)
        if self.fim_unit == "character":
            ids, cuts = cut_between_characters(ids, np.where(moved, cuts, size), vocabulary.spelling)
            cuts = np.minimum(cuts, ids.lengths - closed) - ahead
        ids = rearrange(ids, ahead, cuts, closed, moved, late, special)
        return super().corrupt({**rest, "input_ids": ids}, draws, vocabulary)


def rearrange(
    ids: Ragged,
    ahead: np.ndarray,
    cuts: np.ndarray,
    closed: np.ndarray,
    moved: np.ndarray,
    late: np.ndarray,
    special: tuple[int, ...],
) -> Ragged:
    """Rows with the middle at the end, see `FillInMiddle`; an end token that closes a row stays there.

    Args:
        ahead: int64 `[B]`, special tokens before the text, which stay there.
        cuts: int64 `[2, B]`, tokens of the text before the middle and before the suffix.
        closed, moved, late: bool `[B]`, rows that an end token closes, rows to rearrange, and those of them in the
            second order.
        special: ids of the prefix, suffix, middle and end tokens.
    """
    prefix_id, suffix_id, middle_id, end_id = special
    start, length, zero = ids.offsets[:-1] + ahead, ids.lengths - closed - ahead, np.zeros(len(ids), np.int64)
    left, right = np.where(moved, cuts, length)

    def part(begin, end, where) -> Ragged:
        size = np.where(where, end - begin, 0)
        return Ragged(ids.values[slices(start + begin, size)], size)

    def token(value, where) -> Ragged:
        return Ragged(np.full(int(where.sum()), value, ids.values.dtype), where.astype(np.int64))

    return join(
        [
            Ragged(ids.values[slices(ids.offsets[:-1], ahead)], ahead),
            token(prefix_id, moved),
            part(zero, left, ~late),
            token(suffix_id, moved),
            part(right, length, moved),
            token(middle_id, moved),
            part(zero, left, late),
            part(left, right, moved),
            token(end_id, moved | closed),
        ]
    )


class DataCollatorForFillInMiddle(ObjectiveCollator):
    """Fill in the middle for a stock causal LM: `DataCollatorForFillInMiddle(tokenizer, fim_unit="character")`."""

    def __init__(self, tokenizer: Any, **settings: Any):
        super().__init__("fim", tokenizer, **settings)
