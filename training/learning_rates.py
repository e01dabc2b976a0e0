"""Learning-rate stretches: a schedule of its own for each phase of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import get_scheduler

from .phases import RATE, PhaseArguments

STABLE = "warmup_stable_decay"
"""transformers' name of the trapezoidal schedule; "wsd" is short for it in phases."""


def learning_rates(phases: Sequence[PhaseArguments], args: Any) -> Callable[[int], float] | None:
    """Factor of `args.learning_rate` at each step; `None` where no phase has learning-rate settings of its own.

    As soon as one has, every phase is a stretch with its own warmup and decay, by its settings or else the run's.

    Raises `ValueError` for schedules that are no function of the step, and settings that a schedule does not have.
    """
    if not any(phase.rate is not None for phase in phases):
        return None
    parts: list[tuple[int, int, Callable[[int], float]]] = []
    first = 0
    for phase in phases:
        parts.append((first, first + phase.steps, _stretch(phase, args)))
        first += phase.steps

    def factor(step: int) -> float:
        begin, end, part = next((part for part in parts if step < part[1]), parts[-1])
        return part(min(step, end) - begin)

    return factor


def scheduler_options(kind: str, options: Any, steps: int) -> dict[str, Any]:
    """The settings of a schedule over so many steps: its own (`options`, a mapping or `None`), with numbers of steps
    below 1 taken as shares of them.

    A trapezoidal schedule that does not say how long it decays does so for a tenth of the steps.
    """
    found = dict(options or {})
    for key in ("num_decay_steps", "num_stable_steps"):
        if 0 < found.get(key, 1) < 1:
            found[key] = round(found[key] * steps)
    if kind == STABLE:
        found.setdefault("num_decay_steps", round(0.1 * steps))
    return found


def _stretch(phase: PhaseArguments, args: Any) -> Callable[[int], float]:
    """Factor of the run's learning rate at each step of a phase."""
    said = phase.rate or {}
    own = {name: getattr(args, name) for name in RATE} | said
    if "lr_scheduler_type" in said:
        own["lr_scheduler_kwargs"] = said.get("lr_scheduler_kwargs")  # not those of the run's kind
    if isinstance(own["lr_scheduler_kwargs"], str):
        own["lr_scheduler_kwargs"] = json.loads(own["lr_scheduler_kwargs"])
    try:
        rate, warmup = float(own["learning_rate"]), float(own["warmup_steps"])
        kind = getattr(own["lr_scheduler_type"], "value", own["lr_scheduler_type"])
        kind = STABLE if kind == "wsd" else kind
        options = scheduler_options(kind, own["lr_scheduler_kwargs"], phase.steps)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
        schedule: Any = get_scheduler(
            kind,
            optimizer,
            num_warmup_steps=int(warmup) if warmup >= 1 else -int(-warmup * phase.steps // 1),
            num_training_steps=phase.steps,
            scheduler_specific_kwargs=options,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"phases.{phase.name}: {error}") from error
    if not hasattr(schedule, "lr_lambdas"):
        raise ValueError(f"phases.{phase.name}: {kind} is no function of the step; use linear, cosine or wsd")
    if not args.learning_rate:
        raise ValueError("--learning_rate must be above 0 where phases have rates of their own")
    part = schedule.lr_lambdas[0]
    return lambda step: part(step) * rate / args.learning_rate
