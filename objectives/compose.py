"""Several objectives on the same examples: `mlm+nsp` is BERT, `ngram_mlm+sop` is ALBERT.

>>> from pretrain_zoo.objectives import get_objective
>>> get_objective("mlm+nsp", mlm_probability=0.3).terms.keys()       # a setting goes to the part that has it
dict_keys(['mlm', 'nsp'])
>>> get_objective("mlm+span_mlm", **{"mlm.mlm_probability": 0.1, "span_mlm.mlm_probability": 0.1}).name
'mlm+span_mlm'
>>> get_objective("distillation(mlm)", temperature=4.0).name         # a wrapper and what it wraps
'distillation(mlm)'
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from . import keyed
from .base import Column, Columns, Draws, Objective, Term
from .documents import Documents
from .mlm import MaskedLM
from .ragged import join
from .registry import get_objective, objective_class
from .sentence_pairs import SentencePairs, label_column
from .vocabulary import Vocabulary


def parse(name: str, settings: Mapping[str, Any]) -> Objective:
    """The objective that `a+b`, `w(a)` or `w(a+b)` names.

    A setting goes to the part that has it, or to the one it names (`nsp.setting`).

    Raises `ValueError` for parts that cannot be combined, and settings that no part has, or several.
    """
    wrapper, inner = _brackets(name)
    names = [part.strip() for part in inner.split("+")]
    given = _assign(name, [*names, *([wrapper] if wrapper else [])], settings)
    maker = next((part for part in names if issubclass(objective_class(part), SentencePairs)), names[0])
    for part in names:
        if "packing" in given[part] and part != maker:
            raise ValueError(f"packing has no effect on {part} in {name!r}, where {maker} makes the examples")
    parts = tuple(get_objective(part, **given[part]) for part in names)
    whole = parts[0] if len(parts) == 1 else Joint(parts)
    return get_objective(wrapper, wrapped=whole, **given[wrapper]) if wrapper else whole


def _brackets(name: str) -> tuple[str | None, str]:
    """The wrapper before the brackets, if there are any, and what it wraps."""
    if "(" not in name and ")" not in name:
        return None, name
    found = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", name)
    if found is None:
        raise ValueError(f"cannot read {name!r}; brackets hold all that is wrapped, such as distillation(mlm+nsp)")
    if "wrapped" not in {f.name for f in dataclasses.fields(objective_class(found[1]))}:
        raise ValueError(f"cannot read {name!r}: {found[1]} takes no other objective in brackets; combine them as a+b")
    return found[1], found[2]


def _assign(name: str, parts: list[str], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each part. Raises `ValueError` for those that no part has, or several."""
    fields = {
        p: [f.name for f in dataclasses.fields(objective_class(p)) if f.init and f.name != "wrapped"] for p in parts
    }
    given: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in settings.items():
        owner, _, setting = key.rpartition(".")
        owners = [part for part in fields if setting in fields[part] and owner in ("", part)]
        if not owners:
            known = [setting for part in fields for setting in fields[part]]
            near = difflib.get_close_matches(setting, known, n=2)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has: {', '.join(known)}"
            raise ValueError(f"objective {name!r} has no setting {key!r}; {hint}")
        if len(owners) > 1:
            choice = " or ".join(repr(f"{part}.{setting}") for part in owners)
            raise ValueError(f"several parts of {name!r} have a setting {setting!r}; say {choice}")
        given[owners[0]][setting] = value
    return given


@dataclass(frozen=True)
class Joint(Objective):
    """Objectives trained on the same examples by one model; the loss is the sum of their terms.

    At most one part makes sentence pairs, and then it makes the examples; otherwise the first part's packing does.
    Masked LMs select disjoint positions: each leaves alone what those before it selected. Terms and metrics of one
    name get their part's name in front.

    Args:
        parts: the objectives, in order.

    Raises `ValueError` for parts that cannot share a model or examples.
    """

    parts: tuple[Objective, ...]

    def __post_init__(self):
        _check_parts(self.parts)
        described = {
            "name": "+".join(part.name for part in self.parts),
            "summary": "; ".join(part.summary for part in self.parts),
            "architecture": self.parts[0].architecture,
            "packing": getattr(self.tokens[0], "packing", None),
            "replans": any(part.replans for part in self.parts),
            "needs": tuple(dict.fromkeys(name for part in self.parts for name in part.needs)),
            "row_columns": tuple(dict.fromkeys(name for part in self.parts for name in part.row_columns)),
            "stock_names": {"label_parts": None} | {k: v for part in self.parts for k, v in part.stock_names.items()},
        }
        for name, value in described.items():
            object.__setattr__(self, name, value)

    @property
    def pair(self) -> SentencePairs | None:
        """The part that makes sentence pairs, if any."""
        return next((part for part in self.parts if isinstance(part, SentencePairs)), None)

    @property
    def tokens(self) -> list[Objective]:
        """The parts that predict tokens."""
        return [part for part in self.parts if not isinstance(part, SentencePairs)]

    @property
    def terms(self) -> dict[str, Term]:
        """The terms of all parts."""
        return self._merge([part.terms for part in self.parts])

    @property
    def columns(self) -> dict[str, Column]:
        """The columns of all parts, and which of several masked LMs each label is for."""
        columns = {name: column for part in self.parts for name, column in part.columns.items()}
        return columns if len(self.tokens) == 1 else {**columns, "label_parts": Column(axis="flat")}

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """What each part checks."""
        for part in self.parts:
            part.check(vocabulary, config)

    def plan(self, documents: Documents, vocabulary: Vocabulary, **settings: Any):
        """The pairs, if a part makes pairs, else the first part's packing."""
        if self.pair is not None:
            return self.pair.plan(documents, vocabulary, columns=self.row_columns, **settings)
        return super().plan(documents, vocabulary, **settings)

    def from_features(self, features: list[Mapping], vocabulary: Vocabulary) -> Columns:
        """Rows from ordinary features or, with a part that makes pairs, from ready-made pairs."""
        columns = super().from_features(features, vocabulary)
        return columns if self.pair is None else label_column(columns, self.name)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Each masked LM in turn corrupts what those before it left."""
        if len(self.tokens) == 1:
            return self.tokens[0].corrupt(rows, draws, vocabulary)
        columns, ids = dict(rows), rows["input_ids"]
        taken = np.zeros(len(ids.values), bool)
        if "special_tokens_mask" in rows:
            taken |= rows["special_tokens_mask"].values != 0
        labels: dict[str, list] = {"label_positions": [], "label_ids": [], "label_parts": []}
        for number, part in enumerate(self.tokens):
            own = draws if number == 0 else _rekeyed(draws, number)
            columns = part.corrupt({**columns, "special_tokens_mask": ids.with_values(taken)}, own, vocabulary)
            positions = columns.pop("label_positions")
            taken = taken.copy()
            taken[positions.values + np.repeat(ids.offsets[:-1], positions.lengths)] = True
            labels["label_positions"].append(positions)
            labels["label_ids"].append(columns.pop("label_ids"))
            labels["label_parts"].append(positions.with_values(np.full(len(positions.values), number)))
        columns.pop("special_tokens_mask", None)
        return {**columns, **{name: join(found) for name, found in labels.items()}}

    def counts(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each part's denominators."""
        return self._merge([part.counts(view) for part, view in self._views(batch)])

    def loss(self, outputs, batch):
        """Each part's sums and metrics."""
        found = [part.loss(outputs, view) for part, view in self._views(batch)]
        metrics = [metrics for _, metrics in found]
        return self._merge([sums for sums, _ in found]), self._merge(metrics, _repeated(metrics))

    def _views(self, batch: Mapping[str, torch.Tensor]) -> list[tuple[Objective, Mapping[str, torch.Tensor]]]:
        """Each part with the batch as it sees it: of several masked LMs, only its own labels."""
        if "label_parts" not in batch:
            return [(part, batch) for part in self.parts]
        views, number = [], 0
        for part in self.parts:
            view = batch
            if part is not self.pair:
                own = batch["label_parts"] == number
                view, number = {**batch, "label_ids": torch.where(own, batch["label_ids"], -100)}, number + 1
            views.append((part, view))
        return views

    def _merge(self, found: list[Any], repeated: set[str] | None = None) -> dict[str, Any]:
        """One dictionary of the parts', each part's name before names that several have."""
        repeated = _repeated([part.terms for part in self.parts]) if repeated is None else repeated
        return {
            (f"{part.name}_{name}" if name in repeated else name): value
            for part, values in zip(self.parts, found, strict=True)
            for name, value in values.items()
        }

    def heads(self, main, vocabulary):
        """The heads of all parts."""
        return {name: head for part in self.parts for name, head in part.heads(main, vocabulary).items()}

    def build(self, backbone, vocabulary):
        """A masked LM with the heads of all parts."""
        if self.pair is None:
            return super().build(backbone, vocabulary)
        from ..models.sentence_pairs import build_pair_model

        return build_pair_model(self, backbone, vocabulary, self.pair.num_labels)


def _repeated(found: list[Any]) -> set[str]:
    """Names that more than one of the dictionaries has."""
    return {name for name, count in Counter(name for names in found for name in names).items() if count > 1}


def _rekeyed(draws: Draws, number: int) -> Draws:
    """The same draws with other noise."""
    return replace(draws, seed=int(keyed.combine(draws.seed, number)[0]), key=keyed.combine(draws.key, number))


def _check_parts(parts: tuple[Objective, ...]) -> None:
    """Raise `ValueError`, saying why, unless one model can be trained on all these on the same examples."""
    names = [part.name for part in parts]
    whole = "+".join(names)
    if len(parts) < 2 or len(set(names)) < len(names):
        raise ValueError(f"{whole!r} does not combine two different objectives")
    pairs = [part.name for part in parts if isinstance(part, SentencePairs)]
    if len(pairs) > 1:
        raise ValueError(f"{pairs[0]} and {pairs[1]} both make the examples, and their pairs differ; keep one of them")
    for part in parts:
        if isinstance(part, SentencePairs):
            continue
        cls = type(part)
        if part.architecture != "masked_lm" or cls.build is not Objective.build:
            raise ValueError(
                f"{part.name} trains a model of its own kind and cannot be combined in {whole!r}; "
                "mlm, whole_word_mlm, ngram_mlm and span_mlm can, with each other and with nsp or sop"
            )
        if cls.plan is not Objective.plan or cls.source is not Objective.source:
            raise ValueError(f"{part.name} makes examples of its own and cannot be combined in {whole!r}")
    tokens = [part for part in parts if not isinstance(part, SentencePairs)]
    strangers = [part.name for part in tokens if not isinstance(part, MaskedLM)]
    if len(tokens) > 1 and strangers:
        raise ValueError(f"{strangers[0]} cannot share a row with another objective on tokens; combine masked LMs only")
    early = [part.name for part in tokens[:-1] if getattr(part, "sbo_weight", 0)]
    if early:
        raise ValueError(
            f"{early[0]} predicts spans from the tokens beside them, which a later part of {whole!r} could mask; "
            f"name it last of the objectives on tokens"
        )
    shared = _repeated([part.columns for part in tokens]) - {"label_positions", "label_ids"}
    if shared:
        raise ValueError(f"the parts of {whole!r} both have a column {sorted(shared)[0]!r}; train them apart")
