"""Training FLOPs per token, for model FLOPs utilisation (MFU)."""

from __future__ import annotations

from typing import Any

from torch import nn

from .masked_positions import stock_model


def flops_per_token(model: nn.Module, length: int, predicted: float | None = None) -> float:
    """FLOPs that a forward and backward pass spends on a token, activation recomputation not counted.

    6·N for the N weights of the body, 12·layers·width·length for attention scores and values (width: heads times their
    size), and 6·hidden·V for the vocabulary projection, on the share of positions that meet it. Embedding tables are
    looked up, not multiplied, and not counted. As in the sources, causal attention counts in full. Every token is taken
    to pass all weights: too high for encoder-decoders and mixtures of experts. Layers that share weights (ALBERT)
    count as often as they are used. A teacher's forward pass is a third of what its training would be.

    Kaplan et al. 2020 (arXiv 2001.08361), section 2.1; Chowdhery et al. 2022 (PaLM, arXiv 2204.02311), appendix B.

    Args:
        model: a `PretrainingModel`, or a Hugging Face model.
        length: tokens per row.
        predicted: share of positions whose logits are computed; by default the objective's `predicted` or
            `mlm_probability`, or 1.
    """
    objective: Any = getattr(model, "objective", None)
    if predicted is None:
        predicted = float(getattr(objective, "predicted", getattr(objective, "mlm_probability", 1.0)))
    config: Any = stock_model(model).config.get_text_config()
    tables, projections, body = set(), {}, {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                tables.add(id(weight))
            elif weight.dim() == 2 and config.vocab_size in weight.shape:
                projections[id(weight)] = weight.numel()
            else:
                body[id(weight)] = weight.numel()
    layers = config.num_hidden_layers
    repeats = layers / getattr(config, "num_hidden_groups", layers)
    if config.is_encoder_decoder:
        layers += getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", layers)
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or config.hidden_size // heads
    weights = repeats * sum(count for key, count in body.items() if key not in tables)
    teacher = getattr(model, "teacher", None)
    taught = 0.0
    if isinstance(teacher, nn.Module):
        taught = flops_per_token(teacher, length, predicted if objective.soft_weight else 0.0) / 3
    return taught + 6 * weights + 12 * layers * heads * size * length + 6 * predicted * sum(projections.values())
