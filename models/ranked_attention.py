"""Attention by rank: a token sees those of its own rank and of lower ones.

    bidirectional    0 0 0 0 0
    left to right    0 1 2 3 4
    right to left    4 3 2 1 0
    prefix           0 0 0 1 2      the first three see each other, the rest what comes before

One column of integers thus says how a row is read, and the mask is made on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .build_model import build_model
from .masked_positions import stock_model
from .pretraining import PretrainingModel


def ranked_mask(ranks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask `[B, 1, L, L]`: 0 where the key's rank is no higher than the query's, else the dtype's minimum.

    Padding has the highest rank of all, so that nothing but padding sees it.

    Args:
        ranks: int `[B, L]`.
        dtype: of the mask, the model's floating-point dtype.

    >>> (ranked_mask(torch.tensor([[0, 0, 1]]), torch.float32)[0, 0] == 0).int().tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """
    hidden = ranks[:, None, :] > ranks[:, :, None]
    mask = torch.zeros(hidden.shape, dtype=dtype, device=ranks.device)
    return mask.masked_fill(hidden, torch.finfo(dtype).min)[:, None]


class RankedAttentionModel(PretrainingModel):
    """A stock model that attends by the column `attention_ranks`, `[B, L]`."""

    @classmethod
    def build(cls, objective, backbone, vocabulary):
        """From a backbone. Raises `ValueError` for those that take no such mask, or do not heed it."""
        model = build_model(objective, backbone, vocabulary, cls)
        _check(model)
        return model

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The columns that `main` accepts, and the mask."""
        inputs = super().inputs(batch)
        inputs["attention_mask"] = ranked_mask(batch["attention_ranks"], self.dtype)
        return inputs


def _check(model: PretrainingModel) -> None:
    """Refuse, by a `ValueError`, a model that does not attend by rank: tried out on four tokens."""
    config, name = model.config, type(stock_model(model.main)).__name__
    if config._attn_implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"attention by rank needs attn_implementation 'sdpa' or 'eager', not {config._attn_implementation!r}"
        )
    kinds = getattr(config, "layer_types", None)  # where layers say it themselves, a window is of those that have one
    if set(kinds) != {"full_attention"} if kinds else getattr(config, "sliding_window", None) is not None:
        raise ValueError(f"{name} has layers of local attention, which a mask of ranks would widen; use another one")
    words = [i for i in range(4, 12) if i != getattr(config, "pad_token_id", None)]
    rows = [words[:4], [words[0], words[4], *words[2:4]], [*words[:3], words[4]]]  # changed: none, second, last token
    ranks = torch.tensor([[0, 0, 1, 2]], device=model.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = [
                model.main(**model.inputs({"input_ids": ids[None], "attention_ranks": ranks})).logits[0].float()
                for ids in torch.tensor(rows, device=model.device)
            ]
    except Exception as error:  # whatever a model makes of a mask it does not know
        raise ValueError(f"{name} takes no attention mask by rank ({error}); use another backbone") from error
    finally:
        model.train(training)
    seen = torch.allclose(logits[0][0], logits[1][0], rtol=0, atol=0)
    if seen or not torch.allclose(logits[0][:3], logits[2][:3], rtol=1e-4, atol=1e-5):
        raise ValueError(f"{name} does not heed an attention mask by rank; use another backbone")
