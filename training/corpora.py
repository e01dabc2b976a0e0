"""Corpora: text files, folders, globs, datasets of the Hugging Face Hub and the embedded corpus, as documents.

A document is a string. Where a line break stands in it, a paragraph ends. Files are read in sorted order, so that a
corpus is the same on every machine; `readers.py` lists their formats. Parallel text is a corpus whose documents are
pairs, a text and its translation:

    --corpus train.en.gz,train.de.gz --language en,de                     two files, line n translates line n
    --corpus pairs.tsv --translation_columns en,ko --language en,ko       two columns of a table or dataset
    --corpus pairs.tsv --translation_columns 1,2 --language en,ko         of a table without header line
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from .embedded import embedded_documents
from .files import COMPRESSIONS, file_format
from .filters import CorpusError, Filters, Row, Tally
from .readers import READERS, Rows, no_column, read_lines, texts_of


@dataclass
class CorpusArguments:
    """What to train on; an argument group for `HfArgumentParser`."""

    corpus: str = field(
        default="embedded",
        metadata={
            "help": "A file (.txt, .jsonl, .json, .csv, .tsv, .parquet; also .gz, .bz2, .xz, .zst), a folder, a glob "
            "pattern, the name of a dataset on the Hub, or 'embedded': the English documentation that comes with "
            "Python and its packages. Two files with a comma between them are parallel text: train.en,train.de."
        },
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of a Hub dataset, or a slice: train[:10%%]."})
    text_column: str = field(
        default="text",
        metadata={"help": "Column of tables and datasets that is the text; a number, from 1, if there is no header."},
    )
    translation_columns: str | None = field(
        default=None,
        metadata={"help": "Two columns that hold texts and their translations: en,ko or, without header, 1,2."},
    )
    language: str = field(
        default="en",
        metadata={"help": "ISO 639 code of the text's language, to find sentences by; of parallel text both: en,ko."},
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Corpus to validate on (as --corpus); without it a part of the corpus is."}
    )
    validation_fraction: float = field(
        default=0.02, metadata={"help": "Share of the documents to validate on, if there is no --validation_file."}
    )
    on_bad_rows: Literal["stop", "skip"] = field(
        default="stop", metadata={"help": "Rows that cannot be read: stop with a message, or skip and count them."}
    )
    min_characters: int = field(default=0, metadata={"help": "Leave out shorter documents."})
    deduplicate: Literal["no", "exact", "near"] = field(
        default="no",
        metadata={"help": "Leave out documents that stood there before, word for word or nearly so (by datasketch)."},
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
            language=self.language,
            translation_columns=self.translation_columns,
            filters=Filters(self.min_characters, self.deduplicate),
            skip_bad_rows=self.on_bad_rows == "skip",
        )


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read any number of times, each time from the beginning; blank ones are left out.

    Iterating gives the texts; of parallel text first all of the first language, then their translations, so that a
    text and its translation do not stand side by side.

    Attributes:
        name: what to call it.
        read: the rows, one text each or a text and its translation; counts what it cannot read.
        languages: ISO 639 code of each text of a row.
        filters: which documents are left out.
        skip_bad_rows: whether rows that cannot be read are counted instead of stopping there.

    Raises:
        CorpusError: while being read, for text that cannot be read, and at the end if there was none.
    """

    name: str
    read: Callable[[Tally], Rows]
    languages: tuple[str, ...] = ("en",)
    filters: Filters = Filters()
    skip_bad_rows: bool = False

    @property
    def parallel(self) -> bool:
        """Whether documents are pairs of translations."""
        return len(self.languages) == 2

    def rows(self, tally: Tally | None = None) -> Iterator[Row]:
        """The rows that pass the filters; `tally`, a new one, counts them."""
        tally = Tally() if tally is None else tally
        tally.skip_bad_rows = self.skip_bad_rows
        yield from self.filters.apply(self.read(tally), tally)
        if not tally.documents:
            dropped = "".join(f"; left out: {count} {reason}" for reason, count in sorted(tally.dropped.items()))
            raise CorpusError(f"The corpus {self.name!r} is empty: it holds no document with any text{dropped}.")

    def side(self, number: int) -> Iterator[str]:
        """The texts of one language."""
        return (row[number] for row in self.rows())

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self.languages)):
            yield from self.side(number)


def open_corpus(
    corpus: str = "embedded",
    text_column: str = "text",
    dataset_config_name: str | None = None,
    dataset_split: str = "train",
    cache_dir: str | None = None,
    *,
    language: str = "en",
    translation_columns: str | None = None,
    filters: Filters = Filters(),  # noqa: B008 - it is immutable
    skip_bad_rows: bool = False,
) -> Corpus:
    """The corpus that `corpus` names: "embedded", a file, a folder, a glob pattern or a dataset on the Hub.

    Whatever exists locally comes before a dataset of the same name. "a,b", two files (or two patterns that match as
    many), is parallel text, line by line; so are two `translation_columns`. Other arguments are those of
    `CorpusArguments`.

    Raises:
        CorpusError: if nothing of that name is there, a file's format is not known, or the languages are not as many.
    """
    columns = _names(translation_columns) if translation_columns else [text_column]
    files = _two_files(corpus) if not translation_columns else None
    languages = tuple(_names(language))
    texts = 1 if len(columns) == 1 and files is None else 2
    if len(columns) > 2:
        raise CorpusError(f"--translation_columns names two columns, as in en,ko, not {translation_columns!r}.")
    if len(languages) != texts:
        kind = "parallel text, so name both languages: --language en,de" if texts == 2 else "text of one language"
        raise CorpusError(f"The corpus {corpus!r} is {kind}, not --language {language!r}.")

    if corpus == "embedded":
        read = partial(_read_embedded, cache_dir)
    elif files is not None:
        read = partial(_read_pairs, files, text_column)
    elif (paths := find_files(corpus)) is not None:
        read = partial(_read_files, paths, columns)
    else:
        read = partial(_read_dataset, corpus, columns, dataset_config_name, dataset_split)
    return Corpus(corpus, read, languages, filters, skip_bad_rows)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def find_files(pattern: str, any_format: bool = False) -> list[Path] | None:
    """The files, sorted, that a path, folder or glob pattern stands for; `None` if it can only be a dataset's name.

    A folder stands for all files in and below it that can be read; a pattern or path must name only such files, unless
    `any_format`.
    """
    known = f"{', '.join(READERS)}, and {', '.join(COMPRESSIONS)} of them"
    path = Path(pattern).expanduser()
    if path.is_dir():
        paths = [p for p in path.rglob("*") if p.is_file() and file_format(p) in READERS]
        if not paths:
            raise CorpusError(f"The folder {path} holds no file that can be read; known formats: {known}.")
    elif path.is_file():
        paths = [path]
    elif glob.has_magic(pattern):
        paths = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
        if not paths:
            raise CorpusError(f"No file matches {pattern!r} (in {Path.cwd()}); quote the pattern, ** matches folders.")
    elif file_format(path) in READERS or path.is_absolute() or pattern.startswith((".", "~")) or pattern.count("/") > 1:
        raise CorpusError(f"There is no file or folder {pattern!r} (in {Path.cwd()}).")
    else:
        return None
    for path in paths:
        if not any_format and file_format(path) not in READERS:
            raise CorpusError(f"{path}: files ending in {path.suffix!r} cannot be read; known formats: {known}.")
    return sorted(paths)


def _two_files(corpus: str) -> list[tuple[Path, Path]] | None:
    """Pairs of files for "a,b"; `None` for what is not of that form."""
    sides = _names(corpus)
    if len(sides) < 2 or Path(corpus).expanduser().exists():
        return None
    if len(sides) > 2:
        raise CorpusError(f"Parallel text is two files with a comma between them, not {len(sides)}: {corpus!r}.")
    found = []
    for side in sides:
        paths = find_files(side, any_format=True)
        if paths is None:
            raise CorpusError(f"There is no file {side!r} (in {Path.cwd()}), one side of the parallel text {corpus!r}.")
        found.append(paths)
    if len(found[0]) != len(found[1]):
        raise CorpusError(f"{corpus!r}: {len(found[0])} file(s) on one side, {len(found[1])} on the other.")
    return list(zip(*found))


def _read_embedded(cache_dir: str | None, tally: Tally) -> Rows:
    return ((text,) for text in embedded_documents(cache_dir))


def _read_files(paths: Sequence[Path], columns: Sequence[str], tally: Tally) -> Rows:
    for path in paths:
        if len(columns) == 2 and file_format(path) == ".txt":
            raise CorpusError(f"{path}: a .txt file has no columns; give two files, or a .tsv file.")
        before = tally.documents, tally.dropped.total()
        yield from READERS[file_format(path)](path, columns, tally)
        if len(paths) > 1 and before == (tally.documents, tally.dropped.total()):
            tally.bad("empty file", f"{path}: the file is empty. Remove it.")


def _read_pairs(pairs: Sequence[tuple[Path, Path]], text_column: str, tally: Tally) -> Rows:
    """Rows of two files side by side: lines, or `text_column` where a file is a table."""
    end = object()
    for pair in pairs:
        sides = []
        for path in pair:
            form = file_format(path)
            reader = READERS[form] if form in READERS and form != ".txt" else read_lines
            sides.append(reader(path, [text_column], tally))
        for number, texts in enumerate(zip_longest(*sides, fillvalue=end)):
            if end in texts:
                shorter, longer = pair if texts[0] is end else pair[::-1]
                raise CorpusError(
                    f"{shorter} ends after {number} rows, but {longer} goes on. Row n of one must translate row n of "
                    "the other: find where they part, or fetch them anew."
                )
            yield None if None in texts else (texts[0][0], texts[1][0])


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
    rows = _read_dataset(name, [text_column], dataset_config_name, dataset_split, Tally(), **options)
    return (row[0] for row in rows if row is not None)


def _read_dataset(
    name: str, columns: Sequence[str], config: str | None, split: str, tally: Tally, **options: Any
) -> Rows:
    from datasets import load_dataset  # takes a second to import
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(name, config, split=split, **options)
    except (DatasetsError, ValueError, OSError) as error:
        raise CorpusError(
            f"The corpus {name!r} is neither 'embedded' nor a file or folder here, and as a dataset (configuration "
            f"{config!r}, split {split!r}) it cannot be loaded: {error}"
        ) from error
    there = rows.column_names
    tops = list(dict.fromkeys(column if column in there else column.partition(".")[0] for column in columns))
    if any(top not in there for top in tops):
        raise CorpusError(no_column(f"Dataset {name}", columns, there))
    number = 0
    for batch in rows.select_columns(tops).iter(batch_size=1000):
        for values in zip(*(batch[top] for top in tops)):
            yield texts_of(dict(zip(tops, values)), columns, f"Dataset {name}, row {number}", tally)
            number += 1
