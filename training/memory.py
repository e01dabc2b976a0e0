"""Segment memory of a run: what the rows of a micro-batch carry from one optimizer step to the next.

Row `b` of the global batch reads stream `b`, and micro-batch `i` of a process holds the same rows in every step. So
memory is kept by micro-batch, and in checkpoints by stream, for any other division into micro-batches and processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Carry = tuple[torch.Tensor, ...]


class StreamMemory:
    """Memory of the streams that one process reads.

    Args:
        rows: rows of a micro-batch.
        rank, world: this process and the number of processes.
    """

    def __init__(self, rows: int, rank: int, world: int):
        self.rows, self.rank, self.world = rows, rank, world
        self._carries: dict[int, Carry] = {}

    def streams(self, micro_batch: int) -> torch.Tensor:
        """Streams of a micro-batch, int64 `[rows]`."""
        return (micro_batch * self.world + self.rank) * self.rows + torch.arange(self.rows)

    def get(self, micro_batch: int, device: torch.device) -> Carry | None:
        """What the model carries into a micro-batch; `None` in the first step."""
        carry = self._carries.get(micro_batch)
        return None if carry is None else tuple(layer.to(device) for layer in carry)

    def set(self, micro_batch: int, carry: Any) -> None:
        """Keep what the model returned; it holds a tensor `[rows, …]` per layer, or is `None`."""
        if carry is not None:
            self._carries[micro_batch] = tuple(carry)

    def save(self, directory: Path) -> None:
        """Write this process's streams; each process writes a file of its own."""
        if not self._carries:
            return
        order = sorted(self._carries)
        layers = zip(*(self._carries[i] for i in order), strict=True)
        tensors = {f"{i:03d}": torch.cat(parts).cpu().contiguous() for i, parts in enumerate(layers)}
        tensors["streams"] = torch.cat([self.streams(i) for i in order])
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / f"memory_{self.rank}.safetensors")

    def load(self, directory: Path) -> None:
        """Take this process's streams from what any number of processes wrote."""
        self._carries = {}
        files = [load_file(path) for path in sorted(directory.glob("memory_*.safetensors"))]
        if not files:
            return
        order = torch.argsort(torch.cat([file.pop("streams") for file in files]))
        layers = [torch.cat([file[name] for file in files])[order] for name in sorted(files[0])]
        for micro_batch in range(len(order) // (self.rows * self.world)):
            self._carries[micro_batch] = tuple(layer[self.streams(micro_batch)] for layer in layers)
