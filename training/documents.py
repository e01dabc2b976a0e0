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
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer
from tqdm.auto import tqdm

from ..objectives.documents import Documents, selection_fingerprint
from ..objectives.keyed import combine
from .cache import read_documents, write_documents
from .corpora import CorpusArguments
from .encode import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
"""Version of what a cache holds; raised when that changes, so that older caches are not used."""

BATCH_CHARACTERS = 1_000_000
"""Texts are tokenized in batches of about this many characters."""


def load_documents(
    arguments: CorpusArguments, tokenizer: PreTrainedTokenizerBase, seed: int = 0
) -> tuple[Documents, Documents | None]:
    """The corpus that `arguments` name, tokenized: `(train, validation)`.

    Validation is `validation_file` if there is one, otherwise `validation_fraction` of the documents, or `None` for a
    fraction of 0.
    """
    cache_dir = os.path.expanduser(arguments.cache_dir)

    def tokenize(name: str) -> Documents:
        processes = arguments.preprocessing_num_workers
        return tokenize_corpus(arguments.open(name), tokenizer, cache_dir, processes, arguments.language)

    documents = tokenize(arguments.corpus)
    if arguments.validation_file is not None:
        return documents, tokenize(arguments.validation_file)
    if arguments.validation_fraction == 0:
        return documents, None
    return split_documents(documents, arguments.validation_fraction, seed, cache_dir)


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
