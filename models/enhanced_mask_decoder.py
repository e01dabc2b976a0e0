"""DeBERTa's enhanced mask decoder, built around the stock model's last layer.

With H the output of the next-to-last layer: Q₀ = H + absolute positions; Qₛ₊₁ = last layer with queries Qₛ and keys and
values H, relative positions kept. The masked-LM head reads the last Q. The released code takes the same two steps
with the last encoder layer's weights, so that the decoder adds no parameters but the table of positions.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoModelForMaskedLM

from .masked_positions import stock_model
from .pretraining import PretrainingModel


class EnhancedMaskDecoderModel(PretrainingModel):
    """A DeBERTa whose last layer is the decoder while it trains; `main` alone, and its checkpoint, are stock.

    Args:
        objective: gives `decoder_steps`.
        main: a `DebertaV2ForMaskedLM` without absolute positions in its input.
        heads: as `PretrainingModel`.
    """

    objective: Any

    def __init__(self, objective, main, heads=None):
        super().__init__(objective, main, heads)
        config = stock_model(main).config
        self.absolute_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        nn.init.normal_(self.absolute_positions.weight, std=config.initializer_range)
        self.decoding = False
        encoder: Any = stock_model(main).base_model.encoder
        layer = encoder.layer[-1]
        layer.register_forward_pre_hook(self._with_queries, with_kwargs=True)
        layer.register_forward_hook(self._further_steps, with_kwargs=True)

    @classmethod
    def build(cls, objective, backbone, vocabulary):
        """From a backbone, with the table of positions that an earlier run left beside its checkpoint, if any.

        Raises `ValueError` unless it is a DeBERTa whose input has no absolute positions.
        """
        config = backbone.config
        if config.model_type != "deberta-v2":  # the stock layer of model type "deberta" fails on queries
            raise ValueError(
                f"{objective.name} needs a last layer that takes queries of its own, which {config.model_type} has "
                "not; use a deberta-v2 (or v3) preset or checkpoint"
            )
        if backbone.checkpoint and config.position_biased_input:
            raise ValueError(
                f"{backbone.checkpoint} has absolute positions in its input already (position_biased_input); "
                "train it with ngram_mlm, or use a checkpoint without them"
            )
        objective.check(vocabulary, config)
        model = cls(objective, backbone.load(AutoModelForMaskedLM, position_biased_input=False))
        if backbone.checkpoint is not None:
            model.load_heads(backbone.checkpoint)
        return model

    def run(self, batch, carry=None, want=()):
        """As `PretrainingModel.run`, the last hidden state being the decoder's."""
        self.decoding = True
        try:
            return super().run(batch, carry, want)
        finally:
            self.decoding = False

    def _with_queries(self, layer, args, kwargs):
        if not self.decoding:
            return None
        hidden = args[0]
        positions = self.absolute_positions.weight[: hidden.shape[1]].to(hidden.dtype)
        return args, {**kwargs, "query_states": hidden + positions}

    def _further_steps(self, layer, args, kwargs, output):
        if not self.decoding:
            return output
        for _ in range(self.objective.decoder_steps - 1):
            output = layer.forward(*args, **{**kwargs, "query_states": output[0]})
        return output
