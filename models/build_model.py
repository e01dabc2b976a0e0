"""Which model an objective of a plain architecture trains on a backbone, and which backbones it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from .attention_masks import check_document_attention
from .bidirectional import is_causal_only, load_bidirectional
from .compressed import is_compressed
from .pretraining import PretrainingModel

if TYPE_CHECKING:
    from ..objectives.base import Objective
    from ..objectives.vocabulary import Vocabulary
    from .presets import Backbone

AUTO_CLASSES: dict[str, Any] = {
    "masked_lm": AutoModelForMaskedLM,
    "causal_lm": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}


def check_backbone(objective: Objective, backbone: Backbone) -> None:
    """Raise `ValueError` for a backbone whose training is bound to fail, before a corpus is tokenized for it.

    That is one of a family without the head that an objective of a plain architecture trains, or one with compressed
    weights.
    """
    if is_compressed(backbone.checkpoint, backbone.config):
        raise ValueError(
            f"{backbone.checkpoint} holds compressed weights, which cannot be trained; train, then compress"
        )
    causal = objective.architecture == "masked_lm" and is_causal_only(backbone.config)  # its mask is lifted
    if not causal and objective.architecture in AUTO_CLASSES:
        backbone.check(AUTO_CLASSES[objective.architecture])


def build_model(
    objective: Objective,
    backbone: Backbone,
    vocabulary: Vocabulary,
    model_class: type[PretrainingModel] = PretrainingModel,
) -> PretrainingModel:
    """The model for an objective of a plain architecture: "masked_lm", "causal_lm" or "seq2seq".

    Heads that an earlier run left beside the backbone's checkpoint go on from there.

    Raises `ValueError` for another architecture, for a backbone that cannot keep attention within documents where the
    objective wants it, and what `objective.check` raises.
    """
    if objective.architecture not in AUTO_CLASSES:
        raise ValueError(
            f"objective {objective.name!r} trains a model of its own kind ({objective.architecture!r}) and must "
            "override `build`"
        )
    objective.check(vocabulary, backbone.config)
    overrides: dict[str, Any] = {}
    if objective.architecture == "causal_lm":
        if backbone.config.model_type == "xlnet":
            raise ValueError("XLNet is causal only under a permutation mask; use a causal backbone, such as gpt2-tiny")
        known = backbone.config.to_dict()
        # else encoders see ahead, and causal models that were made bidirectional
        overrides = {name: True for name in ("is_decoder", "causal", "is_causal") if name in known}
    if objective.architecture == "masked_lm" and is_causal_only(backbone.config):
        main = load_bidirectional(backbone)
    else:
        main = backbone.load(AUTO_CLASSES[objective.architecture], **overrides)
    model = model_class(objective, main, objective.heads(main, vocabulary))
    if backbone.checkpoint is not None:
        model.load_heads(backbone.checkpoint)
    if getattr(objective, "document_attention", False):
        check_document_attention(model)
    return model
