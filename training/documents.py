"""Tokenizing a corpus once: texts to `Documents` in a cache of memory-mapped arrays.

A cache is a folder named by a fingerprint of the texts, the tokenizer and the settings. A run with the same input opens
it in an instant; one that was killed while writing it goes on where it was (`cache.py`). Neither that nor the number of
processes has any bearing on what it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..objectives.documents import Documents
from .cache import read_documents, write_documents
from .corpora import Corpus, CorpusArguments
from .encode import Batch, load_tokenizer, without_limits
from .split import select, split_documents
from .survey import survey
from .workers import encode_in_processes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 2
"""Version of what a cache holds and of `BATCH_CHARACTERS`; raised when they change, so that no older cache is used."""

BATCH_CHARACTERS = 250_000
"""Texts are tokenized in batches of about this many characters."""


def load_documents(
    arguments: CorpusArguments, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> tuple[Documents, Documents | None]:
    """The corpus that `arguments` name, tokenized: `(train, validation)`.

    Validation is `validation_file` if there is one, otherwise `validation_fraction` of the documents, or `None` for a
    fraction of 0.
    """
    separate = None
    if arguments.validation_file is not None:
        separate = open_documents(arguments, tokenizer, arguments.validation_file)
    if arguments.window_characters is not None:
        from .windows import windowed_documents  # that module needs this one

        return windowed_documents(arguments, tokenizer, seed, separate)
    documents = open_documents(arguments, tokenizer)
    if separate is not None:
        return documents, separate
    if arguments.validation_fraction == 0:
        return documents, None
    return split_documents(documents, arguments.validation_fraction, seed, os.path.expanduser(arguments.cache_dir))


def open_documents(
    arguments: CorpusArguments, tokenizer: PreTrainedTokenizerBase, corpus: str | None = None
) -> Documents:
    """The corpus `corpus` (by default the one to train on), tokenized, all of it."""
    cache_dir = os.path.expanduser(arguments.cache_dir)
    return tokenize_corpus(arguments.open(corpus), tokenizer, cache_dir, arguments.preprocessing_num_workers)


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
    few batches of about 250,000 characters (or the longest text), whatever the size of the corpus.

    Args:
        texts: the documents; read twice (once for the fingerprint), so a list or another iterable that starts afresh.
            Blank ones are dropped. A parallel `Corpus` gives documents with `languages` (0 and 1) and `translations`:
            first all texts of the first language, then their translations, which therefore do not share packed rows.
        tokenizer: a fast tokenizer.
        cache_dir: where caches are kept, one folder each.
        num_proc: number of processes, as far as there is work for them; `None` or 1 tokenizes in this one (with the
            tokenizer's threads).
        language: ISO 639 code for finding sentences; a `Corpus` knows its own.
        disable_tqdm: no progress bar; `None` shows one on a terminal.

    Raises:
        ValueError: for a slow tokenizer, an empty corpus, a text that is not valid Unicode or a damaged cache.
        TypeError: for an iterator, which can be read only once, or a document that is not a string.
        ChildProcessError: if one of the processes ends, as when memory runs out.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which does not say where in the text its tokens stand, "
            "as words and sentences need: load a fast one (one with a tokenizer.json), or train one with "
            "scripts/train_tokenizer.py."
        )
    if iter(texts) is texts:
        raise TypeError("`texts` is an iterator, which can be read only once: pass a list or a corpus instead.")
    backend = without_limits(tokenizer.backend_tokenizer)
    specification = backend.to_str()

    languages = texts.languages if isinstance(texts, Corpus) else (language,)
    found = survey(texts, cache_dir)
    versions = {name: version(name) for name in ("tokenizers", "sentencex")}
    settings = json.dumps({"format": FORMAT, "languages": languages, "text": found.digest, **versions})
    fingerprint = hashlib.blake2b(f"{settings}\n{specification}".encode(), digest_size=16).hexdigest()

    directory = Path(cache_dir) / f"documents-{fingerprint}"
    if not directory.exists():
        processes = min(num_proc or 1, found.characters // BATCH_CHARACTERS + 1)
        with tqdm(total=found.characters, unit="char", unit_scale=True, desc="Tokenizing", disable=disable_tqdm) as bar:

            def parts(done: int) -> Iterator[Documents]:
                batches = _batches_by_language(texts, languages, bar.update)
                return _encode_batches(islice(batches, done, None), specification, processes)

            write_documents(directory, parts, _pairs_of_halves if len(languages) == 2 else None)
    documents = read_documents(directory, fingerprint)
    pairs = documents.translations
    if pairs is not None and 2 * len(pairs) < len(documents):  # texts without tokens go, and their translations too
        return select(documents, np.sort(pairs.reshape(-1)), cache_dir)
    return documents


def _pairs_of_halves(offsets: np.ndarray) -> np.ndarray:
    """The second half of the documents as translations of the first, one by one, where both have tokens."""
    pairs = (len(offsets) - 1) // 2
    first = np.flatnonzero((np.diff(offsets) > 1).reshape(2, pairs).all(0))
    return np.stack([first, first + pairs], axis=1)


def _batches_by_language(texts: Iterable[str], languages: Sequence[str], done: Callable[[int], Any]) -> Iterator[Batch]:
    """Batches of the texts; of parallel text all of the first language, then those of the second."""
    if not isinstance(texts, Corpus) or not texts.parallel:
        yield from (Batch(batch, languages[0]) for batch in _batches(texts, done))
        return
    for number, language in enumerate(languages):
        yield from (Batch(batch, language, number) for batch in _batches(texts.side(number), done))


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


def _encode_batches(batches: Iterable[Batch], specification: str, num_proc: int) -> Iterator[Documents]:
    """`Batch.encode` of all, in order, by `num_proc` processes."""
    if num_proc > 1:
        return encode_in_processes(batches, specification, num_proc)
    tokenizer = load_tokenizer(specification)
    return (batch.encode(tokenizer) for batch in batches)
