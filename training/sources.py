"""What a corpus is read from: files that a name or pattern stands for, the embedded corpus, datasets of the Hub."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .embedded import embedded_documents
from .files import COMPRESSIONS, file_format
from .filters import CorpusError, Tally
from .readers import READERS, Rows, no_column, read_lines, texts_of


def names(text: str) -> list[str]:
    """What stands between commas."""
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


def two_files(corpus: str) -> list[tuple[Path, Path]] | None:
    """Pairs of files for "a,b"; `None` for what is not of that form."""
    sides = names(corpus)
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


def read_embedded(cache_dir: str | None, tally: Tally) -> Rows:
    """Rows of the embedded corpus."""
    return ((text,) for text in embedded_documents(cache_dir))


def read_files(paths: Sequence[Path], columns: Sequence[str], tally: Tally) -> Rows:
    """Rows of files, one after another."""
    for path in paths:
        if len(columns) == 2 and file_format(path) == ".txt":
            raise CorpusError(f"{path}: a .txt file has no columns; give two files, or a .tsv file.")
        before = tally.documents, tally.dropped.total()
        yield from READERS[file_format(path)](path, columns, tally)
        if len(paths) > 1 and before == (tally.documents, tally.dropped.total()):
            tally.bad("empty file", f"{path}: the file is empty. Remove it.")


def read_pairs(pairs: Sequence[tuple[Path, Path]], text_column: str, tally: Tally) -> Rows:
    """Rows of two files side by side: lines, or `text_column` where a file is a table."""
    end: Any = object()
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
    rows = read_rows(name, [text_column], dataset_config_name, dataset_split, Tally(), **options)
    return (row[0] for row in rows if row is not None)


def read_rows(name: str, columns: Sequence[str], config: str | None, split: str, tally: Tally, **options: Any) -> Rows:
    """Rows of a dataset; arguments as for `read_dataset`."""
    from datasets import load_dataset  # takes a second to import
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(name, config, split=split, **options)
    except (DatasetsError, ValueError, OSError) as error:
        raise CorpusError(
            f"The corpus {name!r} is neither 'embedded' nor a file or folder here, and as a dataset (configuration "
            f"{config!r}, split {split!r}) it cannot be loaded: {error}"
        ) from error
    there = rows.column_names or list(next(iter(rows), {}))  # a stream may not know them
    tops = list(dict.fromkeys(column if column in there else column.partition(".")[0] for column in columns))
    if any(top not in there for top in tops):
        raise CorpusError(no_column(f"Dataset {name}", columns, there))
    number = 0
    for batch in rows.select_columns(tops).iter(batch_size=1000):
        for values in zip(*(batch[top] for top in tops)):
            yield texts_of(dict(zip(tops, values)), columns, f"Dataset {name}, row {number}", tally)
            number += 1
