"""Keyed randomness: noise as a pure function of (seed, epoch, example), whatever the batch, worker or process.

A counter-based generator after Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3": the value at
position `i` of a row is a hash of the row's key, the stream and `i`. The hash is SplitMix64 (Steele et al. 2014,
"Fast splittable pseudorandom number generators"): a 64-bit counter with an odd step, passed through a finaliser.
A *stream* is a small integer that separates unlike uses of one key (choosing tokens, choosing their replacement).
"""

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, in place: uint64 → uint64, a bijection that turns counters into random bits."""
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= _M1
    np.right_shift(x, np.uint64(27), out=shifted)
    x ^= shifted
    x *= _M2
    np.right_shift(x, np.uint64(31), out=shifted)
    x ^= shifted
    return x


def combine(*parts: int | np.ndarray) -> np.ndarray:
    """uint64 hash of integers (arrays broadcast), order-sensitive: `combine(seed, epoch, example)` keys a row."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = mix((key ^ np.asarray(part).astype(np.uint64)) + GOLDEN)
    return key


def row_bits(key: np.ndarray, lengths: np.ndarray, stream: int) -> np.ndarray:
    """uint32 `[T]`: one draw for each position of ragged rows with keys `[B]` and lengths `[B]`.

    Each 64-bit hash serves two neighbouring positions. The result for a row does not depend on the other rows.
    """
    start = combine(key, stream)
    if len(lengths) and (lengths == lengths[0]).all():  # the common case needs no ragged indices
        length = int(lengths[0])
        steps = np.arange(1, (length + 1) // 2 + 1, dtype=np.uint64) * GOLDEN
        bits = mix(start[:, None] + steps).view(np.uint32)
        return np.ascontiguousarray(bits[:, :length]).reshape(-1)
    pairs = (lengths + 1) // 2
    ends = np.cumsum(pairs)
    total = int(ends[-1]) if len(ends) else 0
    first = start - (ends - pairs).astype(np.uint64) * GOLDEN
    bits = mix(np.repeat(first, pairs) + np.arange(1, total + 1, dtype=np.uint64) * GOLDEN).view(np.uint32)
    if (lengths & 1).any():
        unused = (2 * ends - 1)[(lengths & 1) == 1]
        bits = np.delete(bits, unused)
    return bits


def bits_at(key: np.ndarray, positions: np.ndarray, stream: int, counts: np.ndarray | None = None) -> np.ndarray:
    """uint64 `[N]`: the draw of `stream` at `positions[n]` of the row with `key[n]`, for sparse positions.

    Given `counts`, int64 `[B]`, `key` has an entry per row, and row `b` has the next `counts[b]` positions.
    """
    start = combine(key, stream)
    start = start if counts is None else np.repeat(start, counts)
    return mix(start + (np.asarray(positions).astype(np.uint64) + np.uint64(1)) * GOLDEN)


def uniform_at(key: np.ndarray, positions: np.ndarray, stream: int, counts: np.ndarray | None = None) -> np.ndarray:
    """float64 `[N]` in [0, 1): as `bits_at`."""
    return (bits_at(key, positions, stream, counts) >> np.uint64(11)) * 2.0**-53


def integers_at(key: np.ndarray, positions: np.ndarray, stream: int, high: int | np.ndarray) -> np.ndarray:
    """int64 `[N]`, uniform on 0 … high − 1 (`high` up to 2³²; bias below 2⁻³²), as `bits_at`."""
    upper = bits_at(key, positions, stream) >> np.uint64(32)
    return ((upper * np.asarray(high).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def threshold(probability: float | np.ndarray) -> np.ndarray:
    """uint64: `bits < threshold(p)` holds with probability `p` for 32-bit draws (exact for p = 0 and p = 1)."""
    return np.round(np.asarray(probability, np.float64) * 2.0**32).astype(np.uint64)
