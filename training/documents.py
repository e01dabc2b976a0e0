"""Tokenizing a corpus once: texts to `Documents` in a cache of memory-mapped arrays.

A cache is a folder named by a fingerprint of the texts, the tokenizer and the settings. It is written under another
name and renamed when complete, so a run that is killed leaves no half-written cache behind, and the next run with the
same input opens it in an instant. The number of processes has no bearing on what it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import accumulate, chain
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import regex
import sentencex
from tokenizers import Tokenizer
from tqdm.auto import tqdm

from ..objectives.documents import DOCUMENT_END, Documents, selection_fingerprint
from ..objectives.keyed import combine
from ..objectives.words import word_starts
from .cache import read_documents, write_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
"""Version of what a cache holds; raised when that changes, so that older caches are not used."""

BATCH_CHARACTERS = 1_000_000
"""Texts are tokenized in batches of about this many characters."""

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


def encode(tokenizer: Tokenizer, texts: list[str], language: str = "en") -> Documents:
    """Tokenize `texts` into `Documents`, in memory, with word and sentence starts.

    Texts that give no tokens are dropped. A sentence starts at the token that begins its first word; white space that
    has tokens of its own (line breaks, in byte-level vocabularies) goes with the word and the sentence after it.
    """
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

    lengths = lengths[lengths > 0]
    begin = np.cumsum(lengths) - lengths
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


def tokenize_corpus(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: str | os.PathLike,
    num_proc: int | None = None,
    language: str = "en",
    disable_tqdm: bool | None = None,
) -> Documents:
    """Tokenize `texts` once and open the result, memory-mapped, from `cache_dir`.

    Special tokens are not added, and their names in a text ("[MASK]" in a page on BERT) are plain text. Memory holds a
    few batches of about a million characters (or the longest text), whatever the size of the corpus.

    Args:
        texts: the documents; read twice (once for the fingerprint), so a list or another iterable that starts afresh.
            Blank ones are dropped.
        tokenizer: a fast tokenizer.
        cache_dir: where caches are kept, one folder each.
        num_proc: number of processes, as far as there is work for them; `None` or 1 tokenizes in this one (with the
            tokenizer's threads). With more, a script needs its `if __name__ == "__main__":`.
        language: ISO 639 code for finding sentences.
        disable_tqdm: no progress bar; `None` shows one on a terminal.

    Raises:
        ValueError: for a slow tokenizer, an empty corpus, a text that is not valid Unicode or a damaged cache.
        TypeError: for an iterator, which can be read only once, or a document that is not a string.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which does not say where in the text its tokens stand, "
            "as words and sentences need: load a fast one (one with a tokenizer.json), or train one with "
            "scripts/train_tokenizer.py."
        )
    if iter(texts) is texts:
        raise TypeError("`texts` is an iterator, which can be read only once: pass a list or a corpus instead.")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    specification = backend.to_str()

    settings = {"format": FORMAT, "language": language, **{n: version(n) for n in ("tokenizers", "sentencex")}}
    digest = hashlib.blake2b(f"{json.dumps(settings)}\n{specification}".encode(), digest_size=16)
    characters = 0
    for number, text in enumerate(texts):
        digest.update(_bytes(text, number))
        characters += len(text)
    fingerprint = digest.hexdigest()

    directory = Path(cache_dir) / f"documents-{fingerprint}"
    if not directory.exists():
        processes = min(num_proc or 1, characters // BATCH_CHARACTERS + 1)
        with tqdm(total=characters, unit="char", unit_scale=True, desc="Tokenizing", disable=disable_tqdm) as bar:
            parts = _encode_batches(_batches(texts, bar.update), specification, language, processes)
            write_documents(directory, parts)
    return read_documents(directory, fingerprint)


def split_documents(
    documents: Documents, fraction: float, seed: int = 0, cache_dir: str | os.PathLike | None = None
) -> tuple[Documents, Documents]:
    """Split off `fraction` of the documents (at least one), whole, for validation: `(train, validation)`.

    Which ones is a function of `seed` and each document's number in the corpus, not of the tokenizer. Both sides keep
    the corpus's order. With `cache_dir` they are written there and memory-mapped; otherwise they are held in memory.

    Raises:
        ValueError: if `fraction` is not between 0 and 1, or leaves a side without documents.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1 (exclusive), got {fraction}.")
    count = max(1, round(fraction * len(documents)))
    if count >= len(documents):
        raise ValueError(
            f"The corpus has {len(documents)} document(s), too few to set {fraction:.0%} of them aside for validation: "
            "separate documents by blank lines, or give a --validation_file and a validation_fraction of 0."
        )
    order = np.argsort(combine(seed, np.arange(len(documents))), kind="stable")
    validation, train = np.sort(order[:count]), np.sort(order[count:])
    return _select(documents, train, cache_dir), _select(documents, validation, cache_dir)


def _select(documents: Documents, chosen: np.ndarray, cache_dir: str | os.PathLike | None) -> Documents:
    """`documents.select(chosen)`, in memory or as a cache of its own."""
    if cache_dir is None:
        return documents.select(chosen)
    fingerprint = selection_fingerprint(documents.fingerprint, chosen)
    directory = Path(cache_dir) / f"documents-{fingerprint}"
    if not directory.exists():
        ends = np.cumsum(np.diff(documents.offsets)[chosen])
        cuts = np.searchsorted(ends, np.arange(BATCH_CHARACTERS, ends[-1], BATCH_CHARACTERS))
        write_documents(directory, map(documents.select, np.split(chosen, np.unique(cuts))))
    return read_documents(directory, fingerprint)


def _bytes(text: str, number: int) -> bytes:
    """What the fingerprint takes of a document: its length and its text."""
    if not isinstance(text, str):
        raise TypeError(f"Document {number} is not a string but {type(text).__name__}.")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Document {number} holds half a surrogate pair, {text[error.start]!r}, at character {error.start}, which "
            "is not text: repair or remove that document."
        ) from error
    return b"%d:" % len(data) + data


def _batches(texts: Iterable[str], done: Callable[[int], Any]) -> Iterator[list[str]]:
    """Runs of texts of about `BATCH_CHARACTERS`, blank ones left out; calls `done` with each one's characters."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        if text.strip():
            batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            done(characters)
            yield batch
            batch, characters = [], 0
    done(characters)
    yield batch


def _encode_batches(
    batches: Iterable[list[str]], specification: str, language: str, num_proc: int
) -> Iterator[Documents]:
    """`encode` over batches, in order, by `num_proc` processes, which run at most a few batches ahead."""
    if num_proc == 1:
        tokenizer = _load(specification)
        yield from (encode(tokenizer, batch, language) for batch in batches)
        return
    with ProcessPoolExecutor(num_proc, get_context("spawn"), _start_worker, (specification,)) as pool:
        running: deque = deque()
        for batch in batches:
            running.append(pool.submit(_work, batch, language))
            if len(running) > 3 * num_proc:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _load(specification: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, to which the names of special tokens in a text are plain text."""
    tokenizer = Tokenizer.from_str(specification)
    tokenizer.encode_special_tokens = True
    return tokenizer


_worker_tokenizer: Tokenizer


def _start_worker(specification: str) -> None:
    """Make the tokenizer of a worker process, which uses one thread."""
    global _worker_tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_tokenizer = _load(specification)


def _work(batch: list[str], language: str) -> Documents:
    return encode(_worker_tokenizer, batch, language)
