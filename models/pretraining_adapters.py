"""Continued pretraining through adapters: the weights of a checkpoint stay, small updates of them are learnt.

backbone ──adapted──▶ PretrainingModel ──training──▶ adapters ──merged──▶ a plain checkpoint
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from .adapters import AdapterArguments, add_adapter, merge, save_adapter
from .presets import Backbone, with_settings
from .pretraining import PretrainingModel

METHODS = ("lora", "dora", "ia3")
FOLDER = "adapter"
"""Folder of a run with the adapters, beside the merged checkpoint."""


@dataclass(frozen=True)
class TrainedBackbone(Backbone):
    """A backbone that refuses to load a model of which the checkpoint lacks weights, since they would stay random."""

    def load(self, auto_class: Any, **config_overrides: Any) -> PreTrainedModel:
        """See `Backbone.load`; raises `ValueError` for missing weights too."""
        options = {} if self.attn_implementation is None else {"attn_implementation": self.attn_implementation}
        model, report = auto_class.from_pretrained(
            self.checkpoint,
            config=with_settings(self.config, config_overrides),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=self.dtype or torch.float32,
            **options,
        )
        missing = sorted(map(str, report["missing_keys"]))
        if missing:
            raise ValueError(
                f"{self.checkpoint} has no weights for {missing[0]} ({len(missing)} missing in all), which --peft "
                f"would leave random in {type(model).__name__}; train without --peft, "
                "or take a checkpoint that has this head"
            )
        return model


def trained_backbone(parts: Backbone, args: AdapterArguments) -> Backbone:
    """The backbone, checked to be one that adapters can be put on for pretraining.

    Raises `ValueError` for random weights, and methods whose updates cannot be merged into a plain checkpoint.
    """
    if args.peft not in METHODS:
        reason = (
            "its ranks are shared out by a schedule of fine-tuning"
            if args.peft == "adalora"
            else "virtual tokens are no part of a checkpoint, and would shift the predicted positions"
        )
        raise ValueError(f"--peft {args.peft} does not work in pretraining: {reason}; use {', '.join(METHODS)}")
    if parts.checkpoint is None:
        raise ValueError("--peft continues a trained checkpoint, and a preset has random weights; give a checkpoint")
    return TrainedBackbone(parts.config, parts.checkpoint, parts.attn_implementation, parts.dtype)


def put_adapters(model: PretrainingModel, args: AdapterArguments) -> str:
    """Put adapters on the main model; all else in it is frozen, tied embeddings included. Extra heads are trained.

    Returns a line on what is trained. Raises `ValueError` for models of several networks, which share parameters that
    would be frozen for one of them.
    """
    if type(model) is not PretrainingModel:
        raise ValueError(
            f"--peft works with objectives that train one network, and {type(model).__name__} is of another kind; "
            "use a masked, causal or sequence-to-sequence language model"
        )
    model.main = add_adapter(model.main, args, None, [])
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{args.peft}: {trained:,} of {sum(p.numel() for p in model.parameters()):,} parameters are trained"


def merge_adapters(model: PretrainingModel, folder: str | Path | None) -> None:
    """Write the adapters to a folder (`None`: do not), and add them to the weights, so that `main` is plain again."""
    if folder is not None:
        save_adapter(model.main, folder)
    model.main = merge(model.main)
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
