"""Losses as sums, metrics as (sum, count): shared by the objectives that predict tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F


def token_losses(logits: torch.Tensor, label_ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each prediction, float32 or wider `[N]`, 0 where the label is −100. `logits` is `[N, V]`."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return F.cross_entropy(logits, label_ids, reduction="none", ignore_index=-100)


def masked_lm_loss(
    name: str, outputs: Mapping[str, Any], batch: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Sum of cross-entropies over `batch["label_ids"]`, `[N]`, of `outputs["logits"]`, `[N, V]`; accuracy as metric."""
    logits, labels = outputs["logits"], batch["label_ids"]
    losses = token_losses(logits, labels)
    with torch.no_grad():
        correct = ((logits.argmax(-1) == labels) & (labels != -100)).sum()
    return {name: losses.sum()}, {"accuracy": (correct, (labels != -100).sum())}
