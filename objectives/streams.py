"""Contiguous streams: batch row `b` of step `t + 1` continues row `b` of step `t`, for models with segment memory.

Transformer-XL (Dai et al. 2019, arXiv 1901.02860, section 3.2) and XLNet (Yang et al. 2019, arXiv 1906.08237,
section 2.4) cut the corpus into as many equal parts as a batch has rows, and read all parts side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import keyed
from .base import Columns
from .documents import DOCUMENT_END, Documents
from .ragged import Ragged, constant, join, slices
from .vocabulary import Vocabulary

CUT, COIN, ELSEWHERE = range(100, 103)
"""Streams of randomness of the two-segment layout."""


@dataclass(frozen=True)
class StreamPlan:
    """Segments of `global_batch` parallel streams; example `s · per_stream + t` is segment `t` of stream `s`.

    Attributes:
        documents, vocabulary: the corpus and its special tokens; documents end with the separator.
        advance: slots from one segment to the next of its stream.
        size: slots of a segment.
        num_streams: rows of a global batch.
        bidirectional: odd streams read the text of the stream before them backwards, the last token first (XLNet's
            `bi_data`), so that all text is read in both directions.
        columns: optional columns to provide: "word_starts"; "parts", 0 for what the next segment does not read again,
            1 for the rest.
    """

    documents: Documents
    vocabulary: Vocabulary
    advance: int
    size: int
    num_streams: int
    bidirectional: bool = False
    columns: tuple[str, ...] = ()
    order: Literal["shuffled", "streams"] = "streams"

    @property
    def share(self) -> int:
        """Slots of the text that a stream reads."""
        texts = (self.num_streams + 1) // 2 if self.bidirectional else self.num_streams
        return len(self.documents.tokens) // texts

    @property
    def per_stream(self) -> int:
        """Segments of each stream."""
        return max((self.share - (self.size - self.advance)) // self.advance, 0)

    def __len__(self) -> int:
        return self.num_streams * self.per_stream

    def slots(self, index: np.ndarray, begin: int = 0, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(slots `[N · size]` in reading order, whether each is read backwards) of part of each segment."""
        size = self.size if size is None else size
        stream, segment = np.divmod(index, self.per_stream)
        text = (stream // 2 if self.bidirectional else stream) * self.share
        within = slices(segment * self.advance + begin, np.full(len(index), size))
        backwards = np.repeat(self.bidirectional & (stream % 2 == 1), size)
        return np.repeat(text, size) + np.where(backwards, self.share - 1 - within, within), backwards

    def read(self, slots: np.ndarray, backwards: np.ndarray, lengths: np.ndarray) -> Columns:
        """Tokens at these slots, and whether each begins a word in its reading direction."""
        tokens = self.documents.tokens[slots].astype(np.int64)
        tokens[tokens == DOCUMENT_END] = self.vocabulary.separator
        columns: Columns = {"input_ids": Ragged(tokens, lengths)}
        if "word_starts" in self.columns:
            starts = self.documents.word_starts
            following = np.minimum(slots + 1, len(starts) - 1)  # backwards, a word begins with its last token
            columns["word_starts"] = Ragged(starts[np.where(backwards, following, slots)], lengths)
        return columns

    def rows(self, index: np.ndarray) -> Columns:
        """Plain segments: `input_ids`, and `stream_starts`, true where a stream begins anew (its memory is stale)."""
        index = np.asarray(index, np.int64)
        slots, backwards = self.slots(index)
        columns = self.read(slots, backwards, np.full(len(index), self.size))
        if "parts" in self.columns:
            parts = (np.arange(self.size) >= self.advance).astype(np.int64)
            columns["parts"] = columns["input_ids"].with_values(np.tile(parts, len(index)))
        return {**columns, "stream_starts": index % self.per_stream == 0}


@dataclass(frozen=True)
class TwoSegmentPlan(StreamPlan):
    """XLNet's layout: `advance` tokens of the stream, then `A <sep> B <sep> <cls>` built from what follows.

    A ends at a random sentence end; B continues it, or, with probability .5, is taken from elsewhere in the corpus.
    Segment ids are 0 up to A's separator, 1 for B and its separator, 2 for `<cls>`.

    Attributes:
        seed, epoch: what the draws of cuts and random segments are keyed on.
    """

    seed: int = 0
    epoch: int = 0

    def rows(self, index: np.ndarray) -> Columns:
        """`input_ids`, `token_type_ids`, `parts` (0: reused text, 1: the rest), `stream_starts`."""
        index = np.asarray(index, np.int64)
        count, rest = len(index), self.size - self.advance
        key = keyed.combine(self.seed, self.epoch, index)
        zero = np.zeros(count, np.int64)
        head_slots, head_back = self.slots(index, 0, self.advance)
        tail_slots, tail_back = self.slots(index, self.advance, rest)
        tail = tail_slots.reshape(count, rest)
        cut = self._cuts(tail, key)
        other = keyed.uniform_at(key, zero, COIN) < 0.5
        room = len(self.documents.tokens) - rest
        begin = keyed.integers_at(key, zero, ELSEWHERE, max(room, 1))
        forwards = np.arange(rest)
        elsewhere = begin[:, None] + np.where(tail_back.reshape(count, rest), rest - 1 - forwards, forwards)
        in_b = np.arange(rest) >= cut[:, None]
        chosen = np.where(in_b & other[:, None], np.take_along_axis(elsewhere, _shift(cut, rest), 1), tail)
        head = self.read(head_slots, head_back, np.full(count, self.advance))
        a = self.read(chosen[~in_b], tail_back.reshape(count, rest)[~in_b], cut)
        b = self.read(chosen[in_b], tail_back.reshape(count, rest)[in_b], rest - cut)
        vocabulary = self.vocabulary
        columns: Columns = {}
        for name in head:
            sep = constant([vocabulary.sep_id if name == "input_ids" else 1], count)
            cls = constant([vocabulary.cls_id if name == "input_ids" else 1], count)
            columns[name] = join([head[name], a[name], sep, b[name], sep, cls])
        lengths = [zero + self.advance, cut + 1, rest - cut + 1, zero + 1]
        types = np.repeat(np.tile([0, 0, 1, 2], count), np.stack(lengths, 1).reshape(-1))
        parts = np.repeat(np.tile([0, 1, 1, 1], count), np.stack(lengths, 1).reshape(-1))
        ids: Ragged = columns["input_ids"]
        return {
            **columns,
            "token_type_ids": ids.with_values(types),
            "parts": ids.with_values(parts),
            "stream_starts": index % self.per_stream == 0,
        }

    def _cuts(self, tail: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Length of A in each row: up to a sentence start (end, when read backwards) drawn uniformly, else half."""
        rest = tail.shape[1]
        starts = self.documents.sentence_starts[tail[:, 1:]]
        if self.bidirectional:
            backwards = tail[:, :1] > tail[:, -1:]
            starts = np.where(backwards, self.documents.sentence_starts[tail[:, :-1]], starts)
        found = starts.sum(1)
        pick = keyed.integers_at(key, np.zeros(len(key), np.int64), CUT, np.maximum(found, 1))
        at = np.argmax(np.cumsum(starts, 1) > pick[:, None], 1) + 1
        return np.where(found > 0, at, max(rest // 2, 1)).astype(np.int64)


def _shift(cut: np.ndarray, size: int) -> np.ndarray:
    """int64 `[B, size]`: column of a random segment that fills position `i` of B, which begins at `cut`."""
    return np.maximum(np.arange(size) - cut[:, None], 0)
