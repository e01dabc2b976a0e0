"""What a run needs: peak memory of the process or the GPU, and bytes of files."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

import torch


def reset_peak_memory() -> None:
    """Count peak memory from here on (on a CPU, where the system allows it: Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_memory() -> int:
    """Bytes: of the GPU's memory that tensors held at most, or else of the process's resident memory, all included."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return 1024 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def folder_size(folder: Path) -> int:
    """Bytes of the weights in a folder and below it."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
