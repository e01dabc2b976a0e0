"""Only labelled positions meet the vocabulary.

Stock masked-LM heads project every position, `B·L·V` numbers, of which BERT-style training uses 15 %. Here a forward
hook hands the stock head only the labelled rows of the last hidden state, laid out as one row of `N` positions, so it
computes `N·V` numbers and its weights, checkpoints and code stay as they are. Loss and gradients are those of the full
computation, since the other logits enter neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class LabelledRows:
    """Forward hook that replaces the last hidden state `[B, L, H]` by its rows at `positions`, `[1, N, H]`.

    Does nothing while `positions` is `None`. An object rather than a closure, so that a deep copy of the model carries
    a hook with a state of its own.

    Attributes:
        positions: int64 `[N]`, indices into the flattened `[B·L]`, or `None`.
        hidden: the whole last hidden state of the last forward pass made with positions.
    """

    def __init__(self) -> None:
        self.positions: torch.Tensor | None = None
        self.hidden: torch.Tensor | None = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The output of `module` with its first entry, the last hidden state, replaced."""
        if self.positions is None:
            return None
        self.hidden = output[0]
        rows = self.hidden.flatten(0, 1).index_select(0, self.positions).unsqueeze(0)
        if isinstance(output, tuple):
            return (rows, *output[1:])
        output[next(iter(output))] = rows  # of a ModelOutput, both by name and by place
        return output


def stock_model(model: Any) -> PreTrainedModel:
    """The Hugging Face model inside: `model` itself, or what a PEFT model wraps."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hook_point(model: Any) -> nn.Module:
    """The module whose output the vocabulary head reads: the base model or the decoder.

    Raises `ValueError` for a model that has neither.
    """
    stock = stock_model(model)
    base: Any = stock.base_model
    if base is stock:  # T5 and its relatives
        base = stock.get_decoder()
    elif not stock.config.is_encoder_decoder and isinstance(getattr(base, "decoder", None), PreTrainedModel):
        base = base.decoder  # OPT, BART as a decoder: the base model is a shell whose forward is not called
    if base is stock:
        raise ValueError(
            f"{type(stock).__name__} has no base model apart from its head, so logits cannot be computed for labelled "
            "positions only; use another backbone"
        )
    return base


def attach(model: Any) -> LabelledRows:
    """Register the hook on `model`, once and for all. Raises `ValueError` for a model without a place for it."""
    rows = LabelledRows()
    hook_point(model).register_forward_hook(rows)
    return rows
