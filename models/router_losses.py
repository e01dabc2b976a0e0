"""Losses of the routers in mixture-of-experts models, which are trained beside whatever the objective is.

Fedus et al. 2021, "Switch Transformers: Scaling to trillion parameter models with simple and efficient sparsity", arXiv
2101.03961, section 2.2, equations 4 to 6 (load balancing); Zoph et al. 2022, "ST-MoE: Designing stable and transferable
sparse expert models", arXiv 2202.08906, equation 5 (router z-loss).

Logits are caught at the routers themselves. The losses that transformers computes count padding (Switch), lay all
layers together before the product, so that a layer's imbalance can cancel another's, and do not know the masks that
some objectives attend by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..objectives.base import Term
from .masked_positions import stock_model


def load_balancing_loss(logits: Tensor, keep: Tensor, top_k: int) -> Tensor:
    """Experts · Σ over experts of (tokens sent to it / tokens) · (mean probability of it); `top_k` if all are alike.

    Args:
        logits: `[T, E]`, the router's.
        keep: `[T]`, 1 for tokens and 0 for padding, which does not count.
        top_k: how many experts a token is sent to. Which they are has no gradient.
    """
    keep = keep.to(logits.dtype)
    probabilities = logits.softmax(-1)
    sent = torch.zeros_like(probabilities).scatter(1, logits.topk(top_k, -1).indices, 1.0)
    tokens = keep.sum().clamp(min=1)
    return logits.shape[-1] * ((keep @ sent / tokens) * (keep @ probabilities / tokens)).sum()


def router_z_loss(logits: Tensor, keep: Tensor) -> Tensor:
    """Mean square of the logarithm of Σ exp(logits), over tokens; see `load_balancing_loss` for the arguments."""
    keep = keep.to(logits.dtype)
    return keep @ logits.logsumexp(-1).square() / keep.sum().clamp(min=1)


class Routers:
    """The routers of a model, and their losses as terms that are averaged over micro-batches and processes.

        with routers:
            model(**inputs)
        routers.losses(batch)

    `terms` holds "load_balancing" and "router_z", as far as the model's config has a coefficient for them above 0
    (`router_aux_loss_coef`, `router_z_loss_coef`). Both are means over layers, so that load balancing comes to 1 in a
    balanced Switch and to `num_experts_per_tok` in a balanced Mixtral. In encoder-decoders each layer's loss is added
    to the objective's, as Fedus et al. say: there the weight is the coefficient times the number of layers. In
    decoders it is the coefficient, which is what transformers means by it. The config's `output_router_logits` has no
    say here.

    Attributes:
        terms: the loss terms by name; empty for a model without routers.
    """

    def __init__(self, model: Any):
        stock = stock_model(model)
        encoder = stock.get_encoder() if stock.config.is_encoder_decoder else None
        in_encoder = set(map(id, encoder.modules())) if encoder is not None else set()
        self.top_k = getattr(stock.config, "num_experts_per_tok", None) or 1
        self.active = False
        self.caught: list[tuple[str, Tensor]] = []
        layers = 0
        for module, index in _routers(stock):
            axis = "target" if encoder is not None and id(module) not in in_encoder else "input"
            module.register_forward_hook(_Catch(self, axis, index))
            layers += 1
        coefficients = {"load_balancing": "router_aux_loss_coef", "router_z": "router_z_loss_coef"}
        scale = layers if encoder is not None else 1
        self.terms: dict[str, Term] = {}
        for name, coefficient in coefficients.items():
            weight = getattr(stock.config, coefficient, None) or 0.0
            if layers and weight > 0:
                self.terms[name] = Term(weight * scale, additive=False)

    def __enter__(self) -> Routers:
        self.caught, self.active = [], bool(self.terms)
        return self

    def __exit__(self, *error: Any) -> None:
        self.active = False  # layers computed again for their gradient are not counted again

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each term's value for the pass made since `with`, with gradient.

        Args:
            batch: its columns, which say what padding is: `attention_mask` for the input, for a decoder behind an
                encoder `decoder_attention_mask` or else the labels, of which each token of its input has one.

        Raises `RuntimeError` if no router was passed.
        """
        if not self.terms:
            return {}
        if not self.caught:
            raise RuntimeError("no router was passed in the forward pass")
        keep = {axis: _tokens(batch, axis) for axis in {axis for axis, _ in self.caught}}
        values: dict[str, Tensor] = {}
        for axis, logits in self.caught:
            found = {"load_balancing": load_balancing_loss(logits, keep[axis], self.top_k)}
            found["router_z"] = router_z_loss(logits, keep[axis])
            for name in self.terms:
                values[name] = values.get(name, 0.0) + found[name] / len(self.caught)
        self.caught = []
        return values


class _Catch:
    """Forward hook that keeps a router's logits, `[T, E]`, in float32 or wider."""

    def __init__(self, owner: Routers, axis: str, index: int):
        self.owner, self.axis, self.index = owner, axis, index

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.owner.active:
            logits = output[self.index] if isinstance(output, tuple) else output
            logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
            self.owner.caught.append((self.axis, logits.flatten(0, -2)))


def _routers(stock: PreTrainedModel) -> list[tuple[nn.Module, int]]:
    """The modules that transformers takes for routers, and which of their outputs the logits are."""
    found: dict[int, tuple[nn.Module, int]] = {}
    for part in stock.modules():
        recorder = (getattr(part, "_can_record_outputs", None) or {}).get("router_logits")
        if recorder is None:
            continue
        kind, index = getattr(recorder, "target_class", recorder), getattr(recorder, "index", 0)
        found |= {id(module): (module, index) for module in part.modules() if isinstance(module, kind)}
    return list(found.values())


def _tokens(batch: Mapping[str, Tensor], axis: str) -> Tensor:
    """`[T]`: 1 for the tokens of an axis of the batch, flattened, 0 for its padding."""
    if axis == "input":
        ids, mask = batch["input_ids"], batch.get("attention_mask")
    else:
        ids, mask = batch["decoder_input_ids"], batch.get("decoder_attention_mask")
    if mask is not None:
        return mask.flatten()
    if axis == "input":
        return torch.ones_like(ids).flatten()
    labelled = (batch["label_ids"] != -100).to(ids.dtype)  # positions of labels that only fill up count nowhere
    return torch.zeros_like(ids).flatten().scatter_add(0, batch["label_positions"], labelled)
