"""Larger models that begin from smaller ones: deeper by stacking layers, wider by repeating units.

with_layers(model, (0, 1, 2, 0, 1, 2))       six layers from three (Gong et al. 2019, progressive stacking)
wider(model, 2)                         twice as wide, and computes what it did before (bert2BERT; Net2Net)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .initialize import config_with_layers, copy_layers
from .presets import with_settings

_BERT = ("hidden_size", "num_attention_heads", "intermediate_size")
WIDTHS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "modernbert"), _BERT),
    "distilbert": ("dim", "n_heads", "hidden_dim"),
    "gpt2": ("n_embd", "n_head", "n_inner"),
}
"""Model type → settings that grow with the width. Heads keep their size and become more."""
FUSED = {"Wqkv": 3, "Wi": 2, "c_attn": 3}
"""Linear layers by the end of their name that hold several matrices one below the other."""
LAST_NORM = ("transform.LayerNorm", "lm_head.layer_norm", "vocab_layer_norm", "head.norm", "ln_f")
"""Ends of the name of the norm before tied output embeddings."""


def with_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A model with these layers of `model`, counted from 0, one for each of its own; they may repeat.

    Raises `ValueError` for layers that are not there.
    """
    made = type(model)._from_config(config_with_layers(model.config, layers), dtype=model.dtype)
    missing = copy_layers(made, model, layers)
    ours, theirs = made.state_dict(), model.state_dict()
    with torch.no_grad():
        for name in missing:  # poolers and heads, which are as they were
            ours[name].copy_(theirs[name])
    return made.to(model.device).train(model.training)


def wider(model: PreTrainedModel, factor: int, seed: int = 0) -> PreTrainedModel:
    """A model `factor` times as wide, in hidden states, heads and feed-forward layers, with the same outputs.

    Units are repeated, and what reads them takes a random share of each copy, shares that add up to one, so that copies
    get unlike gradients and grow apart (Chen et al. 2015, arXiv 1511.05641, Net2WiderNet; Chen et al. 2021, arXiv
    2110.07143, function-preserving initialization). Norms of repeated units are the same. Where the output embeddings
    are tied, which no share can be taken of, the norm before them is divided instead.

    Raises `ValueError` for families that are not in `WIDTHS` and for factors below 2.
    """
    kind = model.config.model_type
    if kind not in WIDTHS:
        raise ValueError(f"a {kind} cannot be made wider; {', '.join(WIDTHS)} can")
    if factor < 2:
        raise ValueError(f"the factor of the width must be 2 or more, not {factor}")
    config: Any = model.config
    sizes = {name: getattr(config, name) for name in WIDTHS[kind]}
    made = type(model)._from_config(
        with_settings(config, {name: factor * size for name, size in sizes.items() if size is not None}),
        dtype=model.dtype,
    )
    random = torch.Generator().manual_seed(seed)
    modules, seen = dict(made.named_modules()), set()
    table = made.get_input_embeddings()
    with torch.no_grad():
        for name, old in model.named_parameters():
            new = made.get_parameter(name)
            if id(new) in seen:
                continue
            seen.add(id(new))
            owner, _, _ = name.rpartition(".")
            # a tied table may go by the name of the output's linear layer
            module = table if new is table.weight else modules[owner]
            new.copy_(_grown(old.cpu(), new, module, FUSED.get(owner.rpartition(".")[2], 1), random))
        output, source = made.get_output_embeddings(), model.get_output_embeddings()
        if output is not None and output.weight is table.weight:
            times = output.weight.shape[1] // source.weight.shape[1]
            norms = [module for name, module in modules.items() if name.endswith(LAST_NORM)]
            for parameter in [p for norm in norms for p in norm.parameters()] if times > 1 else []:
                parameter.div_(times)
    return made.to(model.device).train(model.training)


def _grown(old: Tensor, new: Tensor, module: nn.Module, parts: int, random: torch.Generator) -> Tensor:
    """A parameter at the size of `new`: repeated along outputs, shared out along a linear layer's inputs."""
    if isinstance(module, Conv1D) and old.dim() == 2:
        return _linear(old.T, (new.shape[1], new.shape[0]), parts, random).T
    if isinstance(module, nn.Linear) and old.dim() == 2:
        return _linear(old, (new.shape[0], new.shape[1]), parts, random)
    times = new.shape[-1] // old.shape[-1]  # of vectors, and of tables of embeddings
    return old.unflatten(-1, (parts, -1)).repeat(*[1] * old.dim(), times).flatten(-2)


def _linear(weight: Tensor, shape: tuple[int, int], parts: int, random: torch.Generator) -> Tensor:
    rows, columns = (size // old for size, old in zip(shape, weight.shape))
    weight = weight.unflatten(0, (parts, -1)).repeat(1, rows, 1).flatten(0, 1)
    shares = 0.5 + torch.rand(columns, *weight.shape, generator=random, dtype=torch.float64)
    shares = shares / shares.sum(0)
    return torch.cat(list((weight.double() * shares).to(weight.dtype)), dim=1)
