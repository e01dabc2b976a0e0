"""Parameter groups for fine-tuning: where weights decay, and learning rates that fall from head to embeddings.

With n layers and decay d, as in ELECTRA's released code (Clark et al. 2020, section A.2 and `optimization.py`):

    embeddings   layer 1     …   layer n   pooler, last norm   head, adapters outside of layers
    lr·d^(n+2)   lr·d^(n+1)  …   lr·d^2    lr·d                lr
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from .masked_positions import stock_model

_LAYER = re.compile(r"\.(\d+)\.")
_EMBEDDING = re.compile(r"emb|wte|wpe|shared|encoder\.LayerNorm")  # the last: DeBERTa's norm of relative positions
_NO_DECAY = re.compile(r"bias$|ia3_")


def optimizer_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_lr_decay: float | None = None
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters, with "lr" and "weight_decay" of each.

    Args:
        model: a model with head, or a PEFT model around one, of any family. An encoder-decoder's layers count from the
            encoder's first to the decoder's last; layers that share parameters (ALBERT) are one.
        learning_rate: of the head.
        weight_decay: of all parameters but biases, norms and other vectors.
        layer_lr_decay: factor from one layer to the one below; `None` or 1 for none. ELECTRA: 0.8 (base), 0.9 (large).

    Raises `ValueError` for a decay outside (0, 1].
    """
    if layer_lr_decay is not None and not 0 < layer_lr_decay <= 1:
        raise ValueError(f"--layer_lr_decay must be above 0 and at most 1, not {layer_lr_decay}")
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    depths = parameter_depths(model) if layer_lr_decay is not None else dict.fromkeys(names, 0)
    top = max(depths.values(), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in names.items():
        rate = learning_rate * (layer_lr_decay or 1.0) ** (top - depths[name])
        decay = 0.0 if parameter.ndim < 2 or _NO_DECAY.search(name) else weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def parameter_depths(model: nn.Module) -> dict[str, int]:
    """Depth of each parameter: 0 for embeddings, i for the i-th layer of n, n + 1 for what follows, n + 2 for heads."""
    stock = stock_model(model)
    base: Any = stock.base_model
    inside = {id(p): f".{name}" for name, p in base.named_parameters()}
    if base is stock:  # T5's question answering has its parts side by side
        inside = {key: name for key, name in inside.items() if name.startswith((".shared", ".encoder", ".decoder"))}
    layers = {
        side: 1
        + max((int(m[1]) for name in inside.values() if _side(name) == side and (m := _LAYER.search(name))), default=-1)
        for side in ("", ".decoder")
    }
    encoder, total = layers[""], layers[""] + layers[".decoder"]

    def depth(parameter: nn.Parameter) -> int:
        name = inside.get(id(parameter))
        if name is None:
            return total + 2
        below = encoder if _side(name) else 0
        if layer := _LAYER.search(name):
            return below + int(layer[1]) + 1
        if _EMBEDDING.search(name):
            return 0
        return (
            total + 1 if below or not layers[".decoder"] else encoder
        )  # the encoder's last norm goes with its last layer

    return {name: depth(parameter) for name, parameter in model.named_parameters()}


def _side(name: str) -> str:
    return ".decoder" if name.startswith(".decoder.") else ""
