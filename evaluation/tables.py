"""Reading tables of text as columns of strings: GLUE's unquoted TSV, CSV, and JSON lines, plain, .gz or .xz."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

Columns = dict[str, list[str]]
"""Columns by name, all of one length."""


class DataError(ValueError):
    """A table or dataset that cannot be used; the message names the place and the remedy."""


def read_columns(
    path: Path,
    names: Sequence[str],
    *,
    header: Sequence[str] | None = None,
    skip_short_rows: bool = False,
) -> Columns:
    """The columns `names` of a table.

    A .tsv file is split at tabs and line breaks only: GLUE's files are not quoted, and a reader that takes `"` for a
    quote joins rows. A .csv file is quoted the usual way. A .jsonl (or .json) file holds one object on each line;
    numbers and truth values become the text JSON writes them as.

    Args:
        path: file, its name ending in .tsv, .csv, .jsonl or .json, and .gz or .xz behind that if it is compressed.
        names: columns to read.
        header: names of the columns of a file whose first line is data already.
        skip_short_rows: leave out rows that end before the last of the columns, as a few of QQP's do; otherwise they
            are errors.

    Raises:
        DataError: no such file, unknown format, bytes that are not UTF-8, a column that is not there, a row that is
            too short, not JSON or null there, with file and line.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    suffix = next((s for s in reversed(path.suffixes) if s not in (".gz", ".xz")), "")
    if suffix not in (".tsv", ".csv", ".jsonl", ".json"):
        raise DataError(f"{path}: files ending in {suffix!r} are not known; known are .tsv, .csv and .jsonl")
    try:
        with _open(path) as file:
            if suffix in (".jsonl", ".json"):
                return _from_objects(path, file, names)
            rows = _tsv_rows(file) if suffix == ".tsv" else csv.reader(file)
            return _from_rows(path, rows, names, header, skip_short_rows)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}); convert it, for example with iconv -t utf-8") from error


def read_header(path: Path) -> list[str]:
    """Names of the columns: the first line of a .tsv or .csv file, the keys of the first object of a .jsonl file."""
    with _open(path) as file:
        if ".jsonl" in path.suffixes or ".json" in path.suffixes:
            return list(_object(path, 1, next(file, "{}")))
        return next(_tsv_rows(file) if ".tsv" in path.suffixes else csv.reader(file), [])


def _open(path: Path) -> IO[str]:
    opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    # newline: a lone carriage return inside a field is text; utf-8-sig: MRPC's files begin with a byte order mark
    return opener(path, "rt", encoding="utf-8-sig", newline="\n" if ".tsv" in path.suffixes else "")


def _tsv_rows(file: IO[str]) -> Iterator[list[str]]:
    for line in file:
        yield line.rstrip("\r\n").split("\t")


def _from_rows(
    path: Path, rows: Iterator[list[str]], names: Sequence[str], header: Sequence[str] | None, skip_short_rows: bool
) -> Columns:
    first = 1
    if header is None:
        header, first = next(rows, []), 2
    places = [_place(path, name, header) for name in names]
    width = max(places) + 1
    kept = []
    for number, row in enumerate(rows, first):
        if len(row) >= width:
            kept.append([row[place] for place in places])
        elif any(row) and not skip_short_rows:
            raise DataError(
                f"{path}, line {number}: {len(row)} columns, and {names[places.index(width - 1)]!r} is column {width}"
            )
    return {name: list(values) for name, values in zip(names, zip(*kept) if kept else [()] * len(names), strict=True)}


def _from_objects(path: Path, file: IO[str], names: Sequence[str]) -> Columns:
    columns: Columns = {name: [] for name in names}
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        row = _object(path, number, line)
        for name in names:
            if name not in row:
                _place(f"{path}, line {number}", name, list(row))
            value = row[name]
            if value is None:
                raise DataError(f"{path}, line {number}: {name!r} is null; fill it in, or leave the line out")
            columns[name].append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return columns


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not JSON ({error.msg}); a .jsonl file holds one object on each line"
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: not an object with named columns but {type(row).__name__}")
    return row


def _place(where: Any, name: str, header: Sequence[str]) -> int:
    if name not in header:
        raise DataError(f"{where}: there is no column {name!r}; it has {', '.join(map(repr, header)) or 'none'}")
    return list(header).index(name)
