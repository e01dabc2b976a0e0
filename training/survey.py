"""Reading a corpus once before anything else: what tells its text from other text, and how much there is of it.

What is found is kept in `cache_dir` for corpora of files, as long as these stay as they are, so that a later start need
not read them again.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..objectives.documents import Documents
from .corpora import Corpus
from .filters import Row, Tally

FORMAT = 1
"""Version of what is kept and of how files are read; raised when that changes."""


@dataclass(frozen=True)
class Survey:
    """What a reading of a corpus finds.

    Attributes:
        digest: equal for equal texts in equal order, whatever they were read from.
        documents: their number; of parallel text, of pairs.
        characters: of all texts.
        dropped: how many documents and rows were left out, by the reason.
    """

    digest: str
    documents: int
    characters: int
    dropped: dict[str, int] = field(default_factory=dict)


def survey(texts: Iterable[str], cache_dir: str | os.PathLike | None = None) -> Survey:
    """Read a corpus, or any iterable of texts, or remember what reading it found.

    Raises:
        TypeError: for a document that is not a string.
        ValueError: for one that is not valid Unicode, and whatever the corpus raises.
    """
    if not isinstance(texts, Corpus):
        return _read(((text,) for text in texts), 1, Tally())
    if not texts.files or cache_dir is None:
        return _read_corpus(texts)
    path = Path(cache_dir) / f"survey-{identity(texts)}.json"
    try:
        return Survey(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        found = _read_corpus(texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    unfinished.write_text(json.dumps(asdict(found)))
    os.replace(unfinished, path)
    return found


def _read_corpus(corpus: Corpus) -> Survey:
    tally = Tally()
    return _read(corpus.rows(tally), len(corpus.languages), tally)


def _read(rows: Iterable[Row], texts: int, tally: Tally) -> Survey:
    digests = [hashlib.blake2b(digest_size=16) for _ in range(texts)]
    number, characters = -1, 0
    for number, row in enumerate(rows):
        for digest, text in zip(digests, row):
            digest.update(_bytes(text, number))
            characters += len(text)
    return Survey("-".join(d.hexdigest() for d in digests), number + 1, characters, dict(tally.dropped))


def _bytes(text: str, number: int) -> bytes:
    """What the digest takes of a document: its length and its text."""
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


def identity(corpus: Corpus) -> str:
    """Changes with what a corpus is read from and how, and with its files; told without reading it."""
    files = []
    for path in corpus.files:
        stat = path.stat()
        files.append((str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    read = (corpus.settings, corpus.languages, corpus.filters, corpus.skip_bad_rows)
    return hashlib.blake2b(repr((FORMAT, files or corpus.name, read)).encode(), digest_size=16).hexdigest()


def summary(corpus: Corpus, found: Survey, *parts: Documents) -> str:
    """A line or two: documents, characters, tokens (of each language), and what was left out, with reasons.

    `parts` are what the corpus became: all of it, or what is trained on and what is held out of it.
    """
    kind = "pairs of translations" if corpus.parallel else "documents"
    tokens = f"{sum(part.num_tokens for part in parts):,} tokens"
    if corpus.parallel:
        counts = np.zeros(2)
        for part in parts:
            assert part.languages is not None
            counts += np.bincount(part.languages, np.diff(part.offsets) - 1, minlength=2)
        tokens += f" ({', '.join(f'{name} {count:,.0f}' for name, count in zip(corpus.languages, counts))})"
    line = f"{corpus.name}: {found.documents:,} {kind}, {found.characters:,} characters, {tokens}"
    untokenized = found.documents - sum(map(len, parts)) // len(corpus.languages)
    dropped = found.dropped | ({"without tokens": untokenized} if untokenized > 0 else {})
    if dropped:
        line += "\nleft out: " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()))
    return line
