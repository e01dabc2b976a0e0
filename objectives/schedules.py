"""Values that move over a run."""

from __future__ import annotations

import numpy as np

SHAPES = ("linear", "cosine")


def check_shape(shape: str) -> None:
    """Raise `ValueError` unless `shape` is one of `SHAPES`."""
    if shape not in SHAPES:
        raise ValueError(f"unknown schedule {shape!r}; one of {', '.join(SHAPES)}")


def interpolate(start: float | np.ndarray, end: float | np.ndarray, progress, shape: str = "linear"):
    """The value at `progress` in [0, 1] (a number or an array) on the way from `start` to `end`.

    `shape` is "linear" or "cosine" (slow at both ends). Raises `ValueError` for another.

    >>> interpolate(0.3, 0.1, 0.5)
    0.2
    """
    check_shape(shape)
    if shape == "cosine":
        progress = (1 - np.cos(np.pi * np.asarray(progress))) / 2
    return start + (end - start) * progress
