"""`Documents` on disk: a folder of .npy files, written piece by piece and opened memory-mapped.

While a folder is written it bears another name, and every few parts a note is made of what is in it. So a process that
is killed leaves no half-written cache behind; the next one goes on where the last note was made, and its result is the
same to the byte. Of several processes that want the same folder one writes it, and the others wait.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from filelock import FileLock

from ..objectives.documents import Documents

_DTYPES = {
    "tokens": np.int32,
    "offsets": np.int64,
    "word_starts": np.bool_,
    "sentence_starts": np.bool_,
    "languages": np.int16,
}
_OPTIONAL = ("languages", "translations")
_PROGRESS = "progress.json"

NOTE_EVERY = 32
"""Parts between two notes of what is written."""


class _ArrayFile:
    """A one-dimensional .npy file that grows, from its first `size` elements on."""

    def __init__(self, path: Path, dtype: type, size: int = 0):
        self.file = open(path, "r+b" if size else "w+b")  # noqa: SIM115 - whoever makes this closes it
        self.dtype, self.size = np.dtype(dtype), size
        self._write_header()
        self.file.seek(self.file.tell() + size * self.dtype.itemsize)
        self.file.truncate()

    def append(self, values: np.ndarray) -> None:
        values.astype(self.dtype, copy=False).tofile(self.file)
        self.size += len(values)

    def sync(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self) -> None:
        self.file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        # NumPy pads this header for an axis of up to 21 digits, so that its length does not depend on the size
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self.file, header)


def write_documents(
    directory: str | os.PathLike,
    parts: Iterable[Documents] | Callable[[int], Iterable[Documents]],
    translations: np.ndarray | Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Write `parts`, end to end, as the folder `directory`, which appears, by a rename, only when it is complete.

    Args:
        directory: if it is there, or another process completes it first, it stays as it is.
        parts: the documents; or a function of the number of parts that an earlier, interrupted call has written, which
            returns the others.
        translations: of the whole, or how they are found from its offsets; those of the parts are not kept.

    Raises:
        ValueError: if there are no documents.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    with _only_writer(unfinished.with_suffix(".lock")):
        if directory.is_dir():
            return
        try:
            _write(unfinished, parts)
            if translations is not None:
                if callable(translations):
                    translations = translations(np.load(unfinished / "offsets.npy", mmap_mode="r"))
                np.save(unfinished / "translations.npy", translations.astype(np.int64, copy=False))
            os.replace(unfinished, directory)
            (directory / _PROGRESS).unlink(missing_ok=True)
        finally:
            if unfinished.is_dir() and not (unfinished / _PROGRESS).exists():
                shutil.rmtree(unfinished)


@contextmanager
def _only_writer(path: Path):
    """Wait for other processes that write the same folder."""
    with FileLock(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _write(folder: Path, parts: Iterable[Documents] | Callable[[int], Iterable[Documents]]) -> None:
    """Write the arrays, from where the last note in `folder` was made."""
    try:
        progress = json.loads((folder / _PROGRESS).read_text())
    except (OSError, ValueError):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        progress = {"parts": 0, "sizes": {}}
    done: int = progress["parts"]
    files: dict[str, _ArrayFile] = {}
    with ExitStack() as stack:

        def open_files(sizes: dict[str, int]) -> None:
            for name, size in sizes.items():
                files[name] = _ArrayFile(folder / f"{name}.npy", _DTYPES[name], size)
                stack.enter_context(files[name].file)

        open_files(progress["sizes"])
        for part in parts(done) if callable(parts) else islice(parts, done, None):
            if len(part) and not files:
                open_files({name: 0 for name in _DTYPES if getattr(part, name) is not None})
                files["offsets"].append(np.zeros(1))
            if len(part):
                files["offsets"].append(part.offsets[1:] + files["tokens"].size)
                for name in files.keys() - {"offsets"}:
                    files[name].append(getattr(part, name))
            done += 1
            if files and done % NOTE_EVERY == 0:
                for file in files.values():
                    file.sync()
                note = {"parts": done, "sizes": {name: file.size for name, file in files.items()}}
                (folder / "note").write_text(json.dumps(note))
                os.replace(folder / "note", folder / _PROGRESS)
        if not files:
            raise ValueError("The corpus is empty: it has no document with any token in it.")
        for file in files.values():
            file.finish()


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
