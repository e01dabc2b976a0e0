"""Objectives by name: ours by `@register`, other packages' by the entry-point group `pretrain_zoo.objectives`."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from .base import Objective

GROUP = "pretrain_zoo.objectives"
_registered: dict[str, type[Objective]] = {}
_Class = TypeVar("_Class", bound=type)


def register(name: str):
    """Class decorator that makes a frozen dataclass derived from `Objective` available by `name`.

    Raises `ValueError` if another class has the name already.
    """

    def decorate(cls: _Class) -> _Class:
        known = _registered.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"objective {name!r} is registered by {known.__module__}.{known.__qualname__} already")
        cls.name = name  # type: ignore[attr-defined]
        _registered[name] = cls  # type: ignore[assignment]
        return cls

    return decorate


def _entry_points() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in _registered or (point.name in found and found[point.name].value != point.value):
            other = found[point.name].value if point.name in found else _registered[point.name].__module__
            if point.name in _registered and point.value.split(":")[0] == other:
                continue  # loaded before
            raise ValueError(f"objective {point.name!r} of {point.value} is registered by {other} already")
        found[point.name] = point
    return found


def list_objectives() -> list[str]:
    """Sorted names of all objectives, those of installed packages included (which are not imported for this)."""
    return sorted({*_registered, *_entry_points()})


def objective_class(name: str) -> type[Objective]:
    """The class registered by `name`. Raises `ValueError` with the nearest names if there is none."""
    if name not in _registered:
        point = _entry_points().get(name)
        if point is None:
            known = list_objectives()
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown objective {name!r}; {hint}")
        loaded = point.load()
        _registered.setdefault(name, loaded)
        if not loaded.name:
            loaded.name = name
    return _registered[name]


def get_objective(name: str, **settings: Any) -> Objective:
    """The objective `name` with these settings, the others at their published defaults; `a+b` trains both at once.

    Raises `ValueError` for an unknown name or setting, with the nearest known ones, and for values out of range.

    >>> get_objective("mlm", mlm_probability=0.3).mlm_probability
    0.3
    """
    if "+" in name or "(" in name:
        compose = importlib.import_module(".compose", __package__)
        return compose.parse(name, settings)
    cls = objective_class(name)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for setting in settings:
        if setting not in known:
            near = difflib.get_close_matches(setting, known, n=2)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has: {', '.join(known) or 'none'}"
            raise ValueError(f"objective {name!r} has no setting {setting!r}; {hint}")
    return cls(**settings)
