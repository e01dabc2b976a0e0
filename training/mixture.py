"""Mixtures and phases as data: which component each draw of a run is of, and which of its examples.

A run is a sequence of phases, each a range of draws. A phase draws from weighted components, each an objective on a
corpus at a length. Every block of draws holds each component's quota exactly, in an order shuffled by a key, so that
component and example of a draw are found by arithmetic: resuming is setting a number, as without a mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ..objectives import Documents, Draws, Objective, Vocabulary, keyed
from ..objectives.mixture import MixedRows, Mixture
from .dataset import DrawnRows, PretrainingDataset
from .languages import with_languages
from .phases import mixture_of
from .quotas import Quotas, Weights

BLOCK_STEPS = 32
"""Steps of a block when each step is of one component."""
TABLE = 2**22
"""Most entries (blocks × components) of a phase's table; blocks grow until it fits."""
ORDER = 501
"""Stream of randomness: the order of components and of their examples."""


@dataclass(frozen=True)
class Component:
    """An objective on a corpus.

    Attributes:
        name: what its losses are logged under.
        objective, length: what is trained, on rows of how many tokens.
        train, held_out: the corpus.
        languages: number of the language of each text of a row (one, or two of a translation); empty if unknown.
        order: components of one order, in one phase after another, read on where the one before stopped.
    """

    name: str
    objective: Objective
    length: int
    train: Documents
    held_out: Documents
    languages: tuple[int, ...] = ()
    order: int = 0


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        name: of the phase.
        steps: optimizer steps.
        rows: rows of a micro-batch on each process.
        components: what it draws from.
        weights: shares of the components.
        mixing: "example": each draw is of its own component. "batch": all draws of an optimizer step are of one.
        own_progress: whether schedules (of a masking rate) run over the phase, rather than over the run.
        own_weights: the same of weights.
    """

    name: str
    steps: int
    rows: int
    components: tuple[Component, ...]
    weights: Weights
    mixing: Literal["example", "batch"] = "example"
    own_progress: bool = False
    own_weights: bool = False


class Stretch:
    """A phase, placed in the run: its draws by number."""

    def __init__(self, phase: Phase, ids: list[int], first_step: int, run: PhasedDataset):
        self.phase, self.ids, self.first_step, self.max_steps = phase, ids, first_step, run.max_steps
        self.batch = phase.rows * run.micro_batches
        self.last_step = first_step + phase.steps
        self.by_batch = phase.mixing == "batch" or len(ids) == 1
        steps = min(BLOCK_STEPS, phase.steps) if self.by_batch else 1
        steps *= max(1, -(-phase.steps * len(ids) // (TABLE * steps)))
        begins = np.arange(0, phase.steps, steps)
        middles = (begins + np.minimum(begins + steps, phase.steps) - 1) / 2  # mean of a block's steps
        unit = 1 if self.by_batch else self.batch
        shares = self.weights(first_step + middles)
        self.quotas = Quotas(shares, steps * unit, run.key_of(first_step), phase.steps * unit)

    def progress(self, step: np.ndarray) -> np.ndarray:
        """What schedules read at these steps of the run."""
        return self._share(step, self.phase.own_progress)

    def weights(self, step: np.ndarray) -> np.ndarray:
        """float64 `[N, C]`: shares of the phase's components at these steps of the run."""
        return self.phase.weights.at(self._share(step, self.phase.own_weights))

    def _share(self, step: np.ndarray, own: bool) -> np.ndarray:
        """The part of the phase, if `own`, or else of the run, that lies before these steps."""
        return (step - self.first_step) / self.phase.steps if own else step / self.max_steps

    def locate(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(component of the run, how many of its draws in this phase came before) of draws of this phase."""
        if self.by_batch:
            step, row = np.divmod(draws, self.batch)
            component, before = self.quotas.locate(step)
            before = before * self.batch + row
        else:
            component, before = self.quotas.locate(draws)
        return np.array(self.ids)[component], before

    def used(self, steps: int) -> np.ndarray:
        """int64 `[C]`: draws of each of the phase's components in its first `steps` steps."""
        return self.quotas.used(steps) * self.batch if self.by_batch else self.quotas.used(steps * self.batch)


class PhasedDataset(PretrainingDataset):
    """Every draw of a run of several phases or components, in order.

    Rows are numbered as if every micro-batch had as many as that of the largest phase, `rows`; where a phase has fewer,
    the numbers beyond them draw nothing. So `DataLoader` and a resume work as for a plain run.

    A component whose corpus runs out begins a new epoch of it, in another order.

    Args:
        phases: the run.
        vocabulary: of the tokenizer.
        micro_batches: micro-batches of an optimizer step, over all processes.
        seed: of order, noise and mixing.

    Raises `ValueError` for phases without steps, and for components that cannot be mixed or give no example.
    """

    def __init__(self, phases: Sequence[Phase], vocabulary: Vocabulary, *, micro_batches: int, seed: int = 0):
        empty = [phase.name for phase in phases if phase.steps < 1]
        if empty or not phases:
            raise ValueError(f"the phase {empty[0]} has no steps" if empty else "a run needs a phase")
        self.phases, self.vocabulary, self.seed, self.micro_batches = list(phases), vocabulary, seed, micro_batches
        self.objective: Mixture = mixture_of(self.phases)
        components = {c.name: c for phase in phases for c in phase.components}
        self.components = [components[name] for name in self.objective.names]
        self.length = max(component.length for component in self.components)
        self.rows = max(phase.rows for phase in phases)
        self.global_batch = self.rows * micro_batches
        self.max_steps = sum(phase.steps for phase in phases)
        ids = {component.name: i for i, component in enumerate(self.components)}
        first, self.stretches = 0, []
        for phase in phases:
            self.stretches.append(Stretch(phase, [ids[c.name] for c in phase.components], first, self))
            first += phase.steps
        self.source: Any = self  # what the trainer asks for its order
        self.order = "shuffled"
        self._sources = [self._source(component) for component in self.components]
        self._begins = np.cumsum([0, *(stretch.batch * stretch.phase.steps for stretch in self.stretches)])
        self.identity = self._identity()
        for stretch in self.stretches:
            if not stretch.by_batch:
                self._check_columns(stretch)

    def key_of(self, part: int) -> np.ndarray:
        """uint64 `[1]`: what the mixing of the phase that begins at this step is keyed on."""
        return keyed.combine(self.seed, ORDER, part)

    def _source(self, component: Component):
        seed = int(keyed.combine(self.seed, ORDER, component.order)[0] >> np.uint64(1))
        settings: dict[str, Any] = {"length": component.length, "seed": seed, "global_batch": self.global_batch}
        source = component.objective.source(component.train, self.vocabulary, **settings)
        if source.order == "streams":
            raise ValueError(
                f"{component.name}: {component.objective.name} reads its text in streams and remembers them, which "
                "other components would interrupt; train it alone, in a run of one phase"
            )
        return source

    def _check_columns(self, stretch: Stretch) -> None:
        """Raise `ValueError` where rows of the phase's components do not fit into one batch."""
        draws = np.zeros(len(stretch.ids), np.int64)
        drawn = self._rows(stretch, draws, draws + stretch.first_step, np.array(stretch.ids), draws)
        self.objective.corrupt(drawn.rows, drawn.draws, self.vocabulary)

    def _identity(self) -> dict[str, Any]:
        components = {
            c.name: {"objective": repr(c.objective), "corpus": c.train.fingerprint, "length": c.length}
            for c in self.components
        }
        phases = [
            [p.name, p.steps, s.batch, p.mixing, p.own_progress, p.own_weights, repr(p.weights)]
            for s, p in zip(self.stretches, self.phases)
        ]
        return {"components": components, "phases": phases, "seed": self.seed}

    def _offsets(self, stretch: Stretch, steps: int) -> dict[int, int]:
        """Draws of each order before step `steps` of the phase."""
        found: dict[int, int] = {}
        for other in self.stretches[: self.stretches.index(stretch) + 1]:
            used = other.used(steps if other is stretch else other.phase.steps)
            for component, count in zip(other.ids, used.tolist()):
                order = self.components[component].order
                found[order] = found.get(order, 0) + count
        return found

    @cached_property
    def _starts(self) -> list[np.ndarray]:
        """For each phase, draws that each component of the run has behind it when the phase begins."""
        starts = []
        for stretch in self.stretches:
            before = self._offsets(stretch, 0)
            starts.append(np.array([before.get(component.order, 0) for component in self.components], np.int64))
        return starts

    def __getitems__(self, numbers: list[int]) -> DrawnRows:
        index = np.asarray(numbers, np.int64)
        step, slot = np.divmod(index, self.global_batch)
        stretch = self.at(int(step[0]))
        if (step < stretch.first_step).any() or (step >= stretch.last_step).any():
            raise ValueError("a batch must not reach from one phase into the next")
        micro_batch, row = np.divmod(slot, self.rows)
        there = row < stretch.phase.rows
        step, draw = step[there], micro_batch[there] * stretch.phase.rows + row[there]
        draw = (step - stretch.first_step) * stretch.batch + draw
        component, before = stretch.locate(draw)
        return self._rows(stretch, draw, step, component, before)

    def _rows(self, stretch: Stretch, draw, step, component, before) -> DrawnRows:
        """The given draws of a phase."""
        place = self.stretches.index(stretch)
        number = self._begins[place] + draw
        index = self._starts[place][component] + before
        progress = stretch.progress(step)
        epoch, example = np.zeros((2, len(draw)), np.int64)
        parts = {}
        for c in np.unique(component).tolist():
            of = np.flatnonzero(component == c)
            source = self._sources[c]
            own = source.draws(index[of], progress[of])
            parts[c] = with_languages(source.rows(own), self.components[c].languages)
            epoch[of], example[of] = own.epoch, own.example
        group = self._group(stretch, component)
        return DrawnRows(MixedRows(group, parts), Draws.of(self.seed, number, epoch, example, progress, component))

    def _group(self, stretch: Stretch, component: np.ndarray) -> int:
        if stretch.by_batch:
            return int(component[0])
        return self.objective.groups.index(tuple(stretch.ids))

    def at(self, step: int) -> Stretch:
        """The phase that step `step` is in, the last one beyond the end."""
        return next((s for s in self.stretches if step < s.last_step), self.stretches[-1])

    def state(self, step: int) -> dict[str, Any]:
        """As `PretrainingDataset.state`: of each component, what finding later draws takes."""
        stretch = self.at(step)
        used = self._offsets(stretch, min(step, self.max_steps) - stretch.first_step)
        sources = {c.name: s.state(used.get(c.order, 0)) for c, s in zip(self.components, self._sources)}
        return {"identity": self.identity, "source": sources}

    def restore(self, state: dict[str, Any]) -> None:
        """As `PretrainingDataset.restore`."""
        self.check_identity(state["identity"])
        for component, source in zip(self.components, self._sources):
            source.restore(state["source"][component.name])
