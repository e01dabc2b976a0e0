"""Reading files: plain or compressed, row by row, with the place of whatever is wrong in them.

    .txt             an empty line ends a document, other line breaks end a paragraph
    .jsonl           one JSON object a line
    .json            the same, or one array of objects
    .csv             a header line; fields may be quoted
    .tsv             a header line; cut at tabs, quotes are ordinary characters
    .parquet         one row a document

Each but .parquet may be compressed: .gz, .bz2, .xz, .zst. Columns of .csv and .tsv files without a header line are
called by their numbers, from 1.

A reader yields rows: the texts of the columns asked for. `None` stands for a row that could not be read and was
counted, so that rows of two files stay side by side.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from .files import BROKEN, MAX_BYTES, damaged_message, numbered_lines, open_binary
from .filters import Row, Tally

Rows = Iterator[Row | None]


def read_lines(path: Path, columns: Sequence[str], tally: Tally) -> Rows:
    """Every line of a file, as a row."""
    for _, line in numbered_lines(path, tally):
        yield None if line is None else (line.rstrip("\r\n"),)


def read_text(path: Path, columns: Sequence[str], tally: Tally) -> Rows:
    """Documents of a .txt file: runs of lines, with empty lines between documents."""
    lines: list[str] = []
    size = 0
    for number, line in numbered_lines(path, tally):
        if line is None:
            continue
        line = line.rstrip("\r\n")
        if line and not line.isspace():
            size += len(line)
            if size <= MAX_BYTES:
                lines.append(line)
            elif lines:
                lines = []
                message = f"{path}, line {number}: a document of more than {MAX_BYTES >> 20} MiB ends here or later. "
                tally.bad("document too long", message + "Separate documents by empty lines.")
        else:
            if lines:
                yield ("\n".join(lines),)
            lines, size = [], 0
    if lines:
        yield ("\n".join(lines),)


def read_json_lines(path: Path, columns: Sequence[str], tally: Tally) -> Rows:
    """Rows of a .jsonl file; null is an empty text."""
    for number, line in numbered_lines(path, tally):
        if line is None:
            yield None
        elif line.strip():
            place = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                reason = f" ({error.msg} at column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
                tally.bad("not JSON", f"{place}: not valid JSON{reason}. A .jsonl file holds one JSON object per line.")
                yield None
            else:
                yield texts_of(row, columns, place, tally)


def read_json(path: Path, columns: Sequence[str], tally: Tally) -> Rows:
    """Rows of a .json file: an array of objects, decoded one by one, or one object a line."""
    try:
        with open_binary(path) as file:
            array = re.match(rb"(\xef\xbb\xbf)?\s*\[", file.read(4096)) is not None
    except BROKEN:
        array = False  # the other reader will say what is wrong
    if not array:
        yield from read_json_lines(path, columns, tally)
        return
    number = 0
    try:
        with io.TextIOWrapper(open_binary(path), "utf-8-sig") as file:
            for number, item in enumerate(_array_items(file), 1):
                yield texts_of(item, columns, f"{path}, item {number}", tally)
    except json.JSONDecodeError as error:
        tally.bad("not JSON", f"{path}, item {number + 1}: not valid JSON or cut off ({error.msg}). Repair the file.")
    except UnicodeDecodeError:
        tally.bad("not UTF-8", f"{path}, after item {number}: not valid UTF-8. Convert the file, for example by iconv.")
    except BROKEN as error:
        tally.bad("damaged file", damaged_message(path, f"after item {number}", error))


def _array_items(file: TextIO) -> Iterator[Any]:
    """Items of a JSON array. Memory holds the longest one, or `MAX_BYTES`."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    text = file.read(1 << 16)
    at = text.index("[") + 1
    while True:
        at = between.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "]":
            return
        try:
            item, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            more = file.read(max(len(text) - at, 1 << 16)) if len(text) - at < MAX_BYTES else ""
            if not more:
                raise
            text, at = text[at:] + more, 0
        else:
            yield item


def read_csv(path: Path, columns: Sequence[str], tally: Tally) -> Rows:
    """Rows of a .csv file, with fields that may be quoted."""
    csv.field_size_limit(MAX_BYTES)
    lines = (line for _, line in numbered_lines(path, tally) if line is not None)
    reader = csv.reader(lines, strict=True)

    def fields() -> Iterator[tuple[int, list[str] | None]]:
        while True:
            try:
                yield reader.line_num + 1, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                place = f"{path}, line {reader.line_num}"
                tally.bad("not CSV", f"{place}: not valid CSV ({error}). Quote fields that hold commas or line breaks.")
                yield reader.line_num, None

    yield from _table(path, fields(), columns, tally)


def read_tsv(path: Path, columns: Sequence[str], tally: Tally) -> Rows:
    """Rows of a .tsv file, cut at tabs."""
    lines = numbered_lines(path, tally)
    fields = ((number, None if line is None else line.rstrip("\r\n").split("\t")) for number, line in lines)
    yield from _table(path, fields, columns, tally)


def _table(path: Path, rows: Iterable[tuple[int, list[str] | None]], columns: Sequence[str], tally: Tally) -> Rows:
    """The columns of a table, by the names in its first row or by numbers from 1."""
    rows = iter(rows)
    if all(column.isdigit() for column in columns):
        places = [int(column) - 1 for column in columns]
    else:
        header = next((fields for _, fields in rows if fields is not None), None)
        if header is None:
            return
        if any(column not in header for column in columns):
            tally.bad("missing column", no_column(str(path), columns, header) + "; without a header line, by number")
            return
        places = [header.index(column) for column in columns]
    for number, fields in rows:
        if fields is None:
            yield None
        elif not any(fields):
            yield ("",) * len(columns)
        elif len(fields) <= max(places):
            count = f"{len(fields)} column" + "s" * (len(fields) > 1)
            message = f"{path}, line {number}: only {count}, but column {max(places) + 1} is asked for."
            tally.bad("missing column", message)
            yield None
        else:
            yield tuple(fields[i] for i in places)


def read_parquet(path: Path, columns: Sequence[str], tally: Tally) -> Rows:
    """Rows of a .parquet file, a batch at a time."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            tops = [column if column in names else column.partition(".")[0] for column in columns]
            if any(top not in names for top in tops):
                tally.bad("missing column", no_column(str(path), columns, names))
                return
            for batch in file.iter_batches(1000, columns=list(dict.fromkeys(tops))):
                for i in range(batch.num_rows):
                    number += 1
                    place = f"{path}, row {number}"
                    try:
                        row = {top: batch.column(top)[i].as_py() for top in tops}
                    except UnicodeDecodeError:
                        tally.bad("not UTF-8", f"{place}: not valid UTF-8. Write the file anew from repaired text.")
                        yield None
                    else:
                        yield texts_of(row, columns, place, tally)
    except (ArrowException, OSError) as error:
        tally.bad("damaged file", damaged_message(path, f"after row {number}", error))


def texts_of(row: Any, columns: Sequence[str], place: str, tally: Tally) -> Row | None:
    """The texts of `columns` in an object; null is an empty text. "translation.en" is "en" within "translation"."""
    if not isinstance(row, Mapping):
        tally.bad("no object", f"{place}: not a JSON object with named columns but {type(row).__name__}.")
        return None
    texts = []
    for column in columns:
        value = row.get(column, row)
        if value is row:
            for key in column.split("."):
                value = value.get(key, row) if isinstance(value, Mapping) else row
                if value is row:
                    tally.bad("missing column", no_column(place, columns, row))
                    return None
        if value is None:
            value = ""
        if not isinstance(value, str):
            kind = type(value).__name__
            tally.bad("no text", f"{place}: column {column!r} holds no text but {kind}; see --text_column.")
            return None
        texts.append(value)
    if not all(text.isascii() or _is_unicode(text) for text in texts):
        tally.bad("not Unicode", f"{place}: half a surrogate pair, which is not text. Repair or remove that row.")
        return None
    return tuple(texts)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def no_column(place: str, columns: Sequence[str], there: Iterable[str]) -> str:
    """What to say of a place that lacks one of `columns`."""
    there = list(there)
    missing = next((column for column in columns if column not in there), columns[0])
    option = "--text_column" if len(columns) == 1 else "--translation_columns"
    return f"{place}: there is no column {missing!r}, only {', '.join(map(repr, there))}; choose with {option}"


READERS: dict[str, Callable[[Path, Sequence[str], Tally], Rows]] = {
    ".txt": read_text,
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
"""Reader of each file format, by suffix."""
