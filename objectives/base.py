"""The contract between an objective and everything that runs it.

    documents ──plan──▶ rows ──corrupt──▶ columns ──pad──▶ batch ──model──▶ outputs ──loss──▶ sums per term

An objective is a frozen dataclass of published hyper-parameters that says how documents become examples (`plan`), how
rows of examples are corrupted (`corrupt`, NumPy only), which model it trains (`build`), and what its loss terms are
(`terms`, `counts`, `loss`). Everything random in it is a function of the row's key, so a run gives the same batches
with any number of workers, processes and restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from . import keyed
from .documents import Documents
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

    from ..models.presets import Backbone
    from ..models.pretraining import PretrainingModel

Columns = dict[str, Any]
"""Named columns of a batch of rows: `Ragged` (a value per token, or a list per row), or an array (a value per row)."""


@dataclass(frozen=True)
class Column:
    """How a column becomes a tensor.

    Attributes:
        pad: value that fills up the rows.
        axis: columns of one axis ("input", "target") are padded to one length; "row" columns have one value per row
            and are not padded; "flat" columns are laid end to end, `[N]`.
        index: for flat columns of positions: the axis they point into; position `i` of row `b` becomes
            `b * length + i`, an index into the flattened `[B, length]` tensors of that axis.
    """

    pad: float = 0
    axis: str = "input"
    index: str | None = None


@dataclass(frozen=True)
class Term:
    """A loss term.

    Attributes:
        weight: factor of the term in the loss; a number, or a function of progress in [0, 1).
        additive: whether the term is a sum over items with a count known before the forward pass, so that it can be
            divided by the global count of the optimizer step. Others (router losses, in-batch contrast) are averaged
            over micro-batches and processes.
    """

    weight: float | Callable[[float], float] = 1.0
    additive: bool = True

    def weight_at(self, progress: float) -> float:
        """The weight at `progress` in [0, 1)."""
        return self.weight(progress) if callable(self.weight) else self.weight


@dataclass(frozen=True)
class Draws:
    """Which draws of a run the rows of a batch are, one entry per row.

    Attributes:
        seed: the run's data seed.
        number: int64, number of the draw in the run.
        epoch: int64, how often the example was visited before.
        example: int64, index of the example in its epoch's plan.
        progress: float64 in [0, 1), share of the run that lies before the draw's optimizer step.
        key: uint64, what the row's noise is keyed on.
        component: int32, index of the mixture's component.
    """

    seed: int
    number: np.ndarray
    epoch: np.ndarray
    example: np.ndarray
    progress: np.ndarray
    key: np.ndarray
    component: np.ndarray

    @classmethod
    def of(cls, seed: int, number, epoch, example, progress=0.0, component=0) -> Draws:
        """From arrays (or scalars, broadcast); the key is the hash of seed, component, epoch and example."""
        number = np.asarray(number, np.int64)
        epoch, example, component = (
            np.broadcast_to(np.asarray(x, np.int64), number.shape) for x in (epoch, example, component)
        )
        progress = np.broadcast_to(np.asarray(progress, np.float64), number.shape)
        return cls(seed, number, epoch, example, progress, keyed.combine(seed, component, epoch, example), component)

    def __len__(self) -> int:
        return len(self.number)

    def static(self, copies: int) -> Draws:
        """The same draws with only `copies` different noises per example, used in turn (BERT's `dupe_factor`)."""
        key = keyed.combine(self.seed, self.component, self.epoch % copies, self.example)
        return replace(self, key=key)

    def take(self, rows: np.ndarray) -> Draws:
        """The given rows."""
        fields = ("number", "epoch", "example", "progress", "key", "component")
        return replace(self, **{name: getattr(self, name)[rows] for name in fields})


class Plan(Protocol):
    """The examples of one epoch."""

    @property
    def order(self) -> Literal["shuffled", "streams"]:
        """ "shuffled": any order. "streams": `global_batch` contiguous streams end to end, each read in sequence."""
        ...

    def __len__(self) -> int: ...

    def rows(self, index: np.ndarray) -> Columns:
        """The examples with these indices, as columns."""
        ...


class Source(Protocol):
    """The examples of a whole run by draw number."""

    order: str

    def draws(self, numbers: np.ndarray, progress: np.ndarray) -> Draws:
        """Epoch, example and component of the draws with these numbers, made at this progress of the run."""
        ...

    def rows(self, draws: Draws) -> Columns:
        """The examples of these draws, in their order."""
        ...

    def state(self, number: int) -> Any:
        """What spares work in finding draw `number` and later ones after a restart, for a JSON file."""
        ...

    def restore(self, state: Any) -> None:
        """Take over what `state` returned."""
        ...


@dataclass(frozen=True)
class Objective:
    """Base of all objectives: subclasses are frozen dataclasses, registered by `@register`.

    Class attributes:
        name: registered name, set by `@register`.
        summary: one line for lists.
        architecture: the kind of model it trains: "masked_lm", "causal_lm", "seq2seq" or one of its own.
        needs: tokens the tokenizer must have (`("mask", "pad")`).
        row_columns: optional columns that `corrupt` reads and a plan has to provide, beside `input_ids`.
        replans: whether `plan` gives other examples in other epochs (fresh sentence pairs).
        dense_shift: how far right of its position a label stands in dense `labels` (1 for models that shift inside).
        stock_names: names that stock models know columns by, for a collator alone; `None` leaves a column out.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    architecture: ClassVar[str] = "masked_lm"
    needs: ClassVar[tuple[str, ...]] = ("pad",)
    row_columns: ClassVar[tuple[str, ...]] = ()
    dense_shift: ClassVar[int] = 0
    replans: ClassVar[bool] = False
    stock_names: ClassVar[Mapping[str, str | None]] = {}

    @property
    def terms(self) -> dict[str, Term]:
        """Loss terms by name."""
        return {self.name: Term()}

    @property
    def perplexity_term(self) -> str | None:
        """The term whose exponential is a perplexity: the only one; `None` where there are several, or none is."""
        return next(iter(self.terms)) if len(self.terms) == 1 else None

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Texts of special tokens that the tokenizer must have beside `needs`; one trained for a run gets them."""
        return ()

    @property
    def columns(self) -> dict[str, Column]:
        """How the columns that `corrupt` returns become tensors; columns not listed are per token, padded with 0."""
        return LABEL_COLUMNS

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Refuse, by a `ValueError` that says why, a tokenizer or backbone this objective cannot work with."""
        vocabulary.require(*self.needs)

    def plan(
        self, documents: Documents, vocabulary: Vocabulary, *, length: int, seed: int, epoch: int, global_batch: int
    ) -> Plan:
        """Examples of one epoch, at most `length` tokens each, special tokens included."""
        from .segments import pack

        packing = getattr(self, "packing", "full_sentences")
        return pack(documents, vocabulary, length=length, packing=packing, columns=self.row_columns)

    def source(
        self,
        documents: Documents,
        vocabulary: Vocabulary,
        *,
        length: int,
        seed: int,
        global_batch: int,
        shuffle: bool = True,
    ) -> Source:
        """The whole run's examples by draw number: epochs of `plan`. Mixtures and phases put their own here."""
        if not len(documents):
            raise ValueError("the corpus has no documents; check its path and filters")
        from .source import EpochSource

        # a partial, which goes to data workers where they are spawned; a closure cannot
        plan_of = partial(self._plan_epoch, documents, vocabulary, length=length, seed=seed, global_batch=global_batch)
        replans = self.replans or documents.windowed
        return EpochSource(plan_of, seed=seed, global_batch=global_batch, replans=replans, shuffle=shuffle)

    def _plan_epoch(self, documents: Documents, vocabulary: Vocabulary, *, epoch: int, **sizes: int) -> Plan:
        return self.plan(documents.at(epoch), vocabulary, epoch=epoch, **sizes)

    def from_features(self, features: list[Mapping], vocabulary: Vocabulary) -> Columns:
        """Rows from what a tokenizer returns, for use of the collator alone. Raises `ValueError` on missing columns."""
        from .features import columns_from_features

        return columns_from_features(features, vocabulary, self.row_columns)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """Corrupted inputs and labels. A pure function: the result of a row depends on the row and its draw only."""
        raise NotImplementedError

    def counts(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Denominator of each additive term in this batch, before the forward pass; float64 or int64 scalars."""
        return {name: (batch["label_ids"] != -100).sum() for name in self.terms}

    def label_weights(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Weight of each of `label_ids` in the term's sum; `None`: 1 each."""
        return None

    def denominators(self, counts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What each additive term's sum is divided by, from the `counts` of an optimizer step, added up."""
        return counts

    def loss(
        self, outputs: Mapping[str, Any], batch: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """Sums of each term, with gradient, and metrics as (sum, count), without."""
        raise NotImplementedError

    def heads(self, main: Any, vocabulary: Vocabulary) -> dict[str, Any]:
        """Modules to train beside the Hugging Face model `main`, by the name of their output."""
        return {}

    def build(self, backbone: Backbone, vocabulary: Vocabulary) -> PretrainingModel:
        """The model to train, its weights random or from the backbone's checkpoint."""
        from ..models.build_model import build_model

        return build_model(self, backbone, vocabulary)

    def export(self, model: PretrainingModel) -> dict[str, Any]:
        """Plain Hugging Face models by name; "" is the main one. Each loads with its `Auto…` class."""
        return {"": model.main}


LABEL_COLUMNS: dict[str, Column] = {
    "label_positions": Column(pad=0, axis="flat", index="input"),
    "label_ids": Column(pad=-100, axis="flat"),
}
"""Sparse labels: which input positions are predicted, and their ids. Alone, a collator hands over dense `labels`."""
