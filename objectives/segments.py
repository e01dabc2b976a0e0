"""Packing: how documents become examples of at most `length` tokens.

The packings of RoBERTa (Liu et al. 2019, arXiv 1907.11692, section 4.2) under fairseq's and the paper's names:

    full_sentences  contiguous whole sentences, across document ends, a separator between documents
    doc_sentences   the same, never across a document end
    blocks          fixed-length slices of the whole stream, a separator after each document (GPT)
    documents       one document per example, long ones in several
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .base import Columns
from .documents import DOCUMENT_END, Documents
from .ragged import Ragged, constant, join, slices
from .vocabulary import Vocabulary

PACKINGS = ("full_sentences", "doc_sentences", "blocks", "documents")


@dataclass(frozen=True)
class SlicePlan:
    """Examples that are slices of the stream, with the tokenizer's special tokens around them.

    Attributes:
        documents: the corpus.
        starts, lengths: int64 `[N]`, slots of each example in `documents.tokens`.
        vocabulary: gives special tokens and the separator that takes the place of a document's closing slot.
        columns: optional columns to provide: "word_starts", "sentence_starts", "document_ids".
        special: whether to put the tokenizer's special tokens around each example.
        order: "shuffled" or "streams".
    """

    documents: Documents
    starts: np.ndarray
    lengths: np.ndarray
    vocabulary: Vocabulary
    columns: tuple[str, ...] = ()
    special: bool = True
    order: Literal["shuffled", "streams"] = field(default="shuffled")

    def __len__(self) -> int:
        return len(self.starts)

    def rows(self, index: np.ndarray) -> Columns:
        """The examples as columns, `input_ids` and those asked for."""
        starts, lengths = self.starts[index], self.lengths[index]
        slots = slices(starts, lengths)
        tokens = self.documents.tokens[slots].astype(np.int64)
        ends = tokens == DOCUMENT_END
        if ends.any():
            tokens[ends] = self.vocabulary.separator
        columns: Columns = {"input_ids": self._frame(Ragged(tokens, lengths), None)}
        for name in self.columns:
            if name == "document_ids":
                ids = np.cumsum(ends) - ends
                columns[name] = self._frame(Ragged(ids - np.repeat(ids[_first(lengths)], lengths), lengths), 0)
            else:
                columns[name] = self._frame(Ragged(getattr(self.documents, name)[slots], lengths), True)
        return columns

    def _frame(self, rows: Ragged, fill: int | bool | None) -> Ragged:
        """Special tokens around each row, or `fill` in their places."""
        prefix, suffix = (self.vocabulary.prefix, self.vocabulary.suffix) if self.special else ((), ())
        if not prefix and not suffix:
            return rows
        dtype, count = rows.values.dtype, len(rows)
        before = prefix if fill is None else (fill,) * len(prefix)
        after = suffix if fill is None else (fill,) * len(suffix)
        return join([constant(before, count, dtype), rows, constant(after, count, dtype)])


def _first(lengths: np.ndarray) -> np.ndarray:
    """Index of each row's first value; rows are not empty."""
    return np.cumsum(lengths) - lengths


def check_packing(packing: str) -> None:
    """Raise `ValueError` unless `packing` is one of `PACKINGS`."""
    if packing not in PACKINGS:
        raise ValueError(f"unknown packing {packing!r}; one of {', '.join(PACKINGS)}")


def pack(
    documents: Documents,
    vocabulary: Vocabulary,
    *,
    length: int,
    packing: str = "full_sentences",
    columns: tuple[str, ...] = (),
    special: bool = True,
) -> SlicePlan:
    """Cut documents into examples of at most `length` tokens, special tokens included.

    A sentence longer than an example is split rather than dropped, so that every token is in exactly one example
    (the rest of its last piece is joined by what follows). An example of a separator alone is left out. Raises
    `ValueError` for an unknown packing, a length with no room for text, and a corpus without documents.
    """
    check_packing(packing)
    room = length - (len(vocabulary.prefix) + len(vocabulary.suffix) if special else 0)
    if room < 1:
        raise ValueError(f"length {length} leaves no room for text beside the special tokens; use a larger length")
    if not len(documents):
        raise ValueError("the corpus has no documents; check its path and filters")
    total = len(documents.tokens)
    if packing in ("blocks", "full_sentences"):
        _ = vocabulary.separator  # refuse early
    if packing == "blocks":
        starts = np.arange(0, total, room)
        ends = np.minimum(starts + room, total)
    else:
        firsts = documents.offsets[:-1]
        if packing != "documents":
            firsts = documents.sentences(firsts)
        ends = np.append(firsts[1:], total)
        group = None
        if packing != "full_sentences":  # stay within documents, without their closing slots
            group = np.searchsorted(documents.offsets, firsts, "right")
            ends = ends - np.isin(ends, documents.offsets[1:])
        starts, ends = _greedy(firsts, ends, room, group)
    kept = ends > starts
    single = np.flatnonzero(ends - starts == 1)
    kept[single] = documents.tokens[starts[single]] != DOCUMENT_END
    return SlicePlan(documents, starts[kept], (ends - starts)[kept], vocabulary, columns, special)


def _greedy(starts: np.ndarray, ends: np.ndarray, room: int, group: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of examples as long as fit, made of neighbouring pieces of one group; longer pieces are split.

    How far an example reaches that begins with a given piece is found for all pieces at once; only the chain from
    example to example is walked.
    """
    parts = np.maximum(-(-(ends - starts) // room), 1)
    if (parts > 1).any():
        starts = np.repeat(starts, parts) + slices(np.zeros(len(parts), np.int64), parts) * room
        ends = np.minimum(starts + room, np.repeat(ends, parts))
        group = None if group is None else np.repeat(group, parts)
    reach = np.searchsorted(ends, starts + room, "right")
    if group is not None:
        reach = np.minimum(reach, np.searchsorted(group, group, "right"))
    following, chain, piece = reach.tolist(), [], 0
    while piece < len(starts):
        chain.append(piece)
        piece = following[piece]
    return starts[chain], ends[np.append(chain, len(ends))[1:] - 1]
