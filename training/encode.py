"""Tokenizing a batch of texts, with the tokens at which words and sentences begin.

Processes that tokenize import this, so it imports neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
import regex
import sentencex
from tokenizers import Tokenizer

from ..objectives.documents import DOCUMENT_END, Documents
from ..objectives.words import word_starts

_ODD_SPACE = regex.compile(r"[^\S \n]")  # any white space but space and line break


def sentence_offsets(text: str, language: str = "en") -> list[int]:
    """Where sentences begin in `text`: the character of each one's start, in order.

    Sentences are those of the library sentencex for `language` (an ISO 639 code; rules common to all languages for
    one it does not know). A line break always ends a sentence, so a heading does not run into what follows it.

    >>> sentence_offsets("A Title\\nMr. Smith came. He left.")
    [0, 8, 24]
    """
    starts: list[int] = []
    at = 0
    for line in _ODD_SPACE.sub(" ", text).split("\n"):  # sentencex 1.0 panics on some white space beyond ASCII
        body = line.lstrip(" ")
        if body:
            sentences = sentencex.segment(language, body)
            starts.extend(accumulate(map(len, sentences[:-1]), initial=at + len(line) - len(body)))
        at += len(line) + 1
    return starts


def without_limits(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither truncates nor pads, as the last call of a tokenizer may have told it to."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def encode(tokenizer: Tokenizer, texts: list[str], language: str = "en", keep_empty: bool = False) -> Documents:
    """Tokenize `texts` into `Documents`, in memory, with word and sentence starts.

    Texts that give no tokens are dropped, unless `keep_empty`. A sentence starts at the token that begins its first
    word; white space that has tokens of its own (line breaks, in byte-level vocabularies) goes with the word and the
    sentence after it. Truncation and padding that the tokenizer is set to are ignored.
    """
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        tokenizer = without_limits(tokenizer)
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    total = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, total)
    pairs = chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))
    spans = np.fromiter(pairs, np.int64, 2 * total).reshape(total, 2)
    del encodings

    joined = "\n".join(texts)
    sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
    spans += np.repeat(np.cumsum(sizes) - sizes, lengths)[:, None]
    starts, ends = spans.T
    words = word_starts(joined, starts, ends)
    first_tokens = np.searchsorted(np.maximum.accumulate(ends), sentence_offsets(joined, language), side="right")

    if not keep_empty:
        lengths = lengths[lengths > 0]
    begin = (np.cumsum(lengths) - lengths)[lengths > 0]
    words[begin] = True
    sentences = np.zeros(total, bool)
    sentences[begin] = True
    word_tokens = np.flatnonzero(words)
    sentences[word_tokens[np.searchsorted(word_tokens, first_tokens[first_tokens < total], side="right") - 1]] = True
    slots = np.arange(total) + np.repeat(np.arange(len(lengths)), lengths)

    def with_closing(values: np.ndarray, closing: int) -> np.ndarray:
        out = np.full(total + len(lengths), closing, values.dtype)
        out[slots] = values
        return out

    return Documents(
        tokens=with_closing(ids, DOCUMENT_END),
        offsets=np.concatenate([[0], np.cumsum(lengths + 1)]),
        word_starts=with_closing(words, True),
        sentence_starts=with_closing(sentences, False),
    )


class Batch(NamedTuple):
    """Texts of one language; `side` is its number in parallel text."""

    texts: list[str]
    language: str
    side: int | None = None

    def encode(self, tokenizer: Tokenizer) -> Documents:
        """The texts as documents; of parallel text also those without tokens, with their language."""
        if self.side is None:
            return encode(tokenizer, self.texts, self.language)
        documents = encode(tokenizer, self.texts, self.language, keep_empty=True)
        return replace(documents, languages=np.full(len(documents), self.side, np.int16))


def load_tokenizer(specification: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, to which the names of special tokens in a text are plain text."""
    tokenizer = Tokenizer.from_str(specification)
    tokenizer.encode_special_tokens = True
    return tokenizer
