"""The order of a run: which epoch and example each draw is, as a function of the draw's number alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import keyed
from .base import Columns, Draws, Plan
from .ragged import Ragged, concatenate

SHUFFLE = 1
"""Stream of the shuffle, apart from the noise of examples."""
ROUNDS = 8
"""Rounds of the shuffle's network; four give a pseudo-random permutation, more make up for small ones."""
LEAST_BITS = 6
"""Least width of the shuffle's network; narrower ones cannot give every permutation."""


class EpochSource:
    """Epochs of a plan one after another, each shuffled anew (or read as parallel streams).

    Args:
        plan_of: gives the plan of an epoch, called as `plan_of(epoch=0)`.
        seed: of the shuffle.
        global_batch: draws per optimizer step; the number of streams for plans of order "streams".
        replans: whether plans differ from epoch to epoch (sentence pairs do); if not, one plan serves all.
        shuffle: `False` reads examples in order.

    Raises `ValueError` when a plan has no example, or fewer than there are streams.
    """

    def __init__(
        self,
        plan_of: Callable[..., Plan],
        *,
        seed: int,
        global_batch: int,
        replans: bool = False,
        shuffle: bool = True,
    ):
        self._plan_of = plan_of
        self._seed = seed
        self._streams = global_batch
        self._replans = replans
        self._shuffle = shuffle
        self._plans: dict[int, Plan] = {}
        self._sizes: list[int] = []  # of the epochs known so far
        self.order: str = self.plan(0).order
        self._know(0)

    def plan(self, epoch: int) -> Plan:
        """The plan of `epoch`; the last two are kept."""
        epoch = epoch if self._replans else 0
        if epoch not in self._plans:
            plan = self._plan_of(epoch=epoch)
            if not len(plan):
                raise ValueError("the corpus gives no example at this length; use more text or another packing")
            if plan.order == "streams" and len(plan) < self._streams:
                raise ValueError(
                    f"the corpus gives {len(plan)} segments for {self._streams} parallel streams; "
                    "use more text, a shorter length or a smaller batch"
                )
            while len(self._plans) > 1:
                self._plans.pop(next(iter(self._plans)))
            self._plans[epoch] = plan
        return self._plans[epoch]

    def _know(self, draw: int) -> None:
        """Find out the sizes of epochs up to that of `draw`."""
        while not self._sizes or (self._replans and draw >= sum(self._sizes)):
            size = len(self.plan(len(self._sizes)))
            if self.order == "streams":  # every stream has the same number of segments
                size = size // self._streams * self._streams
            self._sizes.append(size)

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epoch, example) of draws, int64 `[B]` each."""
        numbers = np.asarray(numbers, np.int64)
        if self._replans:
            self._know(int(numbers.max(initial=0)))
            ends = np.cumsum(self._sizes)
            epoch = np.searchsorted(ends, numbers, "right")
            size = np.asarray(self._sizes)[epoch]
            visit = numbers - (ends[epoch] - size)
        else:
            epoch, visit = np.divmod(numbers, self._sizes[0])
            size = np.full(len(numbers), self._sizes[0])
        if self.order == "streams":
            step, stream = np.divmod(visit, self._streams)
            return epoch, stream * (size // self._streams) + step
        if self._shuffle:
            visit = shuffled(visit, size, keyed.combine(self._seed, SHUFFLE, epoch))
        return epoch, visit

    def draws(self, numbers: np.ndarray, progress: np.ndarray) -> Draws:
        """What the draws with these numbers are."""
        epoch, example = self.locate(numbers)
        return Draws.of(self._seed, numbers, epoch, example, progress)

    def rows(self, draws: Draws) -> Columns:
        """The examples of these draws, in their order."""
        epochs = np.unique(draws.epoch) if self._replans else draws.epoch[:1]
        if len(epochs) == 1:
            return self.plan(int(epochs[0])).rows(draws.example)
        where = [np.flatnonzero(draws.epoch == epoch) for epoch in epochs]
        parts = [self.plan(int(e)).rows(draws.example[w]) for e, w in zip(epochs, where, strict=True)]
        return take_rows(stack_rows(parts), np.argsort(np.concatenate(where), kind="stable"))

    def state(self, number: int) -> list[int]:
        """What finding draw `number` and later ones takes: the sizes of the epochs before, to plan none of them again.

        Empty where all epochs are alike.
        """
        if not self._replans:
            return []
        self._know(number)
        return list(self._sizes)

    def restore(self, state: list[int]) -> None:
        """Take over what `state` returned."""
        if len(state) > len(self._sizes):
            self._sizes = list(state)


def shuffled(index: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """int64 `[N]`: where the shuffle of 0 … `size` − 1 with this key puts `index`; takes no memory for the others.

    A Feistel network on the bits of the index, repeated until it gives a number below `size` (Black & Rogaway 2002,
    "Ciphers with arbitrary finite domains").

    Args:
        index: int64 `[N]`, each below its size.
        size: int64 `[N]`, number of items of the shuffle.
        key: uint64 `[N]`, which shuffle it is.
    """
    bits = np.array([max(int(n - 1).bit_length(), LEAST_BITS) for n in size.tolist()], np.uint64)
    one = np.uint64(1)
    low = bits // np.uint64(2)
    low_mask, high_mask = (one << low) - one, (one << (bits - low)) - one
    result = index.astype(np.uint64)
    walking = np.arange(len(result))
    while len(walking):
        here, left, right = key[walking], result[walking] >> low[walking], result[walking] & low_mask[walking]
        for turn in range(0, ROUNDS, 2):
            left ^= keyed.combine(here, turn, right) & high_mask[walking]
            right ^= keyed.combine(here, turn + 1, left) & low_mask[walking]
        result[walking] = (left << low[walking]) | right
        walking = walking[result[walking] >= size[walking].astype(np.uint64)]
    return result.astype(np.int64)


def stack_rows(parts: list[Columns]) -> Columns:
    """Rows of all parts, which have the same columns, in order."""
    return {
        name: concatenate([p[name] for p in parts])
        if isinstance(parts[0][name], Ragged)
        else np.concatenate([p[name] for p in parts])
        for name in parts[0]
    }


def take_rows(columns: Columns, rows: np.ndarray) -> Columns:
    """The given rows of every column."""
    return {name: c.take(rows) if isinstance(c, Ragged) else c[rows] for name, c in columns.items()}
