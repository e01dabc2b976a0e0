"""Means over batches and processes, as sums and counts."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Sums:
    """Sums and counts by name, added up on the device; nothing waits for it until `means`.

    Args:
        device: where; sums are kept in float64, where the device has it.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self._pairs: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add scalars."""
        pair = torch.stack([total.detach().to(self.device, self.dtype), count.to(self.device, self.dtype)])
        self._pairs[name] = self._pairs[name] + pair if name in self._pairs else pair

    def means(self, empty: float | None = 0.0) -> dict[str, float]:
        """Σ sum / Σ count over all processes; a name that a process lacks adds nothing there.

        All processes must call it. Names without a count have the value `empty`, or are left out if it is `None`.
        """
        names = sorted(self._pairs)
        together = dist.is_initialized() and dist.get_world_size() > 1
        if together:
            everywhere: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(everywhere, names)
            names = sorted({name for part in everywhere for name in part})
        if not names:
            return {}
        nothing = torch.zeros(2, dtype=self.dtype, device=self.device)
        pairs = torch.stack([self._pairs.get(name, nothing) for name in names])
        if together:
            dist.all_reduce(pairs)
        means = {name: total / count if count else empty for name, (total, count) in zip(names, pairs.tolist())}
        return {name: mean for name, mean in means.items() if mean is not None}
