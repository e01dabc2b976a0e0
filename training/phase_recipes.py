"""Recipes of several phases and corpora: nested settings, what each phase takes over, and learning-rate stretches.

    objective: mlm                       settings of the run hold where nothing nearer says otherwise
    sampling_alpha: 0.3
    mixture:
      en: {corpus: en.txt}
      ko: {corpus: ko.txt, language: ko, weight: 2}
      tlm: {objective: tlm, corpus: pairs.tsv, translation_columns: 1,2, language: "en,ko"}
    phases:
      short: {steps: 0.9, max_seq_length: 128}
      long: {steps: 0.1, max_seq_length: 512, per_device_train_batch_size: 4, mixture: {ko: {weight: 0}}}

Nearer is: the phase's own entry of a component, the phase, the component, the run. On the command line an entry is
written `--phases.long.max_seq_length 256`, `--mixture.ko.weight 3`.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_type_hints

import numpy as np

from ..objectives import get_objective
from .corpora import CorpusArguments
from .nested_arguments import as_text
from .objective_arguments import convert, settings_from_arguments
from .phases import RATE, ComponentArguments, PhaseArguments

PHASE = (*RATE, "steps", "mixture", "mixing", "sampling_alpha", "per_device_train_batch_size")
"""Settings of a phase that are none of its components."""


@dataclass(frozen=True)
class Defaults:
    """What holds where a recipe's phases and components say nothing: the settings of the run."""

    objective_name: str
    settings: Mapping[str, Any]
    corpus: CorpusArguments
    max_seq_length: int
    rows: int
    max_steps: int | None
    mixing: Literal["example", "batch"]
    sampling_alpha: Any


def phases_of(nested: Mapping[str, Mapping[str, dict]], run: Defaults) -> tuple[PhaseArguments, ...]:
    """The phases of a recipe. Raises `ValueError`, saying where, for whatever cannot be."""
    written = nested["phases"] or {"": {}}
    steps = _steps({name: phase.get("steps") for name, phase in written.items()}, run.max_steps)
    own_rates = any(name in phase for phase in written.values() for name in RATE)
    phases: list[PhaseArguments] = []
    for name, phase in written.items():
        where = f"phases.{name}: " if name else ""
        mixture = {n: dict(c) for n, c in nested["mixture"].items()}
        own = phase.get("mixture", {})
        layers = {n: [mixture.get(n, {}), _common(phase), own.get(n, {})] for n in {**mixture, **own}}
        layers = layers or {name: [_common(phase)]}
        try:
            if "weight" in phase:
                raise ValueError("weight belongs to a component of the mixture, not to a phase")
            components = tuple(_component(n, parts, run) for n, parts in layers.items())
            components = tuple(c for c in components if c.weight != (0, 0))
            if not all(sum(c.weight[end] for c in components) for end in (0, 1)):
                raise ValueError("the weights of a mixture must not all be 0")
            alpha = pair(phase.get("sampling_alpha", run.sampling_alpha), "sampling_alpha")
            mixing = phase.get("mixing", run.mixing)
            if mixing not in ("example", "batch"):
                raise ValueError(f"mixing must be 'example' or 'batch', not {mixing!r}")
            rows = phase.get("per_device_train_batch_size", run.rows)
            if not isinstance(rows, int) or rows < 1:
                raise ValueError(f"per_device_train_batch_size must be a whole number above 0, not {rows!r}")
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
        rate = {key: phase[key] for key in RATE if key in phase} if own_rates else None
        moving = any(map(_of_objective, (phase, *own.values())))
        weighed = "sampling_alpha" in phase or any("weight" in entry for entry in own.values())
        phases.append(PhaseArguments(name, steps[name], rows, components, mixing, alpha, rate, moving, weighed))
    return _named(phases, bool(nested["mixture"]))


def refuse_settings_of_run(nested: Mapping[str, Mapping[str, dict]], names: Collection[str]) -> None:
    """Raise `ValueError` for an entry that has a setting of the whole run; `names` are those of a run's settings."""
    entries = {f"mixture.{name}": entry for name, entry in nested["mixture"].items()}
    for phase, entry in nested["phases"].items():
        entries[f"phases.{phase}"] = entry
        entries |= {f"phases.{phase}.mixture.{name}": own for name, own in entry.get("mixture", {}).items()}
    for where, entry in entries.items():
        for name in entry:
            if name == "gradient_accumulation_steps":
                raise ValueError(
                    f"{where}: gradient_accumulation_steps is the same in the whole run: give the run the most that "
                    "a phase needs, and the other phases a smaller per_device_train_batch_size"
                )
            if name in names and name not in (*PHASE, "max_seq_length"):
                raise ValueError(f"{where}: {name} is the same in the whole run; give it to the run, as --{name}")


def _of_objective(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has settings of its objective."""
    known = {*PHASE, "weight", "objective", "max_seq_length", *(f.name for f in fields(CorpusArguments))}
    return not set(entry) <= known


def _common(phase: Mapping[str, Any]) -> dict[str, Any]:
    """What a phase says of its components."""
    return {key: value for key, value in phase.items() if key not in PHASE}


def _component(name: str, layers: Sequence[Mapping[str, Any]], run: Defaults) -> ComponentArguments:
    """A component from the layers that speak of it, the nearest last."""
    objective_name, settings = run.objective_name, dict(run.settings)
    corpus, length, weight = run.corpus, run.max_seq_length, (1.0, 1.0)
    hints = get_type_hints(CorpusArguments)
    for layer in layers:
        if layer.get("objective", objective_name) != objective_name:
            objective_name, settings = str(layer["objective"]), {}
        rest = {}
        for key, value in layer.items():
            if key == "weight":
                weight = pair(value, f"{name}: weight") or weight
            elif key == "max_seq_length":
                if not isinstance(value, int) or value < 1:
                    raise ValueError(f"{name}: max_seq_length must be a whole number above 0, not {value!r}")
                length = value
            elif key in hints:
                if key == "corpus" and "validation_file" not in layer:
                    corpus = replace(corpus, validation_file=None)  # another corpus's
                try:
                    corpus = replace(corpus, **{key: convert(as_text(value), hints[key])})
                except (ValueError, ArgumentTypeError) as error:
                    raise ValueError(f"{name}: {key}: {error}") from None
            elif key in PHASE:
                raise ValueError(f"{name}: {key} belongs to a phase or to the run, not to a component")
            elif key != "objective":
                rest[key] = value
        arguments = [f"--{key}={as_text(value)}" for key, value in rest.items() if value is not None]
        try:
            settings |= settings_from_arguments(objective_name, arguments, ("weight", "max_seq_length", *hints))
        except ValueError as error:
            raise ValueError(f"{name}: {error}" if name else str(error)) from None
    if min(weight) < 0:
        raise ValueError(f"{name}: weight must not be negative")
    objective = get_objective(objective_name, **settings)
    return ComponentArguments(name, name, weight, objective_name, objective, corpus, length)


def _named(phases: list[PhaseArguments], mixed: bool) -> tuple[PhaseArguments, ...]:
    """With names of components that tell them apart: one name in two phases only where nothing differs but weights.

    Of a name that stands for several, each gets the name of its first phase in front.
    """
    meanings: dict[str, dict[str, str]] = {}  # name → definition → first phase
    for phase in phases:
        for component in phase.components:
            name = component.name or component.objective_name
            meanings.setdefault(name, {}).setdefault(_definition(component), phase.name)
    named = []
    for phase in phases:
        components = []
        for component in phase.components:
            name = component.name or component.objective_name
            if len(meanings[name]) > 1:
                name = f"{meanings[name][_definition(component)]}-{name}"
            components.append(replace(component, name=name, base=component.base if mixed else ""))
        named.append(replace(phase, components=tuple(components)))
    return tuple(named)


def _definition(component: ComponentArguments) -> str:
    return repr(replace(component, weight=(0.0, 0.0)))


def _steps(written: Mapping[str, Any], total: int | None) -> dict[str, int]:
    """Steps of each phase: whole numbers, shares below 1 of `total`, and the rest for one that says nothing. Shares are
    rounded so that all phases together have `total` steps.

    Raises `ValueError` for steps that are not positive, or do not add up to `total` (`None`: whatever they add up to).
    """
    for name, value in written.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and (not number or value <= 0 or (value >= 1 and value != int(value))):
            raise ValueError(f"phases.{name}: steps must be a whole number above 0, or a share below 1, not {value!r}")
    silent = [name for name, value in written.items() if value is None]
    if len(silent) > 1:
        raise ValueError(f"phases: {' and '.join(silent)} do not say their steps; at most one phase takes the rest")
    whole = all(value is not None and value >= 1 for value in written.values())
    if total is None:
        if not whole:
            raise ValueError("phases whose steps are shares, or the rest, need --max_steps")
        return {name: int(value) for name, value in written.items()}
    exact = {name: value if value >= 1 else value * total for name, value in written.items() if value is not None}
    for name in silent:
        exact[name] = total - sum(exact.values())
    if abs(sum(exact.values()) - total) > 0.5:
        raise ValueError(f"the steps of the phases add up to {sum(exact.values()):g}, and max_steps is {total}")
    numbers = {name: int(value) for name, value in written.items() if value is not None and value >= 1}
    shares = [name for name in written if name not in numbers]
    ends = np.cumsum([exact[name] for name in shares]).round().astype(int).tolist()
    if ends:
        ends[-1] = total - sum(numbers.values())
    steps = numbers | {name: end - begin for name, begin, end in zip(shares, [0, *ends], ends)}
    for name in written:
        if steps[name] < 1:
            raise ValueError(f"phases.{name} has no steps: {exact[name]:g} of {total}; raise max_steps or its share")
    return {name: steps[name] for name in written}


def pair(value: Any, name: str) -> tuple[float, float] | None:
    """Begin and end of a value that may move: a number, or two. Raises `ValueError` for anything else.

    >>> pair("0.7,0.3", "sampling_alpha"), pair(2, "weight")
    ((0.7, 0.3), (2.0, 2.0))
    """
    if value is None:
        return None
    values = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) not in (1, 2):
        raise ValueError(f"{name} must be a number, or two: the begin and the end, not {value!r}")
    return numbers[0], numbers[-1]
