"""Ragged batches: one flat array of values and the length of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Rows of unlike length in one flat array.

    Attributes:
        values: `[T]`, the rows end to end.
        lengths: int64 `[B]`, how many values each row has; they sum to `T`.
    """

    values: np.ndarray
    lengths: np.ndarray

    @classmethod
    def from_rows(cls, rows: Sequence, dtype=None) -> Ragged:
        """From a sequence of 1-D arrays, or of lists (int64 unless `dtype` is given); an empty one gives no rows."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        if not len(rows):
            return cls(np.zeros(0, dtype or np.int64), lengths)
        if isinstance(rows[0], np.ndarray):
            values = np.concatenate(rows)
            return cls(values if dtype is None else values.astype(dtype, copy=False), lengths)
        return cls(np.fromiter(chain.from_iterable(rows), dtype or np.int64, int(lengths.sum())), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 `[B + 1]`: row `b` is `values[offsets[b]:offsets[b + 1]]`."""
        return running_total(self.lengths)

    @cached_property
    def rows(self) -> np.ndarray:
        """int64 `[T]`: the row of each value."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def positions(self) -> np.ndarray:
        """int64 `[T]`: the position of each value in its row."""
        return np.arange(len(self.values)) - np.repeat(self.offsets[:-1], self.lengths)

    def with_values(self, values: np.ndarray) -> Ragged:
        """The same rows holding other values, `[T]`; what was computed about the rows is kept."""
        other = Ragged(values, self.lengths)
        for name in ("offsets", "rows", "positions"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    def row(self, index: int) -> np.ndarray:
        """Row `index` as a view."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def tolist(self) -> list[list]:
        """Rows as lists."""
        return [row.tolist() for row in np.split(self.values, self.offsets[1:-1])] if len(self) else []

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in the given order."""
        lengths = self.lengths[rows]
        return Ragged(self.values[slices(self.offsets[:-1][rows], lengths)], lengths)

    def keep(self, mask: np.ndarray) -> Ragged:
        """Only the values where `mask`, bool `[T]`, is true; every row stays, possibly empty."""
        return Ragged(self.values[mask], row_sums(mask, self.offsets))

    def pad(self, value, length: int, side: str = "right") -> np.ndarray:
        """`[B, length]`, rows filled up with `value` on `side` ("right" or "left"). Rows must fit `length`."""
        if (self.lengths == length).all():
            return self.values.reshape(len(self), length)
        out = np.full((len(self), length), value, self.values.dtype)
        out.reshape(-1)[self.padded_index(length, side)] = self.values
        return out

    def padded_index(self, length: int, side: str = "right") -> np.ndarray:
        """int64 `[T]`: where each value stands in the flattened `[B, length]` array that `pad` makes."""
        starts = np.arange(len(self)) * length
        if side == "left":
            starts += length - self.lengths
        return slices(starts, self.lengths)


def slices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Indices of many slices end to end: `starts[0], starts[0] + 1, …, starts[1], …`, int64.

    >>> slices(np.array([10, 3]), np.array([2, 3])).tolist()
    [10, 11, 3, 4, 5]
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(np.asarray(starts) - (ends - lengths), lengths) + np.arange(total)


def running_total(values: np.ndarray) -> np.ndarray:
    """int64 `[N + 1]`: sum of the values before each, and of all.

    >>> running_total(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    totals = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=totals[1:])
    return totals


def row_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64 `[B]`: sum of `values` over each row, zero for empty rows (unlike `np.add.reduceat`)."""
    return np.diff(running_total(values)[offsets])


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    """Rows of all parts, in order."""
    return Ragged(np.concatenate([p.values for p in parts]), np.concatenate([p.lengths for p in parts]))


def join(parts: Sequence[Ragged]) -> Ragged:
    """Row `b` of the result is row `b` of each part, end to end; all parts have the same number of rows.

    >>> a, b = Ragged.from_rows([[1, 2], [3]]), Ragged.from_rows([[9], []])
    >>> join([a, b]).tolist()
    [[1, 2, 9], [3]]
    """
    lengths = np.stack([p.lengths for p in parts], 1)
    totals = lengths.sum(1)
    starts = np.cumsum(lengths.reshape(-1)).reshape(lengths.shape) - lengths
    out = np.empty(int(totals.sum()), np.result_type(*(p.values for p in parts)))
    for column, part in enumerate(parts):
        out[slices(starts[:, column], part.lengths)] = part.values
    return Ragged(out, totals)


def constant(value, rows: int, dtype=np.int64) -> Ragged:
    """`rows` rows that each hold the sequence `value` (a list of ids, say), for `join`."""
    return Ragged(np.tile(np.asarray(value, dtype).reshape(-1), rows), np.full(rows, np.size(value), np.int64))
