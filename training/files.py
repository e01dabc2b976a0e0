"""Opening files, compressed or not, and reading their lines, with the place of whatever is wrong in them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .filters import Tally

MAX_BYTES = 1 << 26
"""Longest line, and longest document of a .txt file, that is read: more is a sign of a wrong format."""

BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged file raises."""

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files."""


def file_format(path: Path) -> str:
    """The suffix that tells a file's format, that of its compression left out."""
    return path.with_suffix("").suffix if path.suffix in COMPRESSIONS else path.suffix


def open_binary(path: Path) -> BinaryIO:
    """The file's content as a stream of bytes, decompressed as its last suffix says."""
    if path.suffix == ".zst":
        import pyarrow  # takes a moment to import

        stream: Any = pyarrow.input_stream(str(path), compression="zstd")
        return io.BufferedReader(stream, 1 << 16)
    if path.suffix in COMPRESSIONS:
        openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
        return openers[path.suffix](path)
    return open(path, "rb")


def numbered_lines(path: Path, tally: Tally) -> Iterator[tuple[int, str | None]]:
    """Lines of a UTF-8 file with their numbers and line breaks, a byte order mark removed; `None` for a bad line."""
    position = number = 0
    with open_binary(path) as file:
        while True:
            try:
                data = file.readline(MAX_BYTES)
            except BROKEN as error:
                tally.bad("damaged file", damaged_message(path, f"after line {number}", error))
                return
            if not data:
                return
            number += 1
            if len(data) == MAX_BYTES:
                position += _skip_line(file, data)
                tally.bad(
                    "line too long",
                    f"{path}, line {number}: longer than {MAX_BYTES >> 20} MiB, so this is hardly text in lines. "
                    "Break the text into documents.",
                )
                yield number, None
                continue
            try:
                line = data.decode()
            except UnicodeDecodeError as error:
                tally.bad(
                    "not UTF-8",
                    f"{path}, line {number}: byte {position + error.start} (0x{data[error.start]:02x}) is not valid "
                    "UTF-8. Convert the file, for example with `iconv -f <its encoding> -t utf-8`.",
                )
                yield number, None
            else:
                yield number, line.removeprefix("\ufeff") if number == 1 else line
            position += len(data)


def _skip_line(file: BinaryIO, data: bytes) -> int:
    size = len(data)
    while data and not data.endswith(b"\n"):
        data = file.readline(1 << 20)
        size += len(data)
    return size


def damaged_message(path: Path, place: str, error: BaseException) -> str:
    """What to say of a file that cannot be read on."""
    return f"{path}: damaged or cut off {place} ({error or type(error).__name__}). Fetch or make the file anew."
