"""Generation from masked diffusion models: rows of masks that are filled in step by step."""

from __future__ import annotations

from typing import Any, Literal

import torch


@torch.no_grad()
def sample_masked_diffusion(
    model: Any,
    input_ids: torch.Tensor,
    *,
    mask_id: int,
    steps: int,
    temperature: float = 1.0,
    order: Literal["random", "confidence"] = "random",
    attention_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill in the mask tokens of `input_ids`; all other tokens, a prompt say, stay as they are.

        [CLS] the [MASK] [MASK] [MASK] [SEP]  →  [CLS] the [MASK] sat [MASK] [SEP]  →  [CLS] the cat sat down [SEP]

    Args:
        model: a masked language model of Hugging Face, in evaluation mode.
        input_ids: int64 `[B, L]`.
        mask_id: the mask token's id, which is never generated.
        steps: forward passes, at least 1; more give better text, up to the number of masks.
        temperature: of the tokens' distribution; 0 takes the likeliest.
        order: "random": in each step every mask is filled with the probability that the reverse process gives,
            1 / (steps left) (MDLM, arXiv 2406.07524, equation 7). "confidence": as many masks in each step, those whose
            token is likeliest first (LLaDA's low-confidence remasking, arXiv 2502.09992, section 2.4).
        attention_mask: `[B, L]`, 0 on padding.
        generator: of the random numbers, on the ids' device.

    Returns int64 `[B, L]` without mask tokens. Raises `ValueError` for settings out of range.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, not {temperature}")
    if order not in ("random", "confidence"):
        raise ValueError(f"order must be 'random' or 'confidence', not {order!r}")
    ids = input_ids.clone()
    for left in range(steps, 0, -1):
        masked = ids == mask_id
        if not masked.any():
            break
        logits = model(input_ids=ids, attention_mask=attention_mask).logits.float()
        logits[..., mask_id] = -torch.inf
        probabilities = torch.softmax(logits / (temperature or 1.0), -1)
        if temperature:
            drawn = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view_as(ids)
        else:
            drawn = probabilities.argmax(-1)
        if order == "random":
            chance = torch.rand(ids.shape, generator=generator, device=ids.device)
            fill = masked & (chance < 1 / left)
        else:
            sure = probabilities if temperature in (0, 1) else torch.softmax(logits, -1)  # as LLaDA: before tempering
            confidence = sure.gather(-1, drawn[..., None])[..., 0].masked_fill(~masked, -1.0)
            rank = confidence.argsort(1, descending=True).argsort(1)
            fill = masked & (rank < (masked.sum(1, keepdim=True) / left).ceil())
        ids = torch.where(fill, drawn, ids)
    return ids
