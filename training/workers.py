"""Processes that tokenize: `python -m pretrain_zoo.training.workers`, which reads batches and writes documents.

They share nothing with the process that starts them but two pipes. So they import what tokenizing needs and no more
(not the main module, not torch, which would take longer than tokenizing a few million characters), no lock or thread of
the other process can be in their way, and they end when their input does: none outlives the one it works for.

Input is a line of JSON for each message, first the tokenizer's specification, then batches. Output is, for each batch,
a line of JSON with the arrays' names, types and lengths, and then their bytes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import fields
from queue import SimpleQueue
from typing import IO, Any

import numpy as np

from ..objectives.documents import Documents
from .encode import Batch, load_tokenizer

AHEAD = 3
"""Batches for each process that are read before their documents are asked for."""


def encode_in_processes(batches: Iterable[Batch], specification: str, num_proc: int) -> Iterator[Documents]:
    """`Batch.encode` of all batches, in order, by `num_proc` processes, which run at most a few batches ahead.

    Args:
        specification: content of `tokenizer.json`.

    Raises `ChildProcessError` if one of them ends.
    """
    idle: SimpleQueue[Worker] = SimpleQueue()

    def encode(batch: Batch) -> Documents:
        worker = idle.get()
        try:
            return worker.encode(batch)
        finally:
            idle.put(worker)

    with ExitStack() as stack:  # left in reverse order: once the processes have ended, no thread waits for one
        workers = [Worker(specification) for _ in range(num_proc)]
        for worker in workers:
            stack.callback(worker.close)
            idle.put(worker)
        threads = stack.enter_context(ThreadPoolExecutor(num_proc))
        for worker in workers:
            stack.callback(worker.process.kill)
        running: deque[Future[Documents]] = deque()
        for batch in batches:
            running.append(threads.submit(encode, batch))
            if len(running) > AHEAD * num_proc:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


class Worker:
    """A process that tokenizes, for one thread at a time."""

    def __init__(self, specification: str):
        self.unsent: list[Any] = [specification]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {**os.environ, **threads, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-P", "-m", __name__]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,  # a terminal's Ctrl-C is for the process that it works for
        )

    def encode(self, batch: Batch) -> Documents:
        """The batch's documents. Raises `ChildProcessError` if the process has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            for message in (*self.unsent, batch):
                self.process.stdin.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
            self.process.stdin.flush()
            self.unsent = []
            return _read(self.process.stdout)
        except (OSError, ValueError) as error:
            raise ChildProcessError(self._ending()) from error

    def _ending(self) -> str:
        try:
            status = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "a process that tokenizes gave no documents; what it printed stands above"
        if status < 0:
            how = f"was ended by {signal.Signals(-status).name}, as when memory runs out"
        else:
            how = f"ended with status {status}; what it printed stands above"
        return f"a process that tokenizes {how}. What is done is kept; --preprocessing_num_workers 1 needs no processes"

    def close(self) -> None:
        """Wait for the end of the process and close its pipes."""
        with suppress(BrokenPipeError), self.process:  # what it did not read is lost
            pass


def _write(documents: Documents, file: IO[bytes]) -> None:
    values = {field.name: getattr(documents, field.name) for field in fields(documents)}
    arrays = {name: value for name, value in values.items() if hasattr(value, "dtype")}
    file.write(json.dumps({name: (array.dtype.str, len(array)) for name, array in arrays.items()}).encode() + b"\n")
    for array in arrays.values():
        file.write(array.tobytes())
    file.flush()


def _read(file: IO[bytes]) -> Documents:
    """What `_write` wrote. Raises `ValueError` where the file ends early."""
    arrays: dict[str, Any] = {}
    for name, (kind, size) in json.loads(file.readline()).items():
        dtype = np.dtype(kind)
        data = file.read(size * dtype.itemsize)
        arrays[name] = np.frombuffer(data, dtype, size)
    return Documents(**arrays)


def main() -> None:
    """Tokenize what arrives until there is no more, or nobody reads what comes of it."""
    lines = iter(sys.stdin.buffer)
    try:
        for specification in lines:  # the first; there is none if the other process has ended already
            tokenizer = load_tokenizer(json.loads(specification))
            for line in lines:
                _write(Batch(*json.loads(line)).encode(tokenizer), sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(1)  # without the attempt to write the rest


if __name__ == "__main__":
    main()
