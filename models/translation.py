"""The model of translation LM: a masked LM whose positions begin anew at the second text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .masked_positions import stock_model
from .pretraining import _POSITIONS_AFTER_PAD, PretrainingModel, build_model


class TranslationModel(PretrainingModel):
    """A masked LM given `position_ids`, `[B, L]`, counted from 0 whatever the backbone counts from."""

    @classmethod
    def build(cls, objective, backbone, vocabulary):
        """From a backbone. Raises `ValueError` for one that takes no positions where they have to begin anew."""
        model = build_model(objective, backbone, vocabulary, cls)
        if objective.reset_positions and not _heeds_positions(model):
            raise ValueError(
                f"{type(stock_model(model.main)).__name__} does not go by position_ids; use reset_positions=False or "
                "another backbone, such as xlm-tiny or xlm-roberta-tiny"
            )
        return model

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The columns that `main` accepts, positions as it counts them."""
        inputs = super().inputs(batch)
        if "position_ids" in inputs and self.config.model_type in _POSITIONS_AFTER_PAD:
            inputs["position_ids"] = inputs["position_ids"] + self.config.pad_token_id + 1
        return inputs


@torch.no_grad()
def _heeds_positions(model: PretrainingModel) -> bool:
    """Whether outputs change with positions: models of relative positions alone do not go by those they are given."""
    if "position_ids" not in model.accepts:
        return False
    training = model.training
    model.eval()
    ids = torch.tensor([[4, 5, 6, 7]], device=model.device)
    logits = [
        model.main(**model.inputs({"input_ids": ids, "position_ids": ids.new_tensor([places])})).logits
        for places in ([0, 1, 2, 3], [0, 1, 0, 1])
    ]
    model.train(training)
    return not torch.equal(*logits)
