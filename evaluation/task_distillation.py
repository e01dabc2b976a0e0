"""Distillation of fine-tuned models: a student learns a task from a teacher that was fine-tuned on it.

    distiller = TaskDistiller(load_teacher("runs/bert-base-sst2"), student, TaskDistillation(temperature=2.0))
    trainer = distilled(Trainer, distiller)(model=student, …)          # any subclass of Trainer (`distilled_trainer`)
    with distiller.intermediate():                                     # TinyBERT's first stage: inner layers
        distilled(Trainer, distiller)(model=student, …).train()
    trainer.train()                                                    # the second: predictions

TinyBERT, Jiao et al. 2019, arXiv 1909.10351, section 3.3 (two stages, soft cross-entropy at T = 1, squared differences
for regression); DistilBERT, Sanh et al. 2019, arXiv 1910.01108, section 4 (soft and true labels together).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..models.initialize import uniform_layer_map
from ..models.masked_positions import stock_model
from ..models.projections import MORE_THAN_DOT_PRODUCTS, Projections
from ..objectives.distillation_losses import attention_distance, divergence, squared_distance, wide

Sums = dict[str, Tensor]


@dataclass
class TaskDistillation:
    """Settings; published names where there are any.

    Attributes:
        temperature: T of the soft targets, whose term has a factor T² (TinyBERT: 1).
        soft_weight: of KL(teacher ‖ student) of the predictions, per example; in regression of the squared difference.
        hard_weight: of the loss on the true labels (TinyBERT: 0), per example that has one.
        hidden_weight: of hidden states, per token, in the intermediate stage; a narrower student's pass a projection,
            which is thrown away afterwards.
        attention_weight: of attention scores, per pair of tokens, in the intermediate stage.
        layer_map: for each student layer the teacher's, counted from 1; `None`: evenly spaced up to the last.
    """

    temperature: float = 1.0
    soft_weight: float = 1.0
    hard_weight: float = 0.0
    hidden_weight: float = 1.0
    attention_weight: float = 1.0
    layer_map: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")
        for name in ("soft_weight", "hard_weight", "hidden_weight", "attention_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, as {getattr(self, name)} is")


class TaskDistiller:
    """A fine-tuned teacher and what its student is compared by; itself no module, so nothing of it is trained or saved.

    Args:
        teacher, student: sequence classifiers, or regressors, of one tokenizer and with the same labels.
        settings: see `TaskDistillation`.
        sep_token_id: lets token types be made for a teacher that has them, where the student's batches do not (a
            DistilBERT from a BERT, on pairs).

    Raises `ValueError` for models that cannot be compared.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        student: Any,
        settings: TaskDistillation | None = None,
        sep_token_id: int | None = None,
    ):
        self.settings, self.sep_token_id = settings or TaskDistillation(), sep_token_id
        self.teacher, self.student = teacher.eval().requires_grad_(False), stock_model(student)
        ours, theirs = self.student.config, teacher.config
        if ours.num_labels != theirs.num_labels:
            raise ValueError(f"the student has {ours.num_labels} labels and the teacher {theirs.num_labels}")
        if ours.vocab_size != theirs.vocab_size:
            raise ValueError(
                f"the student reads {ours.vocab_size} tokens and the teacher {theirs.vocab_size}; both must have one "
                "tokenizer"
            )
        names = [{str(name).lower(): i for i, name in (c.id2label or {}).items()} for c in (ours, theirs)]
        if names[0].keys() == names[1].keys() and names[0] != names[1]:
            raise ValueError(f"the labels stand in another order: {ours.id2label} and {theirs.id2label}")
        self.regression = ours.num_labels == 1
        self.in_intermediate_stage = False
        self.accepts = frozenset(inspect.signature(stock_model(teacher).forward).parameters)

    # stages

    @contextmanager
    def intermediate(self) -> Iterator[None]:
        """While it is entered the loss compares inner layers instead of predictions.

        Raises `ValueError` for models whose layers cannot be compared.
        """
        settings, student, teacher = self.settings, self.student, self.teacher
        ours: Any = student.config
        theirs: Any = teacher.config
        chosen = settings.layer_map or uniform_layer_map(ours.num_hidden_layers, theirs.num_hidden_layers)
        if len(chosen) != ours.num_hidden_layers or not all(1 <= n <= theirs.num_hidden_layers for n in chosen):
            raise ValueError(
                f"layer_map {chosen} must have {ours.num_hidden_layers} numbers, one for each of the student's layers, "
                f"from 1 to {theirs.num_hidden_layers}"
            )
        self.chosen = chosen
        self.projections: tuple[Projections, Projections] | None = None
        if settings.attention_weight:
            self._check_attention()
            layers = range(len(chosen)), [layer - 1 for layer in chosen]
            self.projections = Projections(student, layers[0]), Projections(teacher, layers[1])
        if settings.hidden_weight and ours.hidden_size != theirs.hidden_size:
            # on the student, so that it reaches the optimizer and DDP's buckets
            width = nn.Linear(ours.hidden_size, theirs.hidden_size, device=student.device, dtype=student.dtype)
            student.hidden_projection = width
        self.in_intermediate_stage = True
        try:
            yield
        finally:
            self.in_intermediate_stage = False
            if hasattr(student, "hidden_projection"):
                del student.hidden_projection

    def _check_attention(self) -> None:
        for model in (self.student, self.teacher):
            more = MORE_THAN_DOT_PRODUCTS.get(model.config.model_type)
            if more is not None:
                raise ValueError(
                    f"attention of {model.config.model_type} is made of {more}, too; set attention_weight=0"
                )
        heads = [model.config.num_attention_heads for model in (self.student, self.teacher)]
        if heads[0] != heads[1]:
            raise ValueError(
                f"the student has {heads[0]} attention heads and the teacher {heads[1]}, which cannot be compared one "
                "by one; set attention_weight=0"
            )

    # losses

    def counts(self, batch: Mapping[str, Tensor]) -> Sums:
        """What each term is divided by: examples, tokens or pairs of tokens."""
        mask, weights = batch["attention_mask"] != 0, self._weights()
        counts = {"hidden": mask.sum(), "attention": mask.sum(1).square().sum()}
        counts["soft"] = torch.tensor(len(mask), device=mask.device)
        if "hard" in weights:
            counts["hard"] = labelled(batch["labels"]).sum()
        return {name: counts[name] for name in weights}

    def _weights(self) -> dict[str, float]:
        names = ("hidden", "attention") if self.in_intermediate_stage else ("soft", "hard")
        weights = {name: getattr(self.settings, f"{name}_weight") for name in names}
        weights = {name: weight for name, weight in weights.items() if weight}
        if not weights:
            raise ValueError(f"nothing is learnt: {' and '.join(f'{name}_weight' for name in names)} are 0")
        return weights

    def loss(self, model: Any, batch: Mapping[str, Tensor], totals: Mapping[str, Tensor] | None = None):
        """Σ weight · sum / count, and the student's outputs.

        Args:
            model: the student, as it is trained (wrapped by DDP or not).
            batch: what a sequence classifier takes, with `attention_mask` and, for the true labels, `labels`, −100 (or,
                of a regression, NaN) where there is none.
            totals: counts to divide by, those of the optimizer step; `None`: the batch's own.
        """
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        sums, outputs = (self._inner if self.in_intermediate_stage else self._predictions)(model, inputs, batch)
        totals = self.counts(batch) if totals is None else totals
        weights = self._weights()
        parts = [weights[name] * value / totals[name].clamp(min=1).to(value.dtype) for name, value in sums.items()]
        return torch.stack(parts).sum(), outputs

    def _predictions(self, model: Any, inputs: dict[str, Tensor], batch: Mapping[str, Tensor]):
        settings, outputs = self.settings, model(**inputs)
        ours, sums = outputs.logits, {}
        if settings.soft_weight:
            theirs = self._teach(inputs).logits
            if self.regression:
                sums["soft"] = squared_distance(ours, theirs)
            else:
                sums["soft"] = settings.temperature**2 * divergence(ours, theirs, settings.temperature).sum()
        if settings.hard_weight:
            if self.regression:
                known = labelled(batch["labels"])
                sums["hard"] = (wide(ours).squeeze(-1)[known] - batch["labels"][known]).square().sum()
            else:
                sums["hard"] = F.cross_entropy(wide(ours), batch["labels"], reduction="sum")
        return sums, outputs

    def _inner(self, model: Any, inputs: dict[str, Tensor], batch: Mapping[str, Tensor]):
        settings, mask = self.settings, batch["attention_mask"] != 0
        asked = {"output_hidden_states": True} if settings.hidden_weight else {}
        if self.projections is None:
            outputs, taught = model(**inputs, **asked), self._teach(inputs, **asked)
        else:
            with self.projections[0]:
                outputs = model(**inputs, **asked)
            with self.projections[1]:
                taught = self._teach(inputs, **asked)
        sums = {}
        if settings.hidden_weight:
            project = getattr(self.student, "hidden_projection", nn.Identity())
            pairs = [(outputs.hidden_states[i], taught.hidden_states[n]) for i, n in enumerate((0, *self.chosen))]
            sums["hidden"] = torch.stack([squared_distance(project(a[mask]), b[mask]) for a, b in pairs]).sum()
        if self.projections is not None:
            heads = self.student.config.num_attention_heads
            ours, theirs = self.projections
            layers = [
                attention_distance(ours.pair(i, "qk", heads), theirs.pair(n - 1, "qk", heads), mask)
                for i, n in enumerate(self.chosen)
            ]
            sums["attention"] = torch.stack(layers).sum()
            ours.clear()
            theirs.clear()
        return sums, outputs

    @torch.no_grad()
    def _teach(self, inputs: Mapping[str, Tensor], **asked: Any) -> Any:
        ids = inputs["input_ids"]
        if self.teacher.device != ids.device:
            self.teacher.to(ids.device)
        given = {name: value for name, value in inputs.items() if name in self.accepts}
        if "token_type_ids" not in inputs and getattr(self.teacher.config, "type_vocab_size", 0) == 2:
            given["token_type_ids"] = segments(ids, inputs["attention_mask"], self.sep_token_id)
        return self.teacher(**given, **asked)


def labelled(labels: Tensor) -> Tensor:
    """Which rows have a label: one that is not −100, or of a regression not NaN."""
    return ~labels.isnan() if labels.is_floating_point() else labels != -100


def segments(ids: Tensor, mask: Tensor, sep_token_id: int | None) -> Tensor:
    """Token types of rows `[CLS] A [SEP] B [SEP]`: 1 after the first separator, 0 elsewhere and on padding.

    >>> segments(torch.tensor([[1, 7, 2, 8, 2, 0]]), torch.tensor([[1, 1, 1, 1, 1, 0]]), 2)
    tensor([[0, 0, 0, 1, 1, 0]])
    """
    if sep_token_id is None:
        return torch.zeros_like(ids)
    ends = (ids == sep_token_id).long()
    return ((ends.cumsum(1) - ends) > 0).long() * mask
