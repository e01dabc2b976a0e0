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
from .collator import INTERNAL
from .mixed_losses import by_share_of_rows, pooled_counts, pooled_losses
from .prefix_lm import PADDING_RANK
from .ragged import Ragged
from .seq2seq import Seq2SeqObjective
from .sharing import check_batch, check_model, is_plain, reset_positions_of
from .source import stack_rows
from .vocabulary import Vocabulary

GROUP = "components_"
"""Begin of the name of the column that says which component each row is of; the group's number follows."""


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
    step's rows that have it. Metrics are told by component: `en.mlm_loss`, `en.accuracy`; only where an objective whose
    loss is more than a cross-entropy (`rtd`, `diffusion`) reads several corpora in one batch, they are told together.

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
        objectives = list(self.components.values())
        ranked = check_model(objectives)
        described = {
            "name": ", ".join(f"{name}: {objective.name}" for name, objective in self.components.items()),
            "summary": "; ".join(dict.fromkeys(objective.summary for objective in objectives)),
            "architecture": "masked_lm" if ranked else objectives[0].architecture,
            "ranked": ranked,
            "reset_positions": reset_positions_of(objectives),
            "document_attention": any(getattr(objective, "document_attention", False) for objective in objectives),
            "needs": tuple(dict.fromkeys(token for objective in objectives for token in objective.needs)),
        }
        for name, value in described.items():
            object.__setattr__(self, name, value)
        for names in self.together:
            check_batch([self.components[name] for name in names])

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
        if self.reset_positions is not False and "position_ids" not in columns:
            columns["position_ids"] = ids.with_values(ids.positions)
        return columns

    # losses

    def _group(self, batch: Mapping[str, torch.Tensor]) -> tuple[tuple[int, ...], torch.Tensor]:
        """(components that could be in the batch, component of each row)."""
        name = next(name for name in batch if name.startswith(GROUP))
        return self.groups[int(name.removeprefix(GROUP))], batch[name]

    def _first(self, group: tuple[int, ...]) -> Objective:
        """The group's first objective; where losses are not told by token, the others are equal to it."""
        return self.components[self.names[group[0]]]

    def _by_token(self, group: tuple[int, ...]) -> bool:
        """Whether the batch's losses are told by the component of each label."""
        return len(group) > 1 and all(is_plain(self.components[self.names[c]]) for c in group)

    def _terms(self, group: tuple[int, ...]) -> dict[str, list[int]]:
        """Components of the group that have each term."""
        terms: dict[str, list[int]] = {}
        for component in group:
            for term in self.components[self.names[component]].terms:
                terms.setdefault(term, []).append(component)
        return terms

    def counts(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Denominators of the terms in the batch; where rows have unlike terms also the rows of each, and of all."""
        group, component = self._group(batch)
        if self._by_token(group):
            return pooled_counts(self._terms(group), batch, component)
        return self._first(group).counts(batch)

    def label_weights(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Those of the batch's component; plain losses have none."""
        group, _ = self._group(batch)
        return None if self._by_token(group) else self._first(group).label_weights(batch)

    def denominators(self, counts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Counts of a step, those of terms that only a part of its rows have raised by one over that part."""
        return by_share_of_rows(counts)

    def loss(self, outputs, batch):
        """Sums of the terms in the batch; each component's losses and metrics under its name."""
        group, _ = self._group(batch)
        if self._by_token(group):
            return pooled_losses(self._terms(group), self.names, outputs["logits"], batch)
        objective, name = self._first(group), self.names[group[0]]
        sums, metrics = objective.loss(outputs, batch)
        if len(group) > 1:
            return sums, metrics
        counts = objective.counts(batch)
        losses = {term: (total, counts[term]) for term, total in sums.items() if term in counts}
        named = {f"{name}.{term}_loss": (total.detach(), count) for term, (total, count) in losses.items()}
        return sums, named | {f"{name}.{metric}": value for metric, value in metrics.items()}

    # model

    def heads(self, main, vocabulary):
        """The heads of all components."""
        return {name: head for o in self.components.values() for name, head in o.heads(main, vocabulary).items()}

    def build(self, backbone, vocabulary):
        """The model that all components train."""
        from ..models.mixed_model import build_mixed_model

        return build_mixed_model(self, backbone, vocabulary)

    def export(self, model):
        """What the first component exports."""
        return next(iter(self.components.values())).export(model)
