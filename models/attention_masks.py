"""Attention kept within documents, as 4-D additive masks.

A 4-D mask of floats (0 where attention is allowed, the dtype's minimum elsewhere) is the one form that Hugging Face
models take alike under eager attention and SDPA; a boolean one is added as 0 and 1 by some, and leaks.
"""

from __future__ import annotations

from typing import Any

import torch

from .masked_positions import stock_model

FULL, SLIDING = "full_attention", "sliding_attention"


def document_mask(
    document_ids: torch.Tensor, dtype: torch.dtype, *, causal: bool = False, window: int | None = None
) -> torch.Tensor:
    """Additive mask `[B, 1, L, L]` that keeps attention within documents.

    Padding counts as a document of its own, so that no row is without an allowed position (softmax would give NaN).

    Args:
        document_ids: int `[B, L]`, −1 on padding.
        dtype: of the mask, the model's floating-point dtype.
        causal: whether a position sees only itself and those before it.
        window: how far a position sees: the last `window` positions, itself included, if causal, else `window`
            positions to either side (Hugging Face's sliding windows).
    """
    allowed = document_ids[:, :, None] == document_ids[:, None, :]
    place = torch.arange(document_ids.shape[1], device=document_ids.device)
    ahead = place[None, :] - place[:, None]  # how far the key lies to the right of the query
    if causal:
        allowed = allowed & (ahead <= 0)
    if window is not None:
        allowed = allowed & (ahead > -window if causal else ahead.abs() <= window)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=document_ids.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def document_positions(document_ids: torch.Tensor) -> torch.Tensor:
    """Position of each token in its document, int64 `[B, L]`.

    >>> document_positions(torch.tensor([[0, 0, 1, 1, 1, -1]])).tolist()
    [[0, 1, 0, 1, 2, 0]]
    """
    place = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return place - torch.where(starts, place, 0).cummax(1).values


def model_masks(config: Any, document_ids: torch.Tensor, dtype: torch.dtype, *, causal: bool) -> Any:
    """The `attention_mask` for a model of this config: one mask, or one for each kind of its layers.

    A 4-D mask replaces the sliding window of local layers, so theirs is drawn in. Raises `ValueError` for attention
    implementations and kinds of layers that take no such mask.
    """
    if config._attn_implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"attention within documents needs attn_implementation 'sdpa' or 'eager', not "
            f"{config._attn_implementation!r}"
        )
    if getattr(config, "is_heterogeneous", False):
        raise ValueError(f"{config.model_type} has windows of several sizes, which documents cannot be kept to")
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [FULL if window is None else SLIDING])
    if not kinds <= {FULL, SLIDING}:
        raise ValueError(
            f"{config.model_type} has layers ({', '.join(sorted(kinds - {FULL, SLIDING}))}) that cannot keep to "
            "documents; use another backbone or leave documents unseparated"
        )
    windows = {FULL: None, SLIDING: window}
    masks = {kind: document_mask(document_ids, dtype, causal=causal, window=windows[kind]) for kind in kinds}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def check_document_attention(model: Any) -> None:
    """Refuse, by a `ValueError`, a `PretrainingModel` that does not keep to documents: tried out on four tokens.

    Architectures differ in what they make of a 4-D mask: some reject it, some (state spaces) do not heed it.
    """
    name = type(stock_model(model.main)).__name__
    words = [i for i in range(4, 11) if i != getattr(model.config, "pad_token_id", None)]  # and no other common padding
    documents = torch.tensor([[0, 0, 1, 1]], device=model.device)
    training = model.training
    model.eval()
    try:
        logits = []
        for row in (words[:4], [*words[4:6], *words[2:4]]):  # they differ in the first document
            batch = {"input_ids": torch.tensor([row], device=model.device), "document_ids": documents}
            with torch.no_grad():
                logits.append(model.main(**model.inputs(batch)).logits[:, 2:].float())
    except Exception as error:  # whatever a model makes of a mask it does not know
        raise ValueError(f"{name} takes no attention mask by document ({error}); use another backbone") from error
    finally:
        model.train(training)
    if not torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5):
        raise ValueError(f"{name} does not heed an attention mask by document; use another backbone")
