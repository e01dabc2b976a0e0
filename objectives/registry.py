"""Objectives by name: ours by `@register`, other packages' by the entry-point group `pretrain_zoo.objectives`."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from .base import Objective

GROUP = "pretrain_zoo.objectives"
_registered: dict[str, type[Objective]] = {}
_Class = TypeVar("_Class", bound=type[Objective])


def register(name: str) -> Callable[[_Class], _Class]:
    """Class decorator that makes a frozen dataclass derived from `Objective` available by `name`.

    Raises `ValueError` if another class has the name already.
    """

    def decorate(cls: _Class) -> _Class:
        known = _registered.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"objective {name!r} is registered by {known.__module__}.{known.__qualname__} already")
        cls.name = name
        _registered[name] = cls
        return cls

    return decorate


def _register_ours() -> None:
    """Import the objectives of this package, which registers them."""
    importlib.import_module(".public", __package__)


def _entry_points() -> dict[str, EntryPoint]:
    """Entry points that are not loaded yet, by name. Raises `ValueError` where a name is taken."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in _registered:
            taken = _registered[point.name]
            if _loaded(point) is taken:
                continue
            other = f"{taken.__module__}:{taken.__qualname__}"
        else:
            other = found.setdefault(point.name, point).value
        if other != point.value:
            raise ValueError(f"objective {point.name!r} of {point.value} is registered by {other} already")
    return found


def _loaded(point: EntryPoint) -> Any:
    """What the entry point names, if its module is imported already."""
    value: Any = sys.modules.get(point.module)
    for part in point.attr.split("."):
        value = getattr(value, part, None)
    return value


def list_objectives() -> list[str]:
    """Sorted names of all objectives, those of installed packages included (which are not imported for this)."""
    _register_ours()
    return sorted({*_registered, *_entry_points()})


def objective_class(name: str) -> type[Objective]:
    """The class registered by `name`, loaded from its package if need be.

    Raises `ValueError` with the nearest names if there is none, and for an entry point that names no objective.
    """
    _register_ours()
    if name not in _registered:
        point = _entry_points().get(name)
        if point is None:
            known = list_objectives()
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown objective {name!r}; {hint}")
        loaded = point.load()
        if not (isinstance(loaded, type) and issubclass(loaded, Objective)):
            raise ValueError(f"objective {name!r}: {point.value} is no class derived from Objective")
        register(name)(loaded)
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
