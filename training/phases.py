"""The phases and components of a run, as its recipe says them; `phase_recipes` reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..objectives import Mixture, Objective
from .corpora import CorpusArguments

RATE = ("learning_rate", "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs")
"""Settings of a phase that give it a stretch of the learning rate of its own."""
NOT_DATA = ("cache_dir", "preprocessing_num_workers")
"""Settings of a corpus that say how it is read, not what."""


@dataclass(frozen=True)
class ComponentArguments:
    """An objective on a corpus, as said in a recipe.

    Attributes:
        name: what its losses are logged under.
        base: its name in the mixture, the same in all phases.
        weight: at the begin and the end of the phase (or of the run).
        objective_name, objective, corpus, max_seq_length: as for a plain run.
    """

    name: str
    base: str
    weight: tuple[float, float]
    objective_name: str
    objective: Objective
    corpus: CorpusArguments
    max_seq_length: int

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639 code of each text of a row."""
        return self.corpus.languages

    @property
    def order(self) -> tuple:
        """What is equal where the component of a later phase reads on where this one stopped."""
        packing = getattr(self.objective, "packing", None)
        corpus = json.dumps(asdict(self.corpus), sort_keys=True)
        return self.base, corpus, self.max_seq_length, type(self.objective), packing


@dataclass(frozen=True)
class PhaseArguments:
    """A phase, as said in a recipe.

    Attributes:
        name: of the phase; "" for a run that is one.
        steps: optimizer steps.
        rows: `per_device_train_batch_size`.
        components: what it draws from.
        mixing, alpha: see `MixtureArguments`.
        rate: learning-rate settings of a stretch of its own; `None`: one schedule spans the run.
        own_progress: whether the objective's schedules run over the phase, which has settings of it, not over the run.
        own_weights: whether weights and `alpha` move over the phase, which has some of its own, not over the run.
    """

    name: str
    steps: int
    rows: int
    components: tuple[ComponentArguments, ...]
    mixing: Literal["example", "batch"]
    alpha: tuple[float, float] | None
    rate: dict[str, Any] | None
    own_progress: bool
    own_weights: bool


def mixture_of(phases: Sequence[Any]) -> Mixture:
    """The objective that a run of these phases trains; its components in the order of their last phases."""
    components: dict[str, Objective] = {}
    for phase in phases:
        for component in phase.components:
            components.pop(component.name, None)
            components[component.name] = component.objective
    together = [
        tuple(c.name for c in phase.components)
        for phase in phases
        if phase.mixing == "example" and len(phase.components) > 1
    ]
    return Mixture(components, tuple(dict.fromkeys(together)))


def identity_of(phases: Sequence[PhaseArguments], micro_batches: int) -> list[Any]:
    """What of the phases decides a run's result, for a JSON file."""
    found = []
    for phase in phases:
        settings = asdict(replace(phase, components=())) | {"rows": phase.rows * micro_batches}
        components = [
            asdict(replace(component, objective=repr(component.objective)))  # type: ignore[arg-type]
            for component in phase.components
        ]
        for component in components:
            for name in NOT_DATA:
                component["corpus"].pop(name)
        found.append(settings | {"components": components})
    return found
