"""Corpora: text files, folders, globs, datasets of the Hugging Face Hub and the embedded corpus, as documents.

A document is a string. Where a line break stands in it, a paragraph ends. Files are read in sorted order, so that a
corpus is the same on every machine.

    .txt     an empty line ends a document, other line breaks end a paragraph
    .jsonl   one JSON object a line, its `text_column` a document
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .embedded import embedded_documents


class CorpusError(ValueError):
    """A corpus that cannot be read; the message names the place and the remedy."""


@dataclass
class CorpusArguments:
    """What to train on; an argument group for `HfArgumentParser`."""

    corpus: str = field(
        default="embedded",
        metadata={
            "help": "A file (.txt, .jsonl), a folder, a glob pattern, the name of a dataset on the Hub, or 'embedded': "
            "the English documentation that comes with Python and its packages."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of a Hub dataset, or a slice: train[:10%%]."})
    text_column: str = field(default="text", metadata={"help": "Column of .jsonl files and datasets that is the text."})
    language: str = field(default="en", metadata={"help": "ISO 639 code of the text's language, to find sentences by."})
    validation_file: str | None = field(
        default=None, metadata={"help": "Corpus to validate on (as --corpus); without it a part of the corpus is."}
    )
    validation_fraction: float = field(
        default=0.02, metadata={"help": "Share of the documents to validate on, if there is no --validation_file."}
    )
    cache_dir: str = field(
        default="~/.cache/pretrain_zoo",
        metadata={"help": "Where tokenized text is kept (datasets of the Hub: see HF_HOME)."},
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Number of processes that tokenize (default: this one, with threads)."}
    )

    def open(self, corpus: str | None = None) -> Corpus:
        """The corpus `corpus` (by default, the one to train on), read with these settings."""
        return open_corpus(
            corpus or self.corpus,
            self.text_column,
            self.dataset_config_name,
            self.dataset_split,
            os.path.expanduser(self.cache_dir),
        )


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read any number of times, each time from the beginning; blank ones are left out.

    Raises:
        CorpusError: while being read, for text that cannot be read, and at the end if there was none.
    """

    name: str
    read: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        empty = True
        for document in self.read():
            if document and not document.isspace():
                empty = False
                yield document
        if empty:
            raise CorpusError(f"The corpus {self.name!r} is empty: it holds no document with any text.")


def open_corpus(
    corpus: str = "embedded",
    text_column: str = "text",
    dataset_config_name: str | None = None,
    dataset_split: str = "train",
    cache_dir: str | None = None,
) -> Corpus:
    """The corpus that `corpus` names: "embedded", a file, a folder, a glob pattern or a dataset on the Hub.

    Whatever exists locally comes before a dataset of the same name. Other arguments are those of `CorpusArguments`.

    Raises:
        CorpusError: if nothing of that name is there, or a file's format is not known.
    """
    if corpus == "embedded":
        return Corpus(corpus, lambda: iter(embedded_documents(cache_dir)))
    paths = find_files(corpus)
    if paths is not None:
        return Corpus(corpus, lambda: (text for path in paths for text in READERS[path.suffix](path, text_column)))
    return Corpus(corpus, lambda: read_dataset(corpus, text_column, dataset_config_name, dataset_split))


def find_files(pattern: str) -> list[Path] | None:
    """The files, sorted, that a path, folder or glob pattern stands for; `None` if it can only be a dataset's name.

    A folder stands for all files in and below it that can be read; a pattern or path must name only such files.
    """
    known = ", ".join(READERS)
    path = Path(pattern).expanduser()
    if path.is_dir():
        paths = [p for p in path.rglob("*") if p.is_file() and p.suffix in READERS]
        if not paths:
            raise CorpusError(f"The folder {path} holds no file that can be read; known formats: {known}.")
    elif path.is_file():
        paths = [path]
    elif glob.has_magic(pattern):
        paths = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
        if not paths:
            raise CorpusError(f"No file matches {pattern!r} (in {Path.cwd()}); quote the pattern, ** matches folders.")
    elif path.suffix in READERS or path.is_absolute() or pattern.startswith((".", "~")) or pattern.count("/") > 1:
        raise CorpusError(f"There is no file or folder {pattern!r} (in {Path.cwd()}).")
    else:
        return None
    for path in paths:
        if path.suffix not in READERS:
            raise CorpusError(f"{path}: files ending in {path.suffix!r} cannot be read; known formats: {known}.")
    return sorted(paths)


def read_text(path: Path, text_column: str = "") -> Iterator[str]:
    """Documents of a .txt file: runs of lines, with empty lines between documents."""
    lines: list[str] = []
    for _, line in _lines(path):
        if line and not line.isspace():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def read_json_lines(path: Path, text_column: str) -> Iterator[str]:
    """Documents of a .jsonl file: `text_column` of each object; null is an empty document."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}). A .jsonl file holds one "
                "JSON object on each line."
            ) from error
        if not isinstance(row, dict):
            raise CorpusError(f"{path}, line {number}: not a JSON object with named columns but {type(row).__name__}.")
        yield _column(row, text_column, f"{path}, line {number}")


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {".txt": read_text, ".jsonl": read_json_lines}
"""Reader of each file format, by suffix: called with the path and the name of the text column."""


def read_dataset(
    name: str,
    text_column: str = "text",
    dataset_config_name: str | None = None,
    dataset_split: str = "train",
    **options,
) -> Iterator[str]:
    """Documents of a dataset: `text_column` of each row, null being an empty document.

    `options` go to `datasets.load_dataset`, which also reads local folders and, by builder name, local files.

    Raises:
        CorpusError: for a dataset, configuration, split or column that is not there.
    """
    from datasets import load_dataset  # takes a second to import
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(name, dataset_config_name, split=dataset_split, **options)
    except (DatasetsError, ValueError, OSError) as error:
        raise CorpusError(
            f"The corpus {name!r} is neither 'embedded' nor a file or folder here, and as a dataset (configuration "
            f"{dataset_config_name!r}, split {dataset_split!r}) it cannot be loaded: {error}"
        ) from error
    if text_column not in rows.column_names:
        raise CorpusError(_no_column(f"Dataset {name}", text_column, rows.column_names))
    number = 0
    for batch in rows.select_columns([text_column]).iter(batch_size=1000):
        for text in batch[text_column]:
            yield _column({text_column: text}, text_column, f"Dataset {name}, row {number}")
            number += 1


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, line breaks and a byte order mark removed."""
    position = 0
    with open(path, "rb") as file:
        for number, data in enumerate(file, 1):
            try:
                line = data.decode()
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{path}, line {number}: byte {position + error.start} (0x{data[error.start]:02x}) is not valid "
                    "UTF-8. Convert the file, for example with `iconv -f <its encoding> -t utf-8`."
                ) from error
            position += len(data)
            yield number, (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")


def _column(row: dict, column: str, place: str) -> str:
    """The text of a row."""
    try:
        text = row[column]
    except KeyError:
        raise CorpusError(_no_column(place, column, row)) from None
    if text is None:
        return ""
    if not isinstance(text, str):
        raise CorpusError(f"{place}: column {column!r} holds no text but {type(text).__name__}; see --text_column.")
    return text


def _no_column(place: str, column: str, columns) -> str:
    return (
        f"{place}: there is no column {column!r}, only {', '.join(map(repr, columns))}; choose one with --text_column."
    )
