"""A student that trains beside a teacher that does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from .heads import initialize
from .initialize import config_with_layers, copy_layers, uniform_layer_map
from .masked_positions import LabelledRows, stock_model
from .presets import Backbone, max_row_length
from .pretraining import PretrainingModel
from .projections import MORE_THAN_DOT_PRODUCTS, Projections
from .quantised import BITSANDBYTES, bitsandbytes_config, check_widths
from .settings import check_checkpoint

if TYPE_CHECKING:
    from ..objectives.distillation import Distillation
    from ..objectives.vocabulary import Vocabulary


class TeacherStudent(PretrainingModel):
    """A student and, outside module registration, its teacher; `main` is the student's.

    The teacher is in no optimizer, gradient bucket, state or checkpoint, is always in eval mode, and follows the batch
    to its device and, unless it is given a dtype, the student to its own. Outputs beside the student's, `N` positions
    being those compared (see `objectives.distillation.compared`) or, with `soft_on="labels"`, the labelled ones:

    - "soft_logits", "teacher_logits": `[N, V]`, and "label_rows": which of them are labelled, where they are not all;
    - "teacher_hidden": `[B, L, H]`, the teacher's last hidden state;
    - "hidden_pairs": the student's (projected) and the teacher's hidden states of the layers compared;
    - "attention_pairs", "relation_pairs": (queries, keys) or the like of both, see `distillation_losses.Pair`.

    Args:
        objective: a `Distillation`.
        student, teacher: as its wrapped objective builds them.

    Raises `ValueError` for models that cannot be compared as the objective asks.
    """

    objective: Any  # the class of models evaluates its annotations, so no names that only type checkers import
    student: Any
    teacher: Any

    def __init__(self, objective: Distillation, student: PretrainingModel, teacher: PretrainingModel):
        ours, theirs = stock_model(student.main).config, stock_model(teacher.main).config
        heads = dict(student.heads.items())
        if objective.hidden_weight and ours.hidden_size != theirs.hidden_size:
            heads["hidden_projection"] = nn.Linear(ours.hidden_size, theirs.hidden_size)
            initialize(heads["hidden_projection"], ours)
            heads["hidden_projection"].to(student.dtype)
        super().__init__(objective, student.main, heads)
        teacher.eval().requires_grad_(False)
        hidden: dict[str, Any] = {"student": student, "teacher": teacher}
        for name, model in hidden.items():  # past nn.Module, which would register them
            object.__setattr__(self, name, model)
        self._check(ours, theirs)
        self.layer_map: tuple[int, ...] = ()
        if objective.hidden_weight or objective.attention_weight:
            self.layer_map = layer_map(objective, ours.num_hidden_layers, theirs.num_hidden_layers)
        self.relation_layers = (ours.num_hidden_layers - 1, (objective.relation_layer or theirs.num_hidden_layers) - 1)
        self.student_projections, self.teacher_projections = self._projections()

    def attach_rows(self, main: nn.Module) -> LabelledRows:
        """An idle one: the student has put its own on `main`."""
        return LabelledRows()

    # checks

    def _check(self, ours: Any, theirs: Any) -> None:
        objective = self.objective
        if objective.soft_weight and ours.vocab_size != theirs.vocab_size:
            raise ValueError(
                f"the student predicts {ours.vocab_size} tokens and the teacher {theirs.vocab_size}; set the student's "
                f"vocab_size to {theirs.vocab_size}"
            )
        if objective.cosine_weight and ours.hidden_size != theirs.hidden_size:
            raise ValueError(
                f"the cosine of last hidden states needs one width, and the student is {ours.hidden_size} wide, the "
                f"teacher {theirs.hidden_size}; set cosine_weight=0, or the student's hidden_size"
            )
        by_head = objective.attention_weight or (objective.relation_weight and objective.relation_heads is None)
        if by_head and ours.num_attention_heads != theirs.num_attention_heads:
            raise ValueError(
                f"the student has {ours.num_attention_heads} attention heads and the teacher "
                f"{theirs.num_attention_heads}, which cannot be compared one by one; set the student's "
                "num_attention_heads, or compare relations with relation_heads"
            )
        if objective.attention_weight or (objective.relation_weight and "qk" in objective.relations):
            for config in (ours, theirs):
                more = MORE_THAN_DOT_PRODUCTS.get(config.model_type)
                if more is not None:
                    raise ValueError(
                        f"attention of {config.model_type} is made of {more}, too; compare its relations qq, kk and vv"
                    )
        if objective.relation_weight:
            for config in (ours, theirs):
                if config.hidden_size % (objective.relation_heads or 1):
                    raise ValueError(
                        f"{objective.relation_heads} relation heads do not divide the width {config.hidden_size}"
                    )
            if not 1 <= (objective.relation_layer or 1) <= theirs.num_hidden_layers:
                raise ValueError(
                    f"relation_layer {objective.relation_layer} is none of the teacher's layers 1 to "
                    f"{theirs.num_hidden_layers}"
                )

    def _projections(self) -> tuple[Projections | None, Projections | None]:
        """Hooks on the layers whose attention or relations are compared."""
        layers: tuple[set[int], set[int]] = (set(), set())
        if self.objective.attention_weight:
            layers[0].update(range(len(self.layer_map)))
            layers[1].update(layer - 1 for layer in self.layer_map)
        if self.objective.relation_weight:
            layers[0].add(self.relation_layers[0])
            layers[1].add(self.relation_layers[1])
        if not layers[0]:
            return None, None
        return Projections(self.student.main, layers[0]), Projections(self.teacher.main, layers[1])

    # forward

    def run(self, batch: Mapping[str, Tensor], carry: Any, want: tuple[str, ...]) -> dict[str, Any]:
        """See the class."""
        objective = self.objective
        ids = batch["input_ids"]
        limit = max_row_length(stock_model(self.teacher.main).config)
        if limit is not None and ids.shape[1] > limit:
            raise ValueError(
                f"the teacher has positions for {limit} tokens, and rows have {ids.shape[1]}; make them shorter"
            )
        self._move_teacher(ids.device)
        nowhere = ids.new_zeros(0)  # no logits where no loss reads them
        labels = batch["label_positions"]
        soft = labels if objective.soft_on == "labels" else batch.get("token_positions", labels)
        asked = ("hidden_states",) if objective.hidden_weight else ()
        # the teacher first: what the student leaves for the backward pass stays in the caches
        with torch.no_grad():
            at = soft if objective.soft_weight else nowhere
            taught = caught(self.teacher, self.teacher_projections, {**batch, "label_positions": at}, asked)
        at = soft if objective.soft_weight else labels if objective.student_weight else nowhere
        outputs = caught(self.student, self.student_projections, {**batch, "label_positions": at}, (*want, *asked))
        outputs["teacher_hidden"] = taught["hidden"]
        if objective.soft_weight:
            outputs |= {"soft_logits": outputs["logits"], "teacher_logits": taught["logits"]}
            if soft is not labels and objective.student_weight:
                outputs["label_rows"] = places(labels, soft, ids.numel())
                if "logits" in want:  # the loss takes them itself
                    outputs["logits"] = outputs["logits"].index_select(0, outputs["label_rows"])
        if objective.hidden_weight:
            outputs["hidden_pairs"] = self._hidden_pairs(outputs["hidden_states"], taught["hidden_states"])
        if self.student_projections is not None:
            outputs |= self._projection_pairs()
        return outputs

    def _move_teacher(self, device: torch.device) -> None:
        """To the batch's device, and to its dtype unless it is quantised."""
        chosen = self.objective.teacher_dtype
        if chosen in BITSANDBYTES:
            if self.teacher.device != device:
                self.teacher.to(device)
            return
        dtype = getattr(torch, chosen) if chosen else self.dtype
        if (self.teacher.device, self.teacher.dtype) != (device, dtype):
            self.teacher.to(device, dtype)

    def _hidden_pairs(self, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
        """Embeddings and each student layer's output, projected to the teacher's width, with the teacher's."""
        project = self.heads["hidden_projection"] if "hidden_projection" in self.heads else nn.Identity()
        return [(project(ours[i]), theirs[layer]) for i, layer in enumerate((0, *self.layer_map))]

    def _projection_pairs(self) -> dict[str, list[tuple[Any, Any]]]:
        objective, (ours, theirs) = self.objective, (self.student_projections, self.teacher_projections)
        assert ours is not None and theirs is not None
        heads = [stock_model(model.main).config.num_attention_heads for model in (self.student, self.teacher)]
        pairs: dict[str, list[tuple[Any, Any]]] = {}
        if objective.attention_weight:
            pairs["attention_pairs"] = [
                (ours.pair(i, "qk", heads[0]), theirs.pair(layer - 1, "qk", heads[1]))
                for i, layer in enumerate(self.layer_map)
            ]
        if objective.relation_weight:
            heads = [objective.relation_heads or count for count in heads]
            mine, other = self.relation_layers
            pairs["relation_pairs"] = [
                (ours.pair(mine, letters, heads[0]), theirs.pair(other, letters, heads[1]))
                for letters in objective.relations
            ]
        ours.clear()
        theirs.clear()
        return pairs


def caught(
    model: PretrainingModel, projections: Projections | None, batch: Mapping[str, Tensor], want: tuple[str, ...]
) -> dict[str, Any]:
    """The model's outputs, projections being caught, if any are to be."""
    if projections is None:
        return model.run(batch, None, want)
    with projections:
        return model.run(batch, None, want)


def places(positions: Tensor, among: Tensor, size: int) -> Tensor:
    """Where each of `positions` stands in `among`, which has them all; both are indices below `size`."""
    table = among.new_zeros(size)
    table[among] = torch.arange(len(among), device=among.device)
    return table[positions]


def layer_map(objective: Distillation, student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """The teacher's layer, counted from 1, for each of the student's. Raises `ValueError` for maps that do not fit."""
    if objective.layer_map is None:
        return uniform_layer_map(student_layers, teacher_layers)
    chosen = objective.layer_map
    if len(chosen) != student_layers or not all(1 <= layer <= teacher_layers for layer in chosen):
        raise ValueError(
            f"layer_map {', '.join(map(str, chosen))} must have {student_layers} numbers, one for each of the "
            f"student's layers, from 1 to {teacher_layers}"
        )
    return chosen


def teacher_config(teacher: str, vocabulary: Vocabulary) -> Any:
    """The teacher's config. Raises `ValueError` if there is no such model or its tokens are others."""
    folder = Path(teacher)
    check_checkpoint(teacher, "teacher")
    config = AutoConfig.from_pretrained(teacher, trust_remote_code=False)
    if config.vocab_size < vocabulary.size:
        raise ValueError(
            f"the teacher {teacher} has embeddings for {config.vocab_size} tokens, and the tokenizer's ids go up to "
            f"{vocabulary.size - 1}; use the teacher's tokenizer (tokenizer_name={teacher})"
        )
    if (folder / "tokenizer.json").is_file():
        own = type(vocabulary).from_tokenizer(AutoTokenizer.from_pretrained(teacher, trust_remote_code=False))
        if own.piece_flags.tolist() != vocabulary.piece_flags.tolist() or own.special != vocabulary.special:
            raise ValueError(
                f"the tokenizer is not that of the teacher {teacher}; use the teacher's (tokenizer_name={teacher})"
            )
    return config


def build_teacher_student(objective: Distillation, backbone: Backbone, vocabulary: Vocabulary) -> TeacherStudent:
    """Student and teacher for a distillation.

    With `student_layers` the student begins from the teacher's layers; a backbone that is the teacher's own checkpoint
    then gives a student of its architecture, as deep as there are layers chosen.

    Raises what `objective.check` and `copy_layers` raise; also `ValueError` for `student_layers` with a backbone that
    has weights of its own.
    """
    objective.check(vocabulary, backbone.config)
    assert objective.teacher is not None
    layers, config = objective.student_layers, teacher_config(objective.teacher, vocabulary)
    if layers is not None and backbone.checkpoint is not None:
        if backbone.checkpoint != objective.teacher:
            raise ValueError(
                f"student_layers and the checkpoint {backbone.checkpoint} both give the student its weights; leave one "
                "out, or give a preset or the teacher itself as the student's model"
            )
        shallow = config_with_layers(backbone.config, layers, objective.student_decoder_layers)
        backbone = replace(backbone, config=shallow, checkpoint=None)
    student = objective.wrapped.build(backbone, vocabulary)
    source = Backbone(config, objective.teacher, backbone.attn_implementation)
    teacher = objective.wrapped.build(source, vocabulary)
    if layers is not None:
        copy_layers(student.main, teacher.main, layers, objective.student_decoder_layers)
    if objective.teacher_dtype in BITSANDBYTES:  # only now: the student begins from the weights as they were saved
        check_widths(teacher.main, objective.teacher_dtype)
        source = replace(source, quantization_config=bitsandbytes_config(objective.teacher_dtype))
        teacher = objective.wrapped.build(source, vocabulary)
    model = TeacherStudent(objective, student, teacher)
    if backbone.checkpoint is not None:
        model.load_heads(backbone.checkpoint)
    return model
