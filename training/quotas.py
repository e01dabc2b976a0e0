"""Shares of a mixture's components, and which component each draw is of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..objectives import keyed
from ..objectives.schedules import interpolate
from ..objectives.source import shuffled

QUOTA = 500
"""Stream of randomness: how quotas are rounded."""


@dataclass(frozen=True)
class Weights:
    """Shares of components over a phase, or over the run.

    Sizes spread the weight of each objective over its corpora: weight · size^α, rescaled so that the objective keeps
    its part. α = 1 draws each corpus in proportion to its size, 0 all alike. XLM has 0.7 (Conneau & Lample 2019, arXiv
    1901.07291, section 5.1), XLM-R 0.3 (Conneau et al. 2019, arXiv 1911.02116), mmBERT 0.7, then 0.5, then 0.3 (Marone
    et al. 2025, arXiv 2509.06888).

    Attributes:
        start, end: weights at the begin and the end, between which they move in a straight line.
        sizes: tokens of each component's corpus.
        kinds: the name of each component's objective.
        alpha: exponent of the sizes at the begin and the end; `None`: sizes do not matter.

    >>> Weights((1, 1), (1, 1), (900, 100), ("mlm", "mlm"), (0.5, 0.5)).at(np.zeros(1)).round(3).tolist()
    [[0.75, 0.25]]
    """

    start: tuple[float, ...]
    end: tuple[float, ...]
    sizes: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    alpha: tuple[float, float] | None = None

    def __post_init__(self):
        values = (*self.start, *self.end)
        if not np.isfinite(values).all() or min(values) < 0:
            raise ValueError(f"weights must be 0 or more, not {self.start} and {self.end}")
        if not sum(self.start) or not sum(self.end):
            raise ValueError("the weights of a mixture must not all be 0")

    def at(self, progress: np.ndarray) -> np.ndarray:
        """float64 `[N, C]`, shares at each progress in [0, 1); rows sum to 1."""
        progress = np.asarray(progress, np.float64)[:, None]
        weights = interpolate(np.array(self.start, float), np.array(self.end, float), progress)
        if self.alpha is not None:
            sized = weights * np.array(self.sizes, float) ** interpolate(*self.alpha, progress)
            for kind in dict.fromkeys(self.kinds):
                of = np.array(self.kinds) == kind
                total = sized[:, of].sum(1, keepdims=True)
                sized[:, of] *= weights[:, of].sum(1, keepdims=True) / np.where(total > 0, total, 1)
            weights = sized
        return weights / weights.sum(1, keepdims=True)


class Quotas:
    """Components of the units (draws or steps) of a phase.

    Block `b` of `size` units holds `floor` or `ceil` of share × size units of each component, exactly share × size
    where that is whole: a comb of `size` teeth, shifted from block to block by the golden ratio, is laid over the
    shares, so that rounding evens out over blocks. Within a block units are shuffled.

    Args:
        shares: float64 `[B, C]`, shares in each block.
        size: units of a block.
        key: of the shuffle.
        units: of all blocks; the last has what the others leave. `None`: it is as large as they are.
    """

    def __init__(self, shares: np.ndarray, size: int, key: np.ndarray, units: int | None = None):
        self.size, self.key = size, key
        blocks = len(shares)
        self.sizes = np.full(blocks, size)
        self.sizes[-1] = size if units is None else units - (blocks - 1) * size
        shift = keyed.combine(key, QUOTA) + np.arange(blocks, dtype=np.uint64) * keyed.GOLDEN
        shift = ((shift >> np.uint64(12)) + 0.5) * 2.0**-52
        size_of = self.sizes[:, None]
        edges = np.round(np.cumsum(shares, 1) * size_of, 9)
        self.edges = np.clip(np.ceil(edges - shift[:, None]), 0, size_of).astype(np.int64)  # [B, C], ends in each block
        self.edges[:, -1] = self.sizes
        self.starts = np.concatenate([np.zeros((blocks, 1), np.int64), self.edges[:, :-1]], 1)
        quotas = np.cumsum(self.edges - self.starts, 0)
        self.before = np.concatenate([np.zeros((1, shares.shape[1]), np.int64), quotas])

    def locate(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(component, how many units of it came before), int64 `[N]` each."""
        units = np.asarray(units, np.int64)
        if self.edges.shape[1] == 1:
            return np.zeros_like(units), units
        block, place = np.divmod(units, self.size)
        slot = shuffled(place, self.sizes[block], keyed.combine(self.key, block))
        component = (self.edges[block] <= slot[:, None]).sum(1)
        return component, self.before[block, component] + slot - self.starts[block, component]

    def used(self, units: int) -> np.ndarray:
        """int64 `[C]`: units of each component among the first `units`."""
        block, rest = divmod(units, self.size)
        component, _ = self.locate(np.arange(units - rest, units))
        return self.before[block] + np.bincount(component, minlength=self.before.shape[1])
