"""Tokenized documents: what every objective plans its examples from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

DOCUMENT_END = -1
"""Value of the slot that closes each document in `Documents.tokens`; a plan puts a separator there or leaves it out."""


@dataclass(frozen=True)
class Documents:
    """A tokenized corpus as flat arrays (memory-mapped or not), documents end to end.

    Attributes:
        tokens: int32 `[T]`, token ids without special tokens; the last slot of each document holds `DOCUMENT_END`,
            so that any contiguous slice of the stream shows where documents end.
        offsets: int64 `[D + 1]`; document `d` owns slots `offsets[d]` to `offsets[d + 1] - 1`, closing slot included.
        word_starts: bool `[T]`, true where a word begins (closing slots are words of their own).
        sentence_starts: bool `[T]`, true where a sentence begins (a closing slot belongs to the last sentence).
        languages: int16 `[D]` or `None`, index of each document's language.
        translations: int64 `[P, 2]` or `None`, pairs of documents that are translations of each other.
        fingerprint: hex digest of text, tokenizer and settings; keys caches of whatever derives from the documents.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    word_starts: np.ndarray
    sentence_starts: np.ndarray
    languages: np.ndarray | None = None
    translations: np.ndarray | None = None
    fingerprint: str = ""

    windowed: ClassVar[bool] = False

    def at(self, epoch: int) -> Documents:
        """What to train on in `epoch`: these documents, but other ones where `windowed` says that they change."""
        return self

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """Number of tokens, closing slots not counted."""
        return len(self.tokens) - len(self)

    def sentences(self, heads: np.ndarray) -> np.ndarray:
        """int64, sorted: slots where sentences begin, among them `heads`, the first slots of documents."""
        begins = np.array(self.sentence_starts)
        begins[heads] = True
        return np.flatnonzero(begins)

    def select(self, documents: np.ndarray) -> Documents:
        """The given documents (indices, in the given order) as `Documents` of their own.

        Translations stay where both documents are among them.
        """
        from .ragged import slices  # local: ragged has no need of this module

        documents = np.asarray(documents, np.int64)
        starts, ends = self.offsets[documents], self.offsets[documents + 1]
        index = slices(starts, ends - starts)
        translations = self.translations
        if translations is not None:
            translations = places_among(documents, translations, len(self))
        return Documents(
            tokens=self.tokens[index],
            offsets=np.concatenate([[0], np.cumsum(ends - starts)]),
            word_starts=self.word_starts[index],
            sentence_starts=self.sentence_starts[index],
            languages=None if self.languages is None else self.languages[documents],
            translations=translations,
            fingerprint=selection_fingerprint(self.fingerprint, documents),
        )


def places_among(chosen: np.ndarray, pairs: np.ndarray, count: int) -> np.ndarray:
    """Those of `pairs`, int `[P, 2]`, of which both are among the `chosen` of `count` documents, as places in it.

    >>> places_among(np.array([5, 1, 4]), np.array([[4, 5], [1, 2]]), count=6).tolist()
    [[2, 0]]
    """
    place = np.full(count, -1)
    place[chosen] = np.arange(len(chosen))
    found = place[pairs]
    return found[(found >= 0).all(1)]


def selection_fingerprint(fingerprint: str, documents: np.ndarray) -> str:
    """The fingerprint of `Documents.select(documents)` on documents with `fingerprint`."""
    indices = np.asarray(documents, np.int64).tobytes()
    return hashlib.blake2b(fingerprint.encode() + indices, digest_size=16).hexdigest()


def from_lists(documents: list[list[list[int]]], fingerprint: str = "") -> Documents:
    """`Documents` from nested lists, document → sentence → token ids, every token a word; for tests and small corpora.

    >>> from_lists([[[5, 6], [7]], [[8]]]).tokens.tolist()
    [5, 6, 7, -1, 8, -1]
    """
    tokens: list[int] = []
    sentences: list[bool] = []
    offsets = [0]
    for document in documents:
        for sentence in document:
            tokens += sentence
            sentences += [True] + [False] * (len(sentence) - 1) if sentence else []
        tokens.append(DOCUMENT_END)
        sentences.append(False)
        offsets.append(len(tokens))
    return Documents(
        tokens=np.array(tokens, np.int32),
        offsets=np.array(offsets, np.int64),
        word_starts=np.ones(len(tokens), bool),
        sentence_starts=np.array(sentences, bool),
        fingerprint=fingerprint,
    )
