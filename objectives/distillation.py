"""Distillation: an objective whose student also learns from a teacher that sees the same corrupted batch.

the cat sat on the mat  →  the [MASK] sat on the mat      predict: cat, and what the teacher predicts: 60 % cat,
                                                          20 % dog, 5 % man, …

>>> from pretrain_zoo.objectives import get_objective
>>> distilbert = get_objective("distillation(mlm)", teacher="google-bert/bert-base-uncased")
>>> distilbert.terms.keys()
dict_keys(['mlm', 'soft', 'cosine'])
>>> tinybert = {"soft_weight": 0, "student_weight": 0, "cosine_weight": 0, "hidden_weight": 1, "attention_weight": 1}
>>> get_objective("distillation(mlm)", teacher="google-bert/bert-base-uncased", **tinybert).terms.keys()
dict_keys(['hidden', 'attention'])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from .base import Column, Columns, Draws, Objective, Term
from .distillation_losses import (
    attention_distance,
    cosine_distance,
    divergence_and_rows,
    relation_divergence,
    same_choice,
    squared_distance,
)
from .documents import Documents
from .mlm import MaskedLM
from .ragged import Ragged
from .registry import register
from .vocabulary import Vocabulary

WEIGHTS = ("soft_weight", "student_weight", "cosine_weight", "hidden_weight", "attention_weight", "relation_weight")
RELATIONS = ("qk", "qq", "kk", "vv")


@register("distillation")
@dataclass(frozen=True)
class Distillation(Objective):
    """Train a student on an objective and on what a teacher makes of the same batch; terms of weight 0 are left out.

    Sources: soft targets, Hinton et al. 2015, arXiv 1503.02531, section 2; DistilBERT, Sanh et al. 2019, arXiv
    1910.01108, whose weights are the defaults; TinyBERT, Jiao et al. 2019, arXiv 1909.10351, section 3; MiniLM, Wang et
    al. 2020, arXiv 2002.10957 (v1) and 2012.15828 (v2). Where they differ from their code: TinyBERT's code counts
    padding, this does not; its one projection for all hidden states is kept, where the paper has another for
    embeddings. DistilBERT's code masks rare tokens more often; here the wrapped objective selects.

    The student sees the teacher's tokens: both need the same tokenizer, and vocabularies of one size.

    Args:
        wrapped: the objective, which makes the examples; of a masked, causal or sequence-to-sequence LM.
        teacher: local folder or Hub name of the trained model.
        teacher_dtype: type the teacher's weights are held in; `None`: the student's. "int8", "nf4" and "fp4" quantise
            its linear layers (needs bitsandbytes).
        student_layers: layers of the teacher, counted from 0, that a student with random weights begins from, one for
            each of its layers; embeddings and heads are copied, too (DistilBERT: 0, 2, 4, 7, 9, 11 of 12). Of an
            encoder-decoder, the encoder's.
        student_decoder_layers: the decoder's, of an encoder-decoder; `None`: `student_layers`.
        temperature: T of the soft targets; their term has a factor T², which keeps the size of its gradient.
        divergence: "forward" KL(teacher ‖ student), "reverse", or "jensen_shannon".
        soft_on: soft targets at "all" tokens but padding (DistilBERT), or at those the student predicts, "labels".
        soft_weight: of the soft targets, per token.
        student_weight: factor of the wrapped objective's own terms.
        cosine_weight: of 1 − cos of the last hidden states, per token but padding; both models must be equally wide.
        hidden_weight: of the mean squared differences of hidden states, summed over embeddings and layers, per token
            (TinyBERT). A narrower student's states pass a learned projection.
        attention_weight: of the mean squared differences of attention, summed over layers, per pair of tokens
            (TinyBERT); the models need equally many heads.
        attention_target: compare attention before ("scores", TinyBERT's choice) or after the softmax, "probabilities".
        layer_map: for each student layer the teacher's layer, counted from 1, that those two terms compare it with;
            `None`: evenly spaced up to the last (TinyBERT, 4 of 12: 3, 6, 9, 12).
        relation_weight: of the divergence of self-attention relations of the student's last layer, per token, mean over
            heads, summed over relations (MiniLM).
        relations: which: "qq", "kk" and "vv" (v2), or "qk" and "vv" (v1).
        relation_heads: heads that each projection is split into (v2: 48 for base, 64 for large teachers); `None`: the
            models' own, equally many (v1).
        relation_layer: the teacher's layer, counted from 1; `None`: the last. v2 takes 21 of 24 for BERT large.

    Raises `ValueError` for an objective that cannot be wrapped and for settings out of range.
    """

    summary: ClassVar[str] = "learn from a teacher's predictions, states or attention (DistilBERT, TinyBERT, MiniLM)"

    wrapped: Objective = field(default_factory=MaskedLM)
    teacher: str | None = None
    teacher_dtype: Literal["float32", "bfloat16", "float16", "int8", "nf4", "fp4"] | None = None
    student_layers: tuple[int, ...] | None = None
    student_decoder_layers: tuple[int, ...] | None = None
    temperature: float = 2.0
    divergence: Literal["forward", "reverse", "jensen_shannon"] = "forward"
    soft_on: Literal["all", "labels"] = "all"
    soft_weight: float = 5.0
    student_weight: float = 2.0
    cosine_weight: float = 1.0
    hidden_weight: float = 0.0
    attention_weight: float = 0.0
    attention_target: Literal["scores", "probabilities"] = "scores"
    layer_map: tuple[int, ...] | None = None
    relation_weight: float = 0.0
    relations: tuple[str, ...] = ("qq", "kk", "vv")
    relation_heads: int | None = None
    relation_layer: int | None = None

    def __post_init__(self):
        self._check_settings()
        self._check_wrapped()
        described = {
            "name": f"distillation({self.wrapped.name})",
            "architecture": self.wrapped.architecture,
            "needs": self.wrapped.needs,
            "row_columns": self.wrapped.row_columns,
            "replans": self.wrapped.replans,
            "dense_shift": self.wrapped.dense_shift,
            "stock_names": {**self.wrapped.stock_names, "token_positions": None},
        }
        for name, value in described.items():
            object.__setattr__(self, name, value)

    def _check_settings(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {self.temperature}")
        choices = {
            "teacher_dtype": (None, "float32", "bfloat16", "float16", "int8", "nf4", "fp4"),
            "divergence": ("forward", "reverse", "jensen_shannon"),
            "soft_on": ("all", "labels"),
            "attention_target": ("scores", "probabilities"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                options = " or ".join(map(repr, allowed))
                raise ValueError(f"{name} must be {options}, not {getattr(self, name)!r}")
        negative = [name for name in WEIGHTS if getattr(self, name) < 0]
        if negative:
            raise ValueError(f"{negative[0]} must not be negative, as {getattr(self, negative[0])} is")
        if not any(getattr(self, name) for name in WEIGHTS if name != "student_weight"):
            raise ValueError("nothing is learnt from the teacher: every weight but student_weight is 0")
        unknown = [name for name in self.relations if name not in RELATIONS]
        if unknown or len(set(self.relations)) < len(self.relations) or not self.relations:
            raise ValueError(f"relations must be some of {', '.join(RELATIONS)}, each once, not {self.relations}")

    def _check_wrapped(self) -> None:
        wrapped = self.wrapped
        kind = wrapped.architecture
        if kind not in ("masked_lm", "causal_lm", "seq2seq") or isinstance(wrapped, Distillation):
            raise ValueError(
                f"distillation cannot wrap {wrapped.name}: it takes objectives of masked, causal and "
                "sequence-to-sequence LMs, such as mlm, clm and span_corruption"
            )
        if "label_ids" not in wrapped.columns:
            raise ValueError(
                f"distillation cannot wrap {wrapped.name}, which predicts no tokens; wrap mlm+{wrapped.name}"
            )
        inside = [name for name in ("attention_weight", "relation_weight") if getattr(self, name)]
        if inside and kind != "masked_lm":
            raise ValueError(f"{inside[0]} needs encoders, and {wrapped.name} trains a {kind}; set {inside[0]}=0")
        if self.student_decoder_layers is not None and (kind != "seq2seq" or self.student_layers is None):
            raise ValueError("student_decoder_layers goes with student_layers, for an objective of encoder-decoders")
        if self.hidden_weight and kind == "seq2seq":
            raise ValueError(f"hidden_weight needs a single stack of layers, and {wrapped.name} trains a {kind}")

    # examples, as the wrapped objective makes them

    @property
    def columns(self) -> dict[str, Column]:
        """The wrapped objective's, and the positions of all tokens but padding."""
        return {**self.wrapped.columns, "token_positions": Column(axis="flat", index="input")}

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The wrapped objective's."""
        return self.wrapped.special_tokens

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """What the wrapped objective checks and, given a config, that there is a teacher that fits."""
        self.wrapped.check(vocabulary, config)
        if config is None:
            return
        if self.teacher is None:
            raise ValueError(
                f"{self.name} needs a teacher: set teacher to a folder, or to a model of the Hub (owner/name)"
            )
        from ..models.teacher_student import teacher_config

        teacher_config(self.teacher, vocabulary)

    def plan(self, documents: Documents, vocabulary: Vocabulary, **settings: Any):
        """The wrapped objective's."""
        return self.wrapped.plan(documents, vocabulary, **settings)

    def source(self, documents: Documents, vocabulary: Vocabulary, **settings: Any):
        """The wrapped objective's."""
        return self.wrapped.source(documents, vocabulary, **settings)

    def from_features(self, features: list[Mapping], vocabulary: Vocabulary) -> Columns:
        """As the wrapped objective reads them."""
        return self.wrapped.from_features(features, vocabulary)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """As the wrapped objective corrupts them; adds the positions at which student and teacher are compared."""
        columns = self.wrapped.corrupt(rows, draws, vocabulary)
        if self.architecture == "seq2seq":  # compared where the decoder predicts, which is everywhere
            return columns
        ids: Ragged = columns["input_ids"]
        positions = np.arange(len(ids.values)) - np.repeat(ids.offsets[:-1], ids.lengths)
        counts = ids.lengths
        mask = columns.get("attention_mask")
        if mask is not None:
            real = mask.values != 0
            counts = np.diff(np.append(0, np.cumsum(real))[ids.offsets])
            positions = positions[real]
        return {**columns, "token_positions": Ragged(positions, counts)}

    # losses

    @property
    def terms(self) -> dict[str, Term]:
        """The wrapped objective's, and those of the teacher."""
        own = {name: Term(self._scaled(term), term.additive) for name, term in self.wrapped.terms.items()}
        weights = {name.removesuffix("_weight"): getattr(self, name) for name in WEIGHTS}
        weights["relations"] = weights.pop("relation")
        taught = {name: Term(weight) for name, weight in weights.items() if weight and name != "student"}
        return (own if self.student_weight else {}) | taught

    @property
    def perplexity_term(self) -> str | None:
        """The wrapped objective's, if the student trains on it."""
        return self.wrapped.perplexity_term if self.student_weight else None

    @property
    def predicted(self) -> float:
        """Share of positions whose logits are computed."""
        on_labels = float(getattr(self.wrapped, "mlm_probability", 1.0))
        if self.soft_weight:
            return on_labels if self.soft_on == "labels" else 1.0
        return on_labels if self.student_weight else 0.0

    def _scaled(self, term: Term):
        if callable(term.weight):
            return lambda progress: self.student_weight * term.weight_at(progress)
        return self.student_weight * term.weight

    def counts(self, batch):
        """Tokens, or pairs of tokens, for the teacher's terms."""
        tokens = compared(batch)
        mask = batch["attention_mask"] != 0
        soft = (batch["label_ids"] != -100).sum() if self.soft_on == "labels" else tokens.new_tensor(len(tokens))
        counts = self.wrapped.counts(batch) if self.student_weight else {}
        taught = {"soft": soft, "attention": mask.sum(1).square().sum()}
        names = [name for name in self.terms if name not in counts]
        return {**counts, **{name: taught.get(name, tokens.new_tensor(len(tokens))) for name in names}}

    def loss(self, outputs, batch):
        """The wrapped objective's sums and metrics, the teacher's sums, and how often both say the same token."""
        tokens, mask = compared(batch), batch["attention_mask"] != 0
        sums, metrics = {}, {}
        if self.soft_weight:
            student, teacher = outputs["soft_logits"], outputs["teacher_logits"]
            rows = outputs.get("label_rows", tokens[:0])
            apart, logits = divergence_and_rows(student, teacher, rows, self.temperature, self.divergence)
            if "label_rows" in outputs:
                outputs = {**outputs, "logits": logits}
            counted = torch.ones_like(apart, dtype=torch.bool)
            if self.soft_on == "labels":
                counted = batch["label_ids"] != -100
            sums["soft"] = self.temperature**2 * torch.where(counted, apart, 0).sum()
            with torch.no_grad():
                same = same_choice(student, teacher) & counted
            metrics["agreement"] = (same.sum(), counted.sum())
        if self.student_weight:
            own = self.wrapped.loss(outputs, batch)
            sums, metrics = {**own[0], **sums}, {**own[1], **metrics}
        if self.cosine_weight:
            ours, theirs = (outputs[name].flatten(0, 1) for name in ("hidden", "teacher_hidden"))
            sums["cosine"] = cosine_distance(ours, theirs, tokens)
        if self.hidden_weight:
            pairs = [[states.flatten(0, 1) for states in pair] for pair in outputs["hidden_pairs"]]
            sums["hidden"] = torch.stack([squared_distance(ours, theirs, tokens) for ours, theirs in pairs]).sum()
        if self.attention_weight:
            after = self.attention_target == "probabilities"
            layers = [attention_distance(ours, theirs, mask, after) for ours, theirs in outputs["attention_pairs"]]
            sums["attention"] = torch.stack(layers).sum()
        if self.relation_weight:
            each = [relation_divergence(ours, theirs, mask) for ours, theirs in outputs["relation_pairs"]]
            sums["relations"] = torch.stack(each).sum()
        return sums, metrics

    # models

    def build(self, backbone, vocabulary):
        """Student and teacher, both as the wrapped objective builds them."""
        from ..models.teacher_student import build_teacher_student

        return build_teacher_student(self, backbone, vocabulary)

    def export(self, model):
        """The student, as the wrapped objective exports it."""
        return self.wrapped.export(model)


def compared(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Flat positions at which both are compared: all tokens but padding, of encoder-decoders what they predict."""
    return batch["token_positions"] if "token_positions" in batch else batch["label_positions"]
