"""Tokens per second, and model FLOPs utilisation where the device's peak is known."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..models.flops import flops_per_token

PEAK_TFLOPS = {  # dense bf16/fp16 tensor-core peak by a part of the device's name, from the makers' data sheets
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}


def peak_flops(device: torch.device) -> float | None:
    """Half-precision peak of a CUDA device in FLOP/s; `None` where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((tera * 1e12 for part, tera in PEAK_TFLOPS.items() if part in name), None)


class Throughput:
    """Counts tokens between logs, and the seconds spent on training.

    Args:
        model, length: what is trained, on rows of how many tokens.
        device: where.
    """

    def __init__(self, model: nn.Module, length: int, device: torch.device):
        self.device, self.peak = device, peak_flops(device)
        self.flops = flops_per_token(model, length) if self.peak and length else 0.0
        self.restart()

    def restart(self) -> None:
        """Begin an interval."""
        self.tokens = torch.zeros((), dtype=torch.int64, device=self.device)
        self.started = time.perf_counter()

    def add(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Count the input tokens of a micro-batch, padding left out."""
        mask = inputs.get("attention_mask")
        if mask is not None and mask.dim() == 2:
            self.tokens += mask.sum()
        elif "input_ids" in inputs:
            self.tokens += inputs["input_ids"].numel()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time of what runs inside (evaluation, saving)."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.started += time.perf_counter() - began

    def report(self, tokens: float, processes: int) -> dict[str, float]:
        """Figures since the interval began; `tokens` is the count over all processes. Begins the next interval."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        self.restart()
        figures = {"tokens_per_second": round(tokens / seconds, 1)}
        if self.peak and self.flops:
            figures["mfu"] = round(tokens / seconds * self.flops / (self.peak * processes), 4)
        return figures
