"""`Documents` on disk: a folder of .npy files, written piece by piece and opened memory-mapped."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..objectives.documents import Documents

_DTYPES = {
    "tokens": np.int32,
    "offsets": np.int64,
    "word_starts": np.bool_,
    "sentence_starts": np.bool_,
    "languages": np.int16,  # optional
}


class _ArrayFile:
    """A one-dimensional .npy file that grows."""

    def __init__(self, file: BinaryIO, dtype: type):
        self.file, self.dtype, self.size = file, np.dtype(dtype), 0
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        values.astype(self.dtype, copy=False).tofile(self.file)
        self.size += len(values)

    def finish(self) -> None:
        self.file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        # NumPy pads this header for an axis of up to 21 digits, so that its length does not depend on the size
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self.file, header)


_OPTIONAL = ("languages", "translations")


def write_documents(
    directory: str | os.PathLike,
    parts: Iterable[Documents],
    translations: np.ndarray | Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Write `parts`, end to end, as the folder `directory`, which appears, by a rename, only when it is complete.

    If another process completes the same folder meanwhile, that one stays. `translations` are those of the whole, or
    found from its offsets; what the parts say of theirs is not kept.

    Raises:
        ValueError: if there are no documents.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}-{uuid.uuid4().hex}")
    unfinished.mkdir()
    try:
        parts = (part for part in parts if len(part))
        first = next(parts, None)
        if first is None:
            raise ValueError("The corpus is empty: it has no document with any token in it.")
        names = [name for name in _DTYPES if getattr(first, name) is not None]
        with ExitStack() as stack:
            files = {
                name: _ArrayFile(stack.enter_context(open(unfinished / f"{name}.npy", "wb")), _DTYPES[name])
                for name in names
            }
            files["offsets"].append(np.zeros(1))
            for part in chain([first], parts):
                files["offsets"].append(part.offsets[1:] + files["tokens"].size)
                for name in names:
                    if name != "offsets":
                        files[name].append(getattr(part, name))
            for file in files.values():
                file.finish()
        if translations is not None:
            if callable(translations):
                translations = translations(np.load(unfinished / "offsets.npy", mmap_mode="r"))
            np.save(unfinished / "translations.npy", translations.astype(np.int64, copy=False))
        try:
            os.replace(unfinished, directory)
        except OSError:
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read_documents(directory: str | os.PathLike, fingerprint: str = "") -> Documents:
    """Open the folder `directory`, memory-mapped.

    Raises:
        ValueError: if a file is missing or damaged.
    """
    directory = Path(directory)
    try:
        arrays = {
            name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in (*_DTYPES, "translations")
            if name not in _OPTIONAL or (directory / f"{name}.npy").exists()
        }
    except (OSError, ValueError) as error:
        raise ValueError(f"The cache {directory} is damaged ({error}): delete that folder and run again.") from error
    return Documents(**arrays, fingerprint=fingerprint)
