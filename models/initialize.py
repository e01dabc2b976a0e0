"""Students that begin from layers of a trained model, and maps between layers.

copy_layers(student, teacher, (0, 2, 4, 7, 9, 11))      half of 12 layers (DistilBERT)
copy_layers(student, teacher, (0, 1, 2, 0, 1, 2))       twice as deep (progressive stacking)
copy_layers(student, teacher, range(12), (0, 6, 11))    an encoder-decoder with a short decoder (DistilBART)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .masked_positions import stock_model
from .presets import with_settings

_DISTILBERT_FROM_BERT = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
    "vocab_projector.bias": "cls.predictions.bias",
    "vocab_projector": "cls.predictions.decoder",
}
NAMES: dict[tuple[str, str], dict[str, str]] = {("bert", "distilbert"): _DISTILBERT_FROM_BERT}
"""(teacher's, student's model type) → what the student's modules are called in the teacher, first match first."""

_OPTIONAL = ("pooler.", "embeddings.token_type_embeddings.")
"""Parts of a base model that another of the family may lack."""


def copy_layers(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    layers: Sequence[int],
    decoder_layers: Sequence[int] | None = None,
) -> list[str]:
    """Give the student the teacher's embeddings, heads and, for each of its layers, the weights of a teacher's layer.

    Both are of one architecture, or a DistilBERT and a BERT; DistilBERT has no token types, and the first row of the
    teacher's is not added to other embeddings, as in the published script (extract_distilbert.py).

    Args:
        student, teacher: with or without heads.
        layers: the teacher's layer, counted from 0, for each of the student's. Layers may repeat: a student deeper than
            its teacher is a stack of it (Gong et al. 2019, "Efficient training of BERT by progressively stacking").
            Of an encoder-decoder, the encoder's layers.
        decoder_layers: an encoder-decoder's; `None`: `layers` (Shleifer and Rush 2020, arXiv 2010.13002).

    Returns names of the student's tensors that the teacher has none for, heads and poolers, left as they were. Raises
    `ValueError` for layers that do not fit and for models of other shapes or architectures, the student left as it was.
    """
    student, teacher = stock_model(student), stock_model(teacher)
    kinds = (teacher.config.model_type, student.config.model_type)
    if kinds[0] != kinds[1] and kinds not in NAMES:
        raise ValueError(
            f"a {kinds[1]} cannot begin from layers of a {kinds[0]}; use a {kinds[0]} student, or leave the layers out"
        )
    stacks = list(zip(layer_stacks(student), layer_stacks(teacher), (layers, decoder_layers or layers)))
    if decoder_layers is not None and len(stacks) == 1:
        raise ValueError(f"a {kinds[1]} has one stack of layers; leave decoder_layers out")
    for (_, depth), (_, available), chosen in stacks:
        check_layers(chosen, depth, available)
    names = NAMES.get(kinds, {})
    ours, source = student.state_dict(), teacher.state_dict()
    found, missing = {}, []
    for name in ours:
        for (stack, _), (theirs, _), chosen in stacks:
            if name.startswith(f"{stack}."):
                number, _, rest = name.removeprefix(f"{stack}.").partition(".")
                layer = 0 if "relative_attention_bias" in rest else chosen[int(number)]  # T5's first layer has it
                wanted = f"{theirs}.{layer}.{_renamed(rest, names)}"
                break
        else:
            wanted = _renamed(_bare(name, student), names)
            wanted = next((n for n in (f"{teacher.base_model_prefix}.{wanted}", wanted) if n in source), wanted)
        if wanted in source and source[wanted].shape == ours[name].shape:
            found[name] = source[wanted]
            continue
        bare = _bare(name, student)
        if _in_base(name, student) and not bare.startswith(_OPTIONAL):
            there = f"of shape {tuple(source[wanted].shape)}" if wanted in source else "missing"
            raise ValueError(
                f"the student's {bare} has shape {tuple(ours[name].shape)}, the teacher's is {there}: a student that "
                "begins from its teacher's layers has the teacher's sizes in all but depth; change the student's "
                "config, or leave the layers out"
            )
        missing.append(name)
    with torch.no_grad():
        for name, value in found.items():
            ours[name].copy_(value)
    return missing


def check_layers(layers: Sequence[int], student_layers: int, teacher_layers: int) -> None:
    """Raise `ValueError` unless there is a layer of the teacher, counted from 0, for each of the student's."""
    if len(layers) != student_layers:
        raise ValueError(
            f"{len(layers)} layers are chosen ({', '.join(map(str, layers))}) and the student has {student_layers}; "
            f"choose {student_layers}, or set the student's num_hidden_layers to {len(layers)}"
        )
    outside = [layer for layer in layers if not 0 <= layer < teacher_layers]
    if outside:
        raise ValueError(
            f"there is no layer {outside[0]} in the teacher, whose {teacher_layers} layers are counted from 0 to "
            f"{teacher_layers - 1}"
        )


def uniform_layer_map(student_layers: int, teacher_layers: int) -> tuple[int, ...]:
    """For each layer of the student a layer of the teacher, both counted from 1, evenly spaced (TinyBERT, g(m) = 3m).

    Raises `ValueError` where the depths do not divide.

    >>> uniform_layer_map(4, 12)
    (3, 6, 9, 12)
    """
    step, rest = divmod(teacher_layers, student_layers)
    if rest or not step:
        raise ValueError(
            f"{student_layers} layers cannot be spread evenly over {teacher_layers}; say which layers to compare "
            f"(layer_map, {student_layers} numbers from 1 to {teacher_layers})"
        )
    return tuple(range(step, teacher_layers + 1, step))


def config_with_layers(config: Any, layers: Sequence[int], decoder_layers: Sequence[int] | None = None) -> Any:
    """A copy of a config with only these of its layers, counted from 0; of an encoder-decoder, see `copy_layers`."""
    settings: dict[str, Any] = {"num_hidden_layers": len(layers)}
    if getattr(config, "is_encoder_decoder", False):
        decoder = len(layers if decoder_layers is None else decoder_layers)
        settings |= {name: decoder for name in ("num_decoder_layers", "decoder_layers") if hasattr(config, name)}
    kinds = getattr(config, "layer_types", None)
    if isinstance(kinds, list):
        check_layers(layers, len(layers), len(kinds))
        settings["layer_types"] = [kinds[layer] for layer in layers]
    return with_settings(config, settings)


def layer_stacks(model: PreTrainedModel) -> list[tuple[str, int]]:
    """Names and depths of the lists of a model's layers: one, or an encoder's and a decoder's.

    Raises `ValueError` for a model whose layers are not such lists.
    """
    config: Any = model.config
    depths = [config.num_hidden_layers]
    if config.is_encoder_decoder:
        decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", depths[0])
        depths.append(decoder)
    found = []
    for side, depth in zip(("encoder.", "decoder.") if len(depths) == 2 else ("",), depths):
        lists = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
        lists = [n for n in lists if f".{n}".endswith((f".{side}block", f".{side}layers"))] if side else lists
        if len(lists) != 1:
            raise ValueError(
                f"{type(model).__name__} is not a stack of {depth} layers with weights of their own, from which to "
                "choose"
            )
        found.append((lists[0], depth))
    return found


def _bare(name: str, model: PreTrainedModel) -> str:
    """The name without the prefix of the base model."""
    return name.removeprefix(f"{model.base_model_prefix}.")


def _in_base(name: str, model: PreTrainedModel) -> bool:
    return model.base_model is model or name.startswith(f"{model.base_model_prefix}.")


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if name == ours or name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return name
