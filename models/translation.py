"""The model of translation LM: positions begin anew at the second text where languages have embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .build_model import build_model
from .masked_positions import stock_model
from .pretraining import PretrainingModel


class TranslationModel(PretrainingModel):
    """A masked LM given `position_ids`, `[B, L]`, and `langs` if it has language embeddings, else neither."""

    @classmethod
    def build(cls, objective, backbone, vocabulary):
        """From a backbone. Raises `ValueError` for positions that begin anew without language embeddings."""
        model = build_model(objective, backbone, vocabulary, cls)
        if objective.reset_positions and not model.tells_languages:
            raise ValueError(
                f"{type(stock_model(model.main)).__name__} has no language embeddings: with positions that begin anew "
                "it could not tell the two texts apart; leave reset_positions out, or use xlm-tiny with n_langs=2"
            )
        return model

    @property
    def tells_languages(self) -> bool:
        """Whether the backbone has language embeddings (XLM's, of two languages or more)."""
        return getattr(self.config, "n_langs", 1) > 1 and self.config.use_lang_emb

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The columns that `main` accepts."""
        if not self.tells_languages:
            batch = {name: column for name, column in batch.items() if name not in ("position_ids", "langs")}
        return super().inputs(batch)
