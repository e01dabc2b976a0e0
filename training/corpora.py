"""Corpora: text files, folders, globs, datasets of the Hugging Face Hub and the embedded corpus, as documents.

A document is a string. Where a line break stands in it, a paragraph ends. Files are read in sorted order, so that a
corpus is the same on every machine; `readers.py` lists their formats. Parallel text is a corpus whose documents are
pairs, a text and its translation:

    --corpus train.en.gz,train.de.gz --language en,de                     two files, line n translates line n
    --corpus pairs.tsv --translation_columns en,ko --language en,ko       two columns of a table or dataset
    --corpus pairs.tsv --translation_columns 1,2 --language en,ko         of a table without header line

A corpus is tokenized once and kept (`documents.py`); one too large for that is read in windows (`windows.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

from .filters import CorpusError, Filters, Row, Tally
from .readers import Rows
from .sources import find_files, names, read_embedded, read_files, read_pairs, read_rows, two_files


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
    streaming: bool = field(
        default=False, metadata={"help": "Read a Hub dataset as it arrives; only its tokens are kept on disk."}
    )
    window_characters: int | None = field(
        default=None,
        metadata={
            "help": "For a corpus too large to keep tokenized: train on windows of so many characters (10000000), one "
            "after another, of which only the last few are kept. Name a tokenizer, or one is trained on all of it."
        },
    )
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

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639 code of each text of a row."""
        return tuple(names(self.language))

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
            streaming=self.streaming,
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
        files, settings: what `read` reads, and how: these tell whether the text is still the same.

    Raises:
        CorpusError: while being read, for text that cannot be read, and at the end if there was none.
    """

    name: str
    read: Callable[[Tally], Rows]
    languages: tuple[str, ...] = ("en",)
    filters: Filters = Filters()
    skip_bad_rows: bool = False
    files: tuple[Path, ...] = ()
    settings: tuple[str | None, ...] = ()

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
            raise CorpusError(
                f"The corpus {self.name!r} is empty: it holds no document with any text{dropped}. Check that it is the "
                "right file and text column, and whether filters leave out all of it."
            )

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
    streaming: bool = False,
) -> Corpus:
    """The corpus that `corpus` names: "embedded", a file, a folder, a glob pattern or a dataset on the Hub.

    Whatever exists locally comes before a dataset of the same name. "a,b", two files (or two patterns that match as
    many), is parallel text, line by line; so are two `translation_columns`. Other arguments are those of
    `CorpusArguments`.

    Raises:
        CorpusError: if nothing of that name is there, a file's format is not known, or the languages are not as many.
    """
    columns = tuple(names(translation_columns)) if translation_columns else (text_column,)
    pairs = two_files(corpus) if not translation_columns else None
    languages = tuple(names(language))
    texts = 1 if len(columns) == 1 and pairs is None else 2
    if len(columns) > 2:
        raise CorpusError(f"--translation_columns names two columns, as in en,ko, not {translation_columns!r}.")
    if len(languages) != texts:
        kind = "parallel text, so name both languages: --language en,de" if texts == 2 else "text of one language"
        raise CorpusError(f"The corpus {corpus!r} is {kind}, not --language {language!r}.")

    read: Callable[[Tally], Rows]
    files: tuple[Path, ...] = ()
    if corpus == "embedded":
        read = partial(read_embedded, cache_dir)
    elif pairs is not None:
        read, files = partial(read_pairs, pairs, text_column), tuple(chain(*pairs))
    elif (paths := find_files(corpus)) is not None:
        read, files = partial(read_files, paths, columns), tuple(paths)
    else:
        read = partial(read_rows, corpus, columns, dataset_config_name, dataset_split, streaming=streaming)
    settings = (*columns, dataset_config_name, dataset_split)
    return Corpus(corpus, read, languages, filters, skip_bad_rows, files, settings)
