"""MPNet's two streams as one sequence: predicting positions stand beside the tokens, and nobody attends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForMaskedLM
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from ..objectives.mpnet import compensated_mask
from .masked_positions import stock_model
from .pretraining import _POSITIONS_AFTER_PAD, PretrainingModel

BACKBONES = ("mpnet", "bert", "roberta", "xlm-roberta", "electra")
"""Families whose attention takes a `[B, 1, S, S]` mask and whose positions can be given."""


class _PlacedEncoder(MPNetEncoder):
    """MPNet's encoder with relative positions from given positions instead of places in the sequence."""

    places: torch.Tensor | None = None

    def compute_position_bias(self, x, position_ids=None, num_buckets=32):
        """Bias `[B, heads, S, S]`."""
        if self.places is None:
            return super().compute_position_bias(x, position_ids, num_buckets)
        relative = self.places[:, None, :] - self.places[:, :, None]
        bucket = self.relative_position_bucket(relative, num_buckets=num_buckets)
        return self.relative_attention_bias(bucket).permute(0, 3, 1, 2).contiguous()


class MaskedPermutedModel(PretrainingModel):
    """A masked LM over tokens, stand-ins and predicting positions."""

    @classmethod
    def build(cls, objective, backbone, vocabulary):
        """From a backbone. Raises `ValueError` for families that cannot take the mask or the positions."""
        kind = backbone.config.model_type
        if kind not in BACKBONES:
            raise ValueError(
                f"mpnet needs given positions and a mask of its own, which {kind} does not take; "
                f"use one of {', '.join(BACKBONES)}"
            )
        objective.check(vocabulary, backbone.config)
        model = cls(objective, backbone.load(AutoModelForMaskedLM))
        if kind == "mpnet":
            stock_model(model.main).base_model.encoder.__class__ = _PlacedEncoder
        return model

    def run(self, batch, carry=None, want=()):
        """As `PretrainingModel.run`; afterwards `main` takes ordinary rows again."""
        if self.config.model_type != "mpnet":
            return super().run(batch, carry, want)
        encoder: Any = stock_model(self.main).base_model.encoder
        encoder.places = batch["position_ids"]
        try:
            return super().run(batch, carry, want)
        finally:
            encoder.places = None

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Positions, the mask as 0 / −max, `[B, 1, S, S]`, and the ids."""
        offset = self.config.pad_token_id + 1 if self.config.model_type in _POSITIONS_AFTER_PAD else 0
        visible = compensated_mask(batch["roles"], batch["perm_ranks"])
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=visible.device)
        inputs = {
            "input_ids": batch["input_ids"],
            "position_ids": batch["position_ids"] + offset,
            "attention_mask": mask.masked_fill(~visible, torch.finfo(self.dtype).min)[:, None],
        }
        if "token_type_ids" in self.accepts:  # the models' own default is no longer than their positions
            inputs["token_type_ids"] = torch.zeros_like(batch["input_ids"])
        return inputs
