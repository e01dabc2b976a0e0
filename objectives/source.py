"""The order of a run: which epoch and example each draw is, as a function of the draw's number alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import keyed
from .base import Columns, Draws, Plan
from .ragged import Ragged, concatenate

SHUFFLE = 1
"""Stream of the shuffle, apart from the noise of examples."""


class EpochSource:
    """Epochs of a plan one after another, each shuffled anew (or read as parallel streams).

    Args:
        plan_of: gives the plan of an epoch.
        seed: of the shuffle.
        global_batch: draws per optimizer step; the number of streams for plans of order "streams".
        replans: whether plans differ from epoch to epoch (sentence pairs do); if not, one plan serves all.
        shuffle: `False` reads examples in order (evaluation).

    Raises `ValueError` when a plan has no example, or fewer than there are streams.
    """

    def __init__(
        self,
        plan_of: Callable[[int], Plan],
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
        self._orders: dict[int, np.ndarray] = {}
        self._starts = [0]  # number of the first draw of each epoch, as far as known
        self.order = self.plan(0).order
        self._extend()

    def plan(self, epoch: int) -> Plan:
        """The plan of `epoch`; the last two are kept."""
        epoch = epoch if self._replans else 0
        if epoch not in self._plans:
            plan = self._plan_of(epoch)
            if not len(plan):
                raise ValueError("the corpus gives no example at this length; use more text or another packing")
            if plan.order == "streams" and len(plan) < self._streams:
                raise ValueError(
                    f"the corpus gives {len(plan)} segments for {self._streams} parallel streams; "
                    "use more text, a shorter length or a smaller batch"
                )
            _keep_two(self._plans, epoch, plan)
        return self._plans[epoch]

    def _extend(self) -> None:
        size = len(self.plan(len(self._starts) - 1))
        if self.order == "streams":  # every stream has the same number of segments
            size = size // self._streams * self._streams
        self._starts.append(self._starts[-1] + size)

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epoch, example) of draws, int64 `[B]` each."""
        numbers = np.asarray(numbers, np.int64)
        if self._replans:
            while len(numbers) and numbers.max() >= self._starts[-1]:
                self._extend()
            epoch = np.searchsorted(self._starts, numbers, "right") - 1
            visit = numbers - np.asarray(self._starts)[epoch]
        else:
            epoch, visit = np.divmod(numbers, self._starts[1])
        if self.order == "streams":
            step, stream = np.divmod(visit, self._streams)
            per_stream = (np.asarray(self._starts)[1] if not self._replans else self._size(epoch)) // self._streams
            return epoch, stream * per_stream + step
        if not self._shuffle:
            return epoch, visit
        example = np.empty_like(visit)
        for one in np.unique(epoch):
            here = epoch == one
            example[here] = self._permutation(int(one))[visit[here]]
        return epoch, example

    def draws(self, numbers: np.ndarray, progress: np.ndarray) -> Draws:
        """What the draws with these numbers are."""
        epoch, example = self.locate(numbers)
        return Draws.of(self._seed, numbers, epoch, example, progress)

    def _size(self, epoch: np.ndarray) -> np.ndarray:
        starts = np.asarray(self._starts)
        return starts[epoch + 1] - starts[epoch]

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            size = self._starts[epoch + 1] - self._starts[epoch] if self._replans else self._starts[1]
            order = keyed.permutation(int(keyed.combine(self._seed, SHUFFLE)[0]), epoch, size)
            _keep_two(self._orders, epoch, order)
        return self._orders[epoch]

    def rows(self, draws: Draws) -> Columns:
        """The examples of these draws, in their order."""
        epochs = np.unique(draws.epoch) if self._replans else draws.epoch[:1]
        if len(epochs) == 1:
            return self.plan(int(epochs[0])).rows(draws.example)
        where = [np.flatnonzero(draws.epoch == epoch) for epoch in epochs]
        parts = [self.plan(int(e)).rows(draws.example[w]) for e, w in zip(epochs, where, strict=True)]
        return take_rows(stack_rows(parts), np.argsort(np.concatenate(where), kind="stable"))


def _keep_two(cache: dict, key: int, value) -> None:
    while len(cache) > 1:
        cache.pop(next(iter(cache)))
    cache[key] = value


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
