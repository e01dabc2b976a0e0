"""An objective from command-line arguments: its settings by name, read by their annotated types."""

from __future__ import annotations

import difflib
import re
import types
from argparse import ArgumentTypeError
from collections.abc import Collection, Iterator
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from transformers.hf_argparser import string_to_bool

from ..objectives import Objective, get_objective
from ..objectives.registry import objective_class


def objective_from_arguments(name: str, remaining: list[str], known: Collection[str] = ()) -> Objective:
    """The objective with the settings among the arguments that nothing else took.

    A setting is written bare where one objective of `a+b` has it, and `--a.setting` where several have.

    Args:
        name: of the objective, or a combination of several (`mlm+nsp`).
        remaining: such as `["--mlm_probability", "0.3", "--selection=exact"]`.
        known: names of other arguments, for suggestions.

    Raises `ValueError` for settings that are unknown or ambiguous, and for bad values.
    """
    return get_objective(name, **settings_from_arguments(name, remaining, known))


def settings_from_arguments(name: str, remaining: list[str], known: Collection[str] = ()) -> dict[str, Any]:
    """As `objective_from_arguments`: the settings that the arguments give, by name."""
    settings, given = settings_of(name), {}
    for written, text in _flags(remaining):
        prefix, _, setting = written.rpartition(".")
        owners = {owner: hint for owner, other, hint, _ in settings if other == setting and prefix in ("", owner)}
        if not owners:
            names = [*(setting for _, setting, _, _ in settings), *known]
            near = [other for other in names if other.startswith(setting)][:2]
            near = near or difflib.get_close_matches(setting, names, n=2, cutoff=0.6)
            hint = f"did you mean {' or '.join(f'--{other}' for other in near)}?" if near else "see --help"
            raise ValueError(f"unknown argument --{written} (objective {name}); {hint}")
        if len(owners) > 1:
            raise ValueError(f"{name}: --{setting} could be {' or '.join(f'--{o}.{setting}' for o in owners)}")
        try:
            value = convert(text, next(iter(owners.values())))
        except (ValueError, ArgumentTypeError) as error:
            raise ValueError(f"--{written}: {error}") from None
        given[written if len(parts_of(name)) > 1 else setting] = value
    return given


def parts_of(name: str) -> dict[type[Objective], None]:
    """The classes that the name of an objective, or of a combination (`mlm+nsp`), speaks of, in order."""
    return dict.fromkeys(map(objective_class, re.findall(r"\w+", name)))


def settings_of(name: str) -> list[tuple[str, str, Any, Any]]:
    """(objective, setting, type, default) of all settings of the objectives in `name`."""
    found = []
    for part in parts_of(name):
        hints = get_type_hints(part)
        found += [(part.name, f.name, hints[f.name], f.default) for f in fields(part) if f.init and f.name != "wrapped"]
    return found


def _flags(arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """(name, value) of `--name value`, `--name=value` and `--name`. Raises `ValueError` for anything else."""
    waiting = list(arguments)
    while waiting:
        flag, equals, value = waiting.pop(0).partition("=")
        if not flag.startswith("--"):
            raise ValueError(f"unexpected argument {flag!r}; arguments are written --name value")
        if not equals and waiting and not waiting[0].startswith("--"):
            equals, value = "=", waiting.pop(0)
        yield flag[2:].replace("-", "_"), value if equals else None


def convert(text: str | None, hint: Any) -> Any:
    """A value of the annotated type from what was written; `None` stands for a flag without value."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text is not None and text.lower() == "none" and type(None) in options:
            return None
        origin = None
        for option in (o for o in options if o is not type(None)):
            try:
                return convert(text, option)
            except (ValueError, ArgumentTypeError) as error:
                failure = error
        raise failure
    if hint is bool:
        return text is None or string_to_bool(text)
    if text is None:
        raise ValueError("a value is missing")
    if origin is Literal:
        for option in options:
            if text == str(option):
                return option
        raise ValueError(f"must be {' or '.join(map(str, options))}, not {text!r}")
    if origin in (tuple, list):
        return origin(convert(item, options[0]) for item in text.split(","))
    if hint in (int, float, str):
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"must be {'a whole number' if hint is int else 'a number'}, not {text!r}") from None
    return yaml.safe_load(text)
