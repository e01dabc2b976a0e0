"""Settings in settings: the `mixture` and `phases` of a recipe, and their entries on the command line.

--phases.long.max_seq_length 256       a setting of the phase "long"
--mixture.ko.weight 3                  of the component "ko"; --mixture.ko 3 is the same
--phases.long.mixture.ko.weight 0      of the component, in that phase
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

NESTED = ("mixture", "phases")


@dataclass
class MixtureArguments:
    """Several corpora or objectives, and phases; an argument group for `HfArgumentParser`."""

    mixture: str | None = field(
        default=None,
        metadata={
            "help": "Components to draw from, in a recipe: name: {weight, objective, corpus, max_seq_length, …}; one "
            "entry is changed by --mixture.NAME.SETTING."
        },
    )
    phases: str | None = field(
        default=None,
        metadata={
            "help": "Parts of the run, in a recipe: name: {steps, objective, corpus, max_seq_length, learning_rate, "
            "…}; one entry is changed by --phases.NAME.SETTING."
        },
    )
    mixing: Literal["example", "batch"] = field(
        default="example", metadata={"help": "Draw a component for each example, or one for each optimizer step."}
    )
    sampling_alpha: str | None = field(
        default=None,
        metadata={
            "help": "Spread the weight of each objective over its corpora by size to this power (XLM-R: 0.3); two "
            "numbers, 0.7,0.3, are the begin and the end."
        },
    )


def split_nested(argv: Sequence[str]) -> tuple[list[str], dict[tuple[str, ...], Any]]:
    """(the other arguments, values by path) of arguments such as `--phases.long.steps 10`.

    Raises `ValueError` for a path without value.
    """
    rest, given, waiting = [], {}, list(argv)
    while waiting:
        argument = waiting.pop(0)
        name, equals, value = argument.partition("=")
        path = tuple(name.removeprefix("--").split("."))
        if not name.startswith("--") or path[0] not in NESTED or len(path) < 2:
            rest.append(argument)
            continue
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise ValueError(f"{name}: a value is missing")
            value = waiting.pop(0)
        given[path] = yaml.safe_load(value)
    return rest, given


def read_nested(arguments: MixtureArguments, given: Mapping[tuple[str, ...], Any]) -> dict[str, dict[str, dict]]:
    """`mixture` and `phases` as dictionaries, with the values `given` by path.

    Raises `ValueError` for malformed ones, and for paths to components and phases that are not there.
    """
    nested: dict[str, dict[str, dict]] = {}
    for name in NESTED:
        text = getattr(arguments, name)
        value = {} if text is None else yaml.safe_load(text)
        nested[name] = _entries(name, value, numbers=name == "mixture")
    for path, value in given.items():
        entry = nested[path[0]]
        for i, part in enumerate(path[1:-1], 2):
            known = {**entry, **(nested["mixture"] if path[i - 2] == "mixture" else {})}
            if part not in known and part != "mixture":
                raise ValueError(f"--{'.'.join(path)}: there is no {'.'.join(path[:i])}; {_nearest(part, known)}")
            entry = entry.setdefault(part, {})
            if not isinstance(entry, dict):
                raise ValueError(f"--{'.'.join(path)}: {'.'.join(path[:i])} has no settings of its own")
        if len(path) == 2:
            value = _entry(f"--{'.'.join(path)}", value, numbers=path[0] == "mixture")
        entry[path[-1]] = value
    for name, phase in nested["phases"].items():
        if "mixture" in phase:
            phase["mixture"] = _entries(f"phases.{name}.mixture", phase["mixture"])
    return nested


def _entries(where: str, value: Any, numbers: bool = True) -> dict[str, dict]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be names with settings below them (name: {{setting: value}}), not {value!r}")
    for name in value:
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
            raise ValueError(f"{where}: {name!r} is no name; use letters, digits, - and _")
    return {name: _entry(f"{where}.{name}", entry, numbers) for name, entry in value.items()}


def _entry(where: str, value: Any, numbers: bool) -> dict:
    """A component or phase; of `numbers`, a bare one is a component's weight."""
    if numbers and isinstance(value, int | float | list) and not isinstance(value, bool):
        return {"weight": value}
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{where} must have settings below it (setting: value), not {value!r}")
    return dict(value or {})


def refuse_hidden(argv: Sequence[str], nested: Mapping[str, Mapping[str, dict]]) -> None:
    """Raise `ValueError` for an argument of the command line that the recipe sets for some phase or component.

    The nearer setting would win over the command line without a word.
    """
    for argument in argv:
        name = argument.partition("=")[0]
        if not name.startswith("--"):
            continue
        setting = name[2:].replace("-", "_")
        owners = [f"{kind}.{entry}" for kind in NESTED for entry, value in nested[kind].items() if setting in value]
        owners += [
            f"phases.{phase}.mixture.{entry}"
            for phase, settings in nested["phases"].items()
            for entry, value in settings.get("mixture", {}).items()
            if setting in value
        ]
        if owners:
            choice = " or ".join(f"--{owner}.{setting}" for owner in owners)
            raise ValueError(f"the recipe sets {setting} in {', '.join(owners)}; say {choice}")


def refuse_missing_corpora(nested: Mapping[str, Mapping[str, dict]]) -> None:
    """Raise `ValueError` where some components of the mixture name a corpus, and others nothing but the default."""
    named = {name for name, settings in nested["mixture"].items() if "corpus" in settings}
    for phase in nested["phases"].values():
        named |= {name for name, settings in phase.get("mixture", {}).items() if "corpus" in settings}
    missing = [name for name in nested["mixture"] if name not in named]
    if named and missing:
        raise ValueError(
            f"mixture.{missing[0]} names no corpus: give --mixture.{missing[0]}.corpus, or in the recipe a corpus "
            "for all that name none"
        )


def as_text(value: Any) -> str:
    """A value of a recipe as it is written on a command line."""
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=2)
    names = f"there are: {', '.join(known)}" if known else "there are none: a recipe names them (--config my.yaml)"
    return f"did you mean {' or '.join(near)}?" if near else names
