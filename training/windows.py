"""A corpus too large to keep tokenized, read in windows: consecutive documents of about so many characters.

Windows are tokenized as training gets to them, and only the last few are kept on disk. Window `n` depends on the
corpus, the tokenizer and the size of windows alone, and an epoch of training is one window, shuffled; so the examples
of a run are the same whether it was interrupted or not, and however the corpus is read, and none is lost or repeated.
After the last window the first one follows again.

A process that starts in the middle, after an interruption, reads what lies before without tokenizing it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from filelock import FileLock

from ..objectives.documents import Documents
from .cache import read_documents
from .corpora import Corpus, CorpusArguments
from .documents import tokenize_corpus
from .filters import Row
from .split import split_documents
from .survey import identity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT = 4
"""Windows kept on disk beside the first, which the held-out documents come from."""


class Windows:
    """The windows of a corpus by their numbers, counted on from pass to pass over the corpus.

    Args:
        corpus: read from the beginning whenever a window before the last one read is asked for.
        tokenizer: a fast tokenizer.
        cache_dir: the windows are kept in a folder there.
        characters: least size of a window (the last one of the corpus may be smaller).
        fraction, seed: which documents of the first window are held out (`split_documents`); none if 0.
        num_proc: processes that tokenize.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        cache_dir: str | os.PathLike,
        characters: int,
        fraction: float = 0.0,
        seed: int = 0,
        num_proc: int | None = None,
    ):
        if characters < 1:
            raise ValueError(f"windows need at least one character, not {characters}")
        self.corpus, self.tokenizer, self.characters = corpus, tokenizer, characters
        self.fraction, self.seed, self.num_proc = fraction, seed, num_proc
        key = f"{identity(corpus)} {characters} {tokenizer.backend_tokenizer.to_str()}"
        self.key = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        self.folder = Path(cache_dir) / f"windows-{self.key}"
        self._reader: Iterator[list[Row]] = iter(())
        self._next = -1  # number of the window that the reader gives next; -1: it has to begin anew

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": iter(()), "_next": -1}  # data workers read for themselves

    def __getitem__(self, number: int) -> Documents:
        """Window `number`, whole."""
        return self._window(number)[1]

    def training(self, number: int) -> Documents:
        """Window `number` without what is held out."""
        index, documents = self._window(number)
        return self._split(documents)[0] if index == 0 and self.fraction else documents

    def held_out(self) -> Documents:
        """The held-out documents of the first window."""
        return self._split(self[0])[1]

    def _split(self, first: Documents) -> tuple[Documents, Documents]:
        return split_documents(first, self.fraction, self.seed, self.folder / "first")

    def _window(self, number: int) -> tuple[int, Documents]:
        """The window, and its place in the corpus."""
        while True:
            count = self._read_note("count")
            index = number if count is None else number % count
            folder = self.folder / f"window-{index}"
            fingerprint = self._read_note(f"window-{index}/fingerprint")
            if fingerprint is not None:
                try:
                    return index, read_documents(folder / f"documents-{fingerprint}", fingerprint)
                except ValueError:
                    if folder.is_dir():
                        raise
            self._make(index)  # it was not there yet, or another process has just put it away

    def _make(self, index: int) -> None:
        """Read on to the window, and tokenize it; or find out how many windows there are."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            name = f"window-{index}"
            if self._read_note(f"{name}/fingerprint") is not None:
                return
            if not 0 <= self._next <= index:
                self._reader, self._next = self._rows(), 0
            rows: list[Row] | None = []
            while rows is not None and self._next <= index:
                rows = next(self._reader, None)
                self._next += 1
            if rows is None:
                self._write_note("count", self._next - 1)
                self._next = -1
                return
            window = Corpus(f"window {index}", lambda tally: iter(rows), self.corpus.languages)
            documents = tokenize_corpus(window, self.tokenizer, self.folder / name, self.num_proc)
            self._write_note(f"{name}/fingerprint", documents.fingerprint)
            made = [path for path in self.folder.glob("window-*") if path.name not in ("window-0", name)]
            for old in sorted(made, key=lambda path: path.stat().st_mtime_ns)[: -(KEPT - 1)]:
                shutil.rmtree(old, ignore_errors=True)

    def _rows(self) -> Iterator[list[Row]]:
        """The rows of each window of one pass."""
        rows: list[Row] = []
        size = 0
        for row in self.corpus.rows():
            rows.append(row)
            size += sum(map(len, row))
            if size >= self.characters:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows

    def _read_note(self, name: str) -> Any:
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except FileNotFoundError:
            return None

    def _write_note(self, name: str, value: Any) -> None:
        unfinished = self.folder / f"{name}.unfinished"
        unfinished.write_text(json.dumps(value))
        os.replace(unfinished, self.folder / f"{name}.json")


@dataclass(frozen=True)
class WindowedDocuments(Documents):
    """The first window of a corpus, without what is held out, and the way to the others: an epoch each."""

    windowed: ClassVar[bool] = True
    windows: Windows | None = None

    @classmethod
    def of(cls, windows: Windows) -> WindowedDocuments:
        """From the windows."""
        first = windows.training(0)
        values = {field.name: getattr(first, field.name) for field in fields(Documents)}
        values["fingerprint"] = hashlib.blake2b(
            f"{first.fingerprint} {windows.key}".encode(), digest_size=16
        ).hexdigest()
        return cls(**values, windows=windows)

    def at(self, epoch: int) -> Documents:
        """The documents of window `epoch`."""
        assert self.windows is not None
        return self.windows.training(epoch)


def windowed_documents(
    arguments: CorpusArguments, tokenizer: PreTrainedTokenizerBase, seed: int, separate: Documents | None
) -> tuple[Documents, Documents | None]:
    """As `load_documents`, for a corpus read in windows; `separate` is what to validate on, if not on a part of it."""
    fraction = arguments.validation_fraction if separate is None else 0.0
    cache_dir, num_proc = os.path.expanduser(arguments.cache_dir), arguments.preprocessing_num_workers
    characters = arguments.window_characters or 0
    windows = Windows(arguments.open(), tokenizer, cache_dir, characters, fraction, seed, num_proc)
    return WindowedDocuments.of(windows), windows.held_out() if fraction else separate
