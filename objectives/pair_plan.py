"""How documents become sentence pairs: BERT's algorithm (create_pretraining_data.py) over all sentences at once.

What a pair is that begins with a given sentence depends on that sentence and the key alone. So the ends of all
possible chunks, their cuts and coins are arrays over sentences; only the chain from pair to pair is walked, and
everything else about a pair is computed when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from . import keyed
from .base import Columns
from .documents import Documents
from .ragged import Ragged, constant, join, row_sums, slices
from .vocabulary import Vocabulary

PAIRS = 110
"""Sets the keys of pairs apart from those of rows."""

SHORT, TARGET, CUT, DOCUMENT, SENTENCE, FIRST_TEXT, SECOND_TEXT = range(110, 117)
"""Streams of randomness: short documents and their length, cut and coin, the random text, truncation."""

_BLOCK = 1 << 20  # sentences planned at a time


@dataclass(frozen=True)
class Sentences:
    """Where the sentences of a corpus lie. Documents without text are left out.

    Attributes:
        starts, ends: int64 `[S]`, slots of each sentence, closing slots not included.
        first: int64 `[D + 1]`; document `d` has sentences `first[d]` to `first[d + 1] - 1`.
        numbers: int64 `[D]`, number of each document in the corpus.
    """

    starts: np.ndarray
    ends: np.ndarray
    first: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, documents: Documents) -> Sentences:
        """The sentences of a corpus; a document's first token always begins one."""
        numbers = np.flatnonzero(np.diff(documents.offsets) > 1)
        heads = documents.offsets[numbers]
        starts = documents.sentences(heads)
        first = np.append(np.searchsorted(starts, heads), len(starts))
        ends = np.append(starts[1:], 0)
        ends[first[1:] - 1] = documents.offsets[numbers + 1] - 1
        return cls(starts, ends, first, numbers)

    def document(self, sentence: np.ndarray) -> np.ndarray:
        """int64: the document of each of these sentences."""
        return np.searchsorted(self.first, sentence, "right") - 1

    def reach(self, sentence: np.ndarray, document: np.ndarray, length: np.ndarray) -> np.ndarray:
        """int64: one past the last sentence, for texts of at least `length` tokens or up to their document's end."""
        full = np.searchsorted(self.ends, self.starts[sentence] + np.maximum(length, 1), "left") + 1
        return np.minimum(full, self.first[document + 1])


@dataclass(frozen=True)
class PairPlan:
    """The pairs of one epoch.

    Attributes:
        documents, sentences, vocabulary: the corpus.
        room: most tokens of a pair, special tokens not counted.
        seed, epoch: what all draws are keyed on, with the document and the sentence's number in it.
        short_seq_prob: share of documents with a shorter target length.
        random_next: label 1 means another document's text (`True`) or swapped texts (`False`).
        columns: optional columns to provide: "word_starts", "sentence_starts".
        firsts: int64 `[N]`, the sentence that each pair begins with.
    """

    documents: Documents
    sentences: Sentences
    vocabulary: Vocabulary
    room: int
    seed: int
    epoch: int
    short_seq_prob: float
    random_next: bool
    columns: tuple[str, ...] = ()
    firsts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    order: Literal["shuffled", "streams"] = "shuffled"

    @classmethod
    def make(cls, documents: Documents, sentences: Sentences, vocabulary: Vocabulary, **settings) -> PairPlan:
        """Walk all documents; `settings` are the attributes from `room` to `columns`."""
        plan = cls(documents, sentences, vocabulary, **settings)
        total = len(sentences.starts)
        bounds = np.unique(sentences.first[np.searchsorted(sentences.first, np.arange(0, total + _BLOCK, _BLOCK)[:-1])])
        blocks = [plan._walk(low, high) for low, high in zip(bounds, np.append(bounds[1:], total), strict=True)]
        firsts = np.concatenate([*blocks, np.zeros(0, np.int64)])
        return cls(documents, sentences, vocabulary, **settings, firsts=firsts)

    def _walk(self, low: int, high: int) -> np.ndarray:
        """First sentences of the pairs of the documents with sentences `low` to `high - 1`."""
        sentence = np.arange(low, high)
        counts = np.diff(np.clip(self.sentences.first, low, high))
        document = np.repeat(np.arange(len(counts)), counts)
        stop, cut, ones, _ = self._chunks(sentence, document)
        following = np.where(ones & self.random_next, sentence + cut, stop)  # what B replaces goes back
        chain, here, steps = [], 0, (following - low).tolist()
        while here < len(steps):
            chain.append(here)
            here = steps[here]
        index = np.array(chain, np.int64)
        if not self.random_next:
            index = index[stop[index] - sentence[index] > 1]  # one sentence has no order
        return sentence[index]

    def _key(self, document: np.ndarray) -> np.ndarray:
        return keyed.combine(self.seed, PAIRS, self.epoch, self.sentences.numbers[document])

    def _chunks(self, sentence: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, ...]:
        """(end, sentences of A, whether the label is 1, target length) of chunks that begin with these sentences."""
        change = np.flatnonzero(np.diff(document, prepend=-1))  # neighbours of one document share its draws
        per = np.diff(change, append=len(document))
        key, zero = self._key(document[change]), np.zeros(len(change), np.int64)
        short = keyed.uniform_at(key, zero, SHORT) < self.short_seq_prob
        drawn = keyed.integers_at(key, zero, TARGET, self.room - 1) + 2
        target = np.repeat(np.where(short, drawn, self.room), per)
        stop = self.sentences.reach(sentence, document, target)
        count = stop - sentence
        bits = keyed.bits_at(np.repeat(key, per), sentence - self.sentences.first[document], CUT)
        upper = bits >> np.uint64(32)
        cut = ((upper * np.maximum(count - 1, 1).astype(np.uint64)) >> np.uint64(32)).astype(np.int64) + 1
        ones = (bits & np.uint64(1)) == 1
        return stop, cut, ones | (count == 1) if self.random_next else ones, target

    def __len__(self) -> int:
        return len(self.firsts)

    def rows(self, index: np.ndarray) -> Columns:
        """`input_ids`, `token_type_ids` where the tokenizer marks them, `pair_labels`, and the columns asked for."""
        sentences, first = self.sentences, self.firsts[index]
        document = sentences.document(first)
        stop, cut, ones, target = self._chunks(first, document)
        middle = sentences.ends[first + cut - 1]
        a_start, a_end = sentences.starts[first], middle
        b_start, b_end = middle.copy(), sentences.ends[stop - 1]
        key = keyed.combine(self._key(document), first - sentences.first[document])
        if self.random_next:
            b_start[ones], b_end[ones] = self._elsewhere(key[ones], document[ones], (target - (a_end - a_start))[ones])
        else:
            a_start, b_start = np.where(ones, b_start, a_start), np.where(ones, a_start, b_start)
            a_end, b_end = np.where(ones, b_end, a_end), np.where(ones, a_end, b_end)
        a_start, a_end, b_start, b_end = truncate_pairs(key, a_start, a_end, b_start, b_end, self.room)
        return self._layout(a_start, a_end - a_start, b_start, b_end - b_start, ones.astype(np.int64))

    def _elsewhere(self, key, document, length) -> tuple[np.ndarray, np.ndarray]:
        """(start, end) of sentences of about `length` tokens from a random place of another document."""
        sentences, zero = self.sentences, np.zeros(len(key), np.int64)
        other = keyed.integers_at(key, zero, DOCUMENT, len(sentences.numbers) - 1)
        other += other >= document
        counts = sentences.first[other + 1] - sentences.first[other]
        begin = sentences.first[other] + keyed.integers_at(key, zero, SENTENCE, counts)
        return sentences.starts[begin], sentences.ends[sentences.reach(begin, other, length) - 1]

    def _layout(self, a_start, a_length, b_start, b_length, labels) -> Columns:
        """Special tokens around the texts, `[CLS] A [SEP] B [SEP]`, as the tokenizer puts them."""
        vocabulary, count = self.vocabulary, len(labels)
        specials = vocabulary.pair_prefix, vocabulary.middle, vocabulary.pair_suffix
        a_slots, b_slots = slices(a_start, a_length), slices(b_start, b_length)

        def column(values: np.ndarray, dtype, around) -> Ragged:
            prefix, middle, suffix = (constant(ids, count, dtype) for ids in around)
            a, b = (Ragged(values[at].astype(dtype), n) for at, n in ((a_slots, a_length), (b_slots, b_length)))
            return join([prefix, a, middle, b, suffix])

        ids = column(self.documents.tokens, np.int64, specials)
        columns: Columns = {"input_ids": ids, "pair_labels": labels}
        if vocabulary.token_types:
            first = len(specials[0]) + a_length + len(specials[1])
            lengths = np.stack([first, ids.lengths - first], 1).reshape(-1)
            columns["token_type_ids"] = ids.with_values(np.repeat(np.tile([0, 1], count), lengths))
        for name in self.columns:
            columns[name] = column(getattr(self.documents, name), bool, [(True,) * len(s) for s in specials])
        return columns


def truncate_pairs(key, a_start, a_end, b_start, b_end, room: int) -> tuple[np.ndarray, ...]:
    """Shorten the longer of two texts by a token at a time until both together have `room` tokens.

    Each token goes from the front or from the back with equal chance; of two equally long texts B is shortened. In
    closed form: the longer text is first brought down to the other's length, the rest is taken from B and A by turns,
    and how many of a text's lost tokens were in front is binomial.

    Returns: new `a_start, a_end, b_start, b_end`.
    """
    a, b = a_end - a_start, b_end - b_start
    excess = np.maximum(a + b - room, 0)
    level = np.minimum(excess, np.abs(a - b))
    rest = excess - level
    lost_a = np.where(a > b, level, 0) + rest // 2
    lost_b = np.where(a > b, 0, level) + (rest + 1) // 2
    front_a, front_b = heads(key, lost_a, FIRST_TEXT), heads(key, lost_b, SECOND_TEXT)
    return a_start + front_a, a_end - (lost_a - front_a), b_start + front_b, b_end - (lost_b - front_b)


def heads(key: np.ndarray, tosses: np.ndarray, stream: int) -> np.ndarray:
    """int64 `[N]`: how many of `tosses[n]` fair coins show heads; each 64-bit draw is 64 coins."""
    words = -(-tosses // 64)
    offsets = np.append(0, np.cumsum(words))
    position = slices(np.zeros(len(words), np.int64), words)
    bits = keyed.bits_at(np.repeat(key, words), position, stream)
    unused = 64 - np.minimum(np.repeat(tosses, words) - 64 * position, 64)
    return row_sums(np.bitwise_count(bits >> unused.astype(np.uint64)), offsets)
