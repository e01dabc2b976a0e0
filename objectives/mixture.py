"""Mixtures: several objectives, or one objective on several corpora, train one model; each draw is of one component.

    en: mlm   the cat [MASK]              or    clm   the cat sat      predict, at each token, the next
    ko: mlm   고양이가 [MASK]                    mlm   the [MASK] sat    predict: cat

Which draw is of which component is the business of `training.mixture`; here is what it takes to corrupt rows of several
objectives and to train one model on them. Conneau & Lample 2019, arXiv 1901.07291 (masked and translation LM); Raffel
et al. 2019, arXiv 1910.10683, section 3.5.2 (mixing by rate); Gisserot-Boukhlef et al. 2025, arXiv 2507.00994 (causal,
then masked).

    >>> from pretrain_zoo.objectives import Mixture, get_objective
    >>> sorted(Mixture({"causal": get_objective("clm"), "masked": get_objective("mlm")}).terms)
    ['clm', 'mlm']
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .base import Column, Columns, Draws, Objective, Term
from .causal import CausalLM
from .collator import INTERNAL
from .losses import token_losses
from .mlm import MaskedLM
from .prefix_lm import PADDING_RANK
from .ragged import Ragged
from .sentence_pairs import SentencePairs
from .seq2seq import Seq2SeqObjective
from .source import stack_rows
from .translation import TranslationLM
from .vocabulary import Vocabulary

GROUP = "components_"
"""Begin of the name of the column that says which component each row is of; the group's number follows."""
PLAIN_LOSSES = (MaskedLM.loss, CausalLM.loss, Seq2SeqObjective.loss)
"""Losses that are a cross-entropy over `label_ids` and nothing else."""


@dataclass(frozen=True)
class MixedRows:
    """Uncorrupted rows of several components.

    Attributes:
        group: which components could be among them, an index into `Mixture.groups`.
        parts: rows of each component that is there, in the order of the component's draws.
    """

    group: int
    parts: dict[int, Columns]


@dataclass(frozen=True)
class Mixture(Objective):
    """Objectives that take turns on one model.

    Batches hold rows of one component, or of several whose columns are alike. Rows come out of `corrupt` component by
    component.

    *Loss.* Terms of one name are one term: sums and counts of all components that have it are added up, as if one
    objective read a mixed corpus. Where a step mixes objectives with unlike terms, each term counts by the share of the
    step's rows that have it. Metrics are told by component: `en.mlm_loss`, `en.accuracy`.

    *Model.* Objectives of one kind train the model of that kind. Masked and causal LMs can share one: then every row
    says by ranks what its tokens may see (`models.ranked_attention`), a causal LM's rows from left to right, and the
    model is a masked LM where the backbone has one, else a causal LM whose mask is lifted; if its last component is
    masked, its config has `is_causal=False`, by which stock classes read in both directions.

    Args:
        components: objectives by component's name, in the order of `Draws.component`.
        together: names of components that are mixed within a batch, a tuple for each such mixture.

    Raises `ValueError`, saying why, for objectives that cannot share a model, and components that cannot share a batch.
    """

    components: Mapping[str, Objective]
    together: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self):
        if not self.components:
            raise ValueError("a mixture needs a component")
        ranked = _check(self.components)
        objectives = list(self.components.values())
        described = {
            "name": ", ".join(f"{name}: {objective.name}" for name, objective in self.components.items()),
            "summary": "; ".join(dict.fromkeys(objective.summary for objective in objectives)),
            "architecture": "masked_lm" if ranked else objectives[0].architecture,
            "ranked": ranked,
            "reset_positions": any(getattr(o, "reset_positions", False) is not False for o in objectives),
            "document_attention": any(getattr(objective, "document_attention", False) for objective in objectives),
            "needs": tuple(dict.fromkeys(token for objective in objectives for token in objective.needs)),
        }
        for name, value in described.items():
            object.__setattr__(self, name, value)
        for names in self.together:
            self._check_together(names)

    def __getattr__(self, name: str) -> Any:
        """Settings that a model reads of its objective; models that read any have only equal objectives."""
        if name.startswith("_") or "components" not in self.__dict__:
            raise AttributeError(name)
        return getattr(next(iter(self.components.values())), name)

    @cached_property
    def names(self) -> list[str]:
        """The components."""
        return list(self.components)

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """Components that batches are made of: each alone, then those mixed within a batch."""
        alone: list[tuple[int, ...]] = [(i,) for i in range(len(self.names))]
        return alone + [tuple(map(self.names.index, names)) for names in self.together if len(names) > 1]

    @property
    def terms(self) -> dict[str, Term]:
        """The terms of all components, those of one name once."""
        return {name: term for objective in self.components.values() for name, term in objective.terms.items()}

    @property
    def perplexity_term(self) -> str | None:
        """`None`: components have losses of their own."""
        return None

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Those of all components."""
        return tuple(dict.fromkeys(token for o in self.components.values() for token in o.special_tokens))

    @property
    def columns(self) -> dict[str, Column]:
        """Those of all components, and of which component rows and labels are."""
        columns = {name: column for o in self.components.values() for name, column in o.columns.items()}
        if self.ranked:
            columns["attention_ranks"] = Column(pad=PADDING_RANK)
        return {**columns, "label_components": Column(axis="flat")}

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """What each component checks, and that encoder-decoders all begin with one token."""
        for objective in self.components.values():
            objective.check(vocabulary, config)
        starts = {n: o.start_id(vocabulary) for n, o in self.components.items() if isinstance(o, Seq2SeqObjective)}
        if len(set(starts.values())) > 1:
            raise ValueError(
                f"the components begin their output with unlike tokens ({starts}); give all one decoder_start_token_id"
            )

    def corrupt(self, rows: Any, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Each component corrupts its rows (`MixedRows`); they come out component by component.

        Raises `ValueError` where the columns of components in one batch differ.
        """
        parts = []
        for component, columns in rows.parts.items():
            own = draws.take(np.flatnonzero(draws.component == component))
            objective = self.components[self.names[component]]
            done = self._completed(objective, objective.corrupt(columns, own, vocabulary))
            if len(self.groups[rows.group]) > 1 and "label_ids" in done:
                labels: Ragged = done["label_ids"]
                done["label_components"] = labels.with_values(np.full(len(labels.values), component))
            parts.append({**done, f"{GROUP}{rows.group}": np.full(len(own), component)})
        for part, component in zip(parts, rows.parts):
            if unlike := part.keys() ^ parts[0].keys():
                there, here = (self.names[c] for c in (next(iter(rows.parts)), component))
                raise ValueError(
                    f"{there} and {here} have unlike columns ({', '.join(sorted(unlike))}) and cannot share a batch; "
                    "mix them by batch"
                )
        return parts[0] if len(parts) == 1 else stack_rows(parts)

    def _completed(self, objective: Objective, columns: Columns) -> Columns:
        """With the ranks and positions that rows of other components have, and without what no model takes."""
        columns = {name: column for name, column in columns.items() if name not in INTERNAL}
        ids: Ragged = columns["input_ids"]
        if self.ranked and "attention_ranks" not in columns:
            causal = objective.architecture == "causal_lm"
            columns["attention_ranks"] = ids.with_values(ids.positions if causal else np.zeros(len(ids.values), int))
        if self.reset_positions and "position_ids" not in columns:
            columns["position_ids"] = ids.with_values(ids.positions)
        return columns

    # losses

    def _group(self, batch: Mapping[str, torch.Tensor]) -> tuple[tuple[int, ...], torch.Tensor]:
        """(components that could be in the batch, component of each row)."""
        name = next(name for name in batch if name.startswith(GROUP))
        return self.groups[int(name.removeprefix(GROUP))], batch[name]

    def _by_token(self, group: tuple[int, ...]) -> bool:
        """Whether the batch's losses are told by the component of each label."""
        return len(group) > 1 and all(_is_plain(self.components[self.names[c]]) for c in group)

    def _per_component(self, index: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Sum of `values` for each component."""
        zeros = torch.zeros(len(self.names), dtype=values.dtype, device=values.device)
        return zeros.index_add(0, index, values)

    def counts(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Denominators of the terms in the batch; where rows have unlike terms also the rows of each, and of all."""
        group, component = self._group(batch)
        if not self._by_token(group):
            return self.components[self.names[group[0]]].counts(batch)
        labels = self._per_component(batch["label_components"], (batch["label_ids"] != -100).long())
        found = {term: torch.stack([labels[c] for c in of]).sum() for term, of in self._terms(group).items()}
        if len(found) > 1:
            rows = self._per_component(component, torch.ones_like(component))
            found |= {_rows(term): torch.stack([rows[c] for c in of]).sum() for term, of in self._terms(group).items()}
            found[_rows("")] = rows.sum()
        return found

    def label_weights(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Those of the batch's component; plain losses have none."""
        group, _ = self._group(batch)
        return None if self._by_token(group) else self.components[self.names[group[0]]].label_weights(batch)

    def denominators(self, counts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Counts of a step, those of terms that only a part of its rows have raised by one over that part."""
        total = counts.get(_rows(""))
        if total is None:
            return counts
        rows = {term: counts[_rows(term)] for term in self.terms if _rows(term) in counts}
        return counts | {t: counts[t] * total / torch.where(number > 0, number, 1) for t, number in rows.items()}

    def _terms(self, group: tuple[int, ...]) -> dict[str, list[int]]:
        """Components of the group that have each term."""
        terms: dict[str, list[int]] = {}
        for component in group:
            for term in self.components[self.names[component]].terms:
                terms.setdefault(term, []).append(component)
        return terms

    def loss(self, outputs, batch):
        """Sums of the terms in the batch; each component's losses and metrics under its name."""
        group, _ = self._group(batch)
        if self._by_token(group):
            return self._token_loss(group, outputs, batch)
        name = self.names[group[0]]
        objective = self.components[name]
        sums, metrics = objective.loss(outputs, batch)
        if len(group) > 1:
            return sums, metrics
        counts = objective.counts(batch)
        losses = {term: (total, counts[term]) for term, total in sums.items() if term in counts}
        named = {f"{name}.{term}_loss": (total.detach(), count) for term, (total, count) in losses.items()}
        return sums, named | {f"{name}.{metric}": value for metric, value in metrics.items()}

    def _token_loss(self, group, outputs, batch):
        """As `loss`, for plain losses of several components in one batch."""
        logits, labels, component = outputs["logits"], batch["label_ids"], batch["label_components"]
        losses = self._per_component(component, token_losses(logits, labels))
        terms = self._terms(group)
        with torch.no_grad():
            counts = self._per_component(component, (labels != -100).long())
            correct = self._per_component(component, ((logits.argmax(-1) == labels) & (labels != -100)).long())
        metrics = {}
        for term, of in terms.items():
            for c in of:
                metrics[f"{self.names[c]}.{term}_loss"] = (losses[c].detach(), counts[c])
                metrics[f"{self.names[c]}.accuracy"] = (correct[c], counts[c])
        return {term: torch.stack([losses[c] for c in of]).sum() for term, of in terms.items()}, metrics

    # model

    def heads(self, main, vocabulary):
        """The heads of all components."""
        return {name: head for o in self.components.values() for name, head in o.heads(main, vocabulary).items()}

    def build(self, backbone, vocabulary):
        """The model that all components train."""
        objectives = list(self.components.values())
        if self.ranked:
            from ..models.bidirectional import is_causal_only
            from ..models.ranked_attention import RankedAttentionModel

            masked = not is_causal_only(backbone.config)
            object.__setattr__(self, "architecture", "masked_lm" if masked else "causal_lm")
            model = RankedAttentionModel.build(self, backbone, vocabulary)
            if not masked and objectives[-1].architecture == "masked_lm":
                model.config.is_causal = False  # stock classes, which know no ranks, read in both directions then
            return model
        if any(isinstance(objective, TranslationLM) for objective in objectives):
            from ..models.translation import TranslationModel

            return TranslationModel.build(self, backbone, vocabulary)
        pairs = [part for objective in objectives for part in _parts(objective) if isinstance(part, SentencePairs)]
        if pairs:
            from ..models.sentence_pairs import build_pair_model

            return build_pair_model(self, backbone, vocabulary, pairs[0].num_labels)
        if all(type(objective).build is Objective.build for objective in objectives):
            return super().build(backbone, vocabulary)
        self.check(vocabulary, backbone.config)
        model = objectives[0].build(backbone, vocabulary)
        model.objective = self
        return model

    def export(self, model):
        """What the first component exports."""
        return next(iter(self.components.values())).export(model)

    def _check_together(self, names: tuple[str, ...]) -> None:
        """Raise `ValueError` unless these components can share a batch."""
        objectives = [self.components[name] for name in names]
        strangers = [o.name for o in objectives if not _is_plain(o)]
        if strangers and any(objective != objectives[0] for objective in objectives):
            raise ValueError(
                f"{' and '.join(dict.fromkeys(o.name for o in objectives))} cannot share a batch: {strangers[0]} has a "
                "loss of its own kind; mix them by batch (mixing: batch)"
            )


def _rows(term: str) -> str:
    """Name of the count of rows that have a term; of all rows for ""."""
    return f"rows of {term}" if term else "rows"


def _is_plain(objective: Objective) -> bool:
    """Whether the loss is a cross-entropy over `label_ids` alone."""
    plain = type(objective).loss in PLAIN_LOSSES and type(objective).counts is Objective.counts
    return plain and len(objective.terms) == 1


def _parts(objective: Objective) -> tuple[Objective, ...]:
    return getattr(objective, "parts", (objective,))


def _kind(objective: Objective) -> str | None:
    """What the model of an objective is shared by; `None`: by equal objectives only."""
    if isinstance(objective, Seq2SeqObjective):
        return "seq2seq"
    if isinstance(objective, TranslationLM):
        return "masked_lm, positions"
    if any(isinstance(part, SentencePairs) for part in _parts(objective)):
        return "masked_lm, pairs"
    if "attention_ranks" in objective.columns:
        return "ranks"
    return objective.architecture if type(objective).build is Objective.build else None


def _check(components: Mapping[str, Objective]) -> bool:
    """Whether the model attends by rank. Raises `ValueError`, saying why, for objectives that cannot share a model."""
    objectives = list(components.values())
    whole = " and ".join(dict.fromkeys(objective.name for objective in objectives))
    kinds = {_kind(objective) for objective in objectives}
    ranked = "ranks" in kinds or {"masked_lm", "causal_lm"} <= kinds
    equal = all(objective == objectives[0] for objective in objectives)
    if None in kinds and not equal:
        stranger = next(o for o in objectives if _kind(o) is None)
        raise ValueError(f"{stranger.name} trains a model of its own kind and cannot be mixed ({whole})")
    encoders = all(kind is not None and kind.startswith("masked_lm") for kind in kinds)
    if not kinds <= {"ranks", "masked_lm", "causal_lm"} and len(kinds - {"masked_lm"} if encoders else kinds) > 1:
        raise ValueError(f"{whole} train models of unlike kinds and cannot be mixed; train them one after another")
    labels = {part.num_labels for o in objectives for part in _parts(o) if isinstance(part, SentencePairs)}
    if len(labels) > 1:
        raise ValueError(f"{whole} sort pairs into unlike numbers of classes and cannot share a head")
    if ranked and any(getattr(objective, "document_attention", False) for objective in objectives):
        raise ValueError("document_attention has a mask of its own, and masked and causal LMs share one by ranks")
    terms: dict[str, Term] = {}
    for objective in objectives:
        for name, term in objective.terms.items():
            if callable(term.weight) and not equal or terms.setdefault(name, term) != term:
                raise ValueError(f"{whole} give the term {name} unlike weights; make them equal")
    columns: dict[str, Column] = {}
    for objective in objectives:
        for name, column in objective.columns.items():
            if columns.setdefault(name, column) != column:
                raise ValueError(f"{whole} lay out the column {name} in unlike ways and cannot be mixed")
    return ranked
