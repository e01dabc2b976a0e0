"""The generator of replaced-token detection: its size, its samples, and the text they make."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

if TYPE_CHECKING:
    from ..objectives.replaced_tokens import GeneratorObjective

_PROJECTS_UNSAID = ("deberta", "deberta-v2")  # they read `embedding_size`, and their configs do not list it
BLOCK = 256
"""Tokens that `sample_tokens` sums up at a time."""


def generator_config(config: Any, objective: GeneratorObjective) -> Any:
    """The main model's config made smaller by `generator_size` and `generator_depth`.

    Width and feed-forward size shrink alike; heads are 64 wide, at least one. Where embeddings are tied they keep the
    main model's size, and a narrower generator projects them, which takes an architecture that does so.

    Raises `ValueError` for architectures without a masked LM, encoder-decoders, and a narrower generator with tied
    embeddings where the architecture has no projection.
    """
    kind = config.model_type
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{objective.name} needs an encoder with a masked LM, from which to make a generator; {kind} is none. "
            "Use electra, deberta-v3, bert or another encoder"
        )
    projects = hasattr(config, "embedding_size") or kind in _PROJECTS_UNSAID
    narrow = objective.tie == "none" or (projects and objective.tie == "shared")
    size = objective.generator_size or (0.25 if narrow else 1.0)
    depth = objective.generator_depth or (0.5 if size == 1 else 1.0)
    if size != 1 and objective.tie != "none" and not projects:
        raise ValueError(
            f"{kind} does not project its embeddings to its width, so a generator of {size:g} times the width cannot "
            "share them; use generator_size=1 with a smaller generator_depth, or tie='none', or an electra backbone"
        )
    small = copy.deepcopy(config)
    small.num_hidden_layers = max(1, round(config.num_hidden_layers * depth))
    if isinstance(getattr(config, "layer_types", None), list):
        small.layer_types = config.layer_types[: small.num_hidden_layers]
    if size == 1:
        return small
    heads = max(1, round(config.hidden_size * size) // 64)
    if projects:
        small.embedding_size = getattr(config, "embedding_size", config.hidden_size)
    small.num_attention_heads = heads
    small.hidden_size = 2 * heads * max(1, round(config.hidden_size * size / (2 * heads)))  # even, for rotary positions
    for name in ("intermediate_size", "hidden_dim"):
        if hasattr(config, name):
            setattr(small, name, max(1, round(getattr(config, name) * size)))
    for name, value in (("attention_head_size", small.hidden_size // heads), ("pooler_hidden_size", small.hidden_size)):
        if hasattr(config, name):
            setattr(small, name, value)
    return small


@torch.no_grad()
def sample_tokens(logits: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
    """A token per row from softmax(logits / temperature), by the inverse of its distribution function; int64 `[N]`.

    Args:
        logits: `[N, V]`; half precision is widened to float32.
        uniforms: float32 `[N]` in [0, 1), so that the largest is 1 − 2⁻²⁴.
        temperature: positive; towards 0 the likeliest token is drawn.

    The vocabulary is searched in blocks, so that only sums of blocks and one block per row are accumulated. Tokens of
    probability 0 are never drawn: a float32 below 1 times a total rounds to a number below the total.
    """
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if temperature != 1:
        wide = (wide - wide.amax(-1, keepdim=True)).div_(temperature)
    weights = wide.softmax(-1)
    size = weights.shape[-1]
    whole = size - size % BLOCK
    sums = weights[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1)
    sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], -1)
    block, within = _search(sums, uniforms.to(sums.dtype)[:, None])
    tokens = block * BLOCK + torch.arange(BLOCK, device=block.device)
    inside = weights.gather(-1, tokens.clamp(max=size - 1)).masked_fill_(tokens >= size, 0)
    return tokens.gather(-1, _search(inside, within)[0]).squeeze(-1)


def _search(weights: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row's running sum passes this share, `[N, 1]`, of its total, and the share of that weight to go."""
    ends = weights.cumsum(-1)
    at = share * ends[:, -1:]
    index = torch.searchsorted(ends, at, right=True)
    weight = weights.gather(-1, index)
    passed = (at - (ends.gather(-1, index) - weight)) / weight
    return index, passed.clamp(0, 1 - 2.0**-24)


def put(ids: Tensor, positions: Tensor, labels: Tensor, tokens: Tensor) -> Tensor:
    """`ids`, `[B, L]`, with `tokens` at flat positions, where there is a label."""
    flat = ids.flatten()
    return flat.index_copy(0, positions, torch.where(labels != -100, tokens, flat[positions])).view_as(ids)
