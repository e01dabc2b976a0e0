"""Held-out examples of a run of several phases or components."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..objectives import Draws
from ..objectives.mixture import MixedRows
from .dataset import DrawnRows, EvaluationDataset
from .languages import with_languages
from .mixture import Component, PhasedDataset, Stretch


class MixedEvaluationDataset(EvaluationDataset):
    """Held-out examples of every component once, those of the phase that has just been trained.

    Args:
        run: the training run.
        max_rows: as for `EvaluationDataset`, of each component.
    """

    def __init__(self, run: PhasedDataset, *, max_rows: int | None = None, seed: int = 0):
        self.objective, self.vocabulary, self.run, self.seed = run.objective, run.vocabulary, run, seed
        self.parts = []
        for component in run.components:
            settings: dict[str, Any] = {"length": component.length, "seed": seed, "max_rows": max_rows}
            settings["global_batch"] = run.global_batch
            try:
                part = EvaluationDataset(component.objective, component.held_out, run.vocabulary, **settings)
            except ValueError as error:
                raise ValueError(f"{component.name}: {error}") from error
            self.parts.append(part)
        self._begins = np.cumsum([0, *map(len, self.parts)])
        self.streams = 0
        self._step = run.max_steps

    def __len__(self) -> int:
        return int(self._begins[-1])

    def after(self, step: int) -> MixedEvaluationDataset:
        """The examples of the phase of the step before `step`."""
        self._step = step
        return self

    @property
    def _stretch(self) -> Stretch:
        return self.run.at(max(self._step - 1, 0))

    def __getitems__(self, numbers: list[int]) -> DrawnRows:
        index = np.asarray(numbers, np.int64)
        c = int(np.searchsorted(self._begins, index[0], "right")) - 1
        drawn = self.parts[c].__getitems__((index - self._begins[c]).tolist())
        component = self.run.components[c]
        rows = with_languages(drawn.rows, component.languages)
        draws = Draws.of(self.seed, drawn.draws.number, 0, drawn.draws.example, component=c)
        return DrawnRows(MixedRows(c, {c: rows}), draws)

    def shown(self) -> list[tuple[Component, range]]:
        """The phase's components, each with the numbers of its rows."""
        return [(self.run.components[c], range(*self._begins[c : c + 2].tolist())) for c in self._stretch.ids]

    def batches(self, size: int) -> list[list[list[int]]]:
        """Row numbers of the phase's components, batches of one component each."""
        found = []
        for _, rows in self.shown():
            found += [[list(rows[i : i + size])] for i in range(0, len(rows), size)]
        return found

    def loss_of(self, means: dict[str, float], terms: Any, progress: float) -> float:
        """The loss of the mixture: each component's by its weight at this step, and those of routers."""
        stretch = self._stretch
        step = np.array([min(max(self._step - 1, 0), self.run.max_steps - 1)])
        weights = stretch.weights(step)[0]
        routers = terms.keys() - self.objective.terms
        total = sum(terms[name].weight_at(progress) * means.get(f"{name}_loss", 0.0) for name in routers)
        for component, weight in zip(stretch.phase.components, weights):
            for name, term in component.objective.terms.items():
                total += weight * term.weight_at(progress) * means.get(f"{component.name}.{name}_loss", 0.0)
        return total
