"""Losses of rows by the full logits of the stock model, for what the trainer logs."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def stock_loss(model, batch) -> tuple[float, int, int]:
    """(Σ cross-entropy, right predictions, labels) of a batch, by the stock model's full logits."""
    model.eval()
    with torch.no_grad():
        logits = model.main(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    rows = logits.reshape(-1, logits.shape[-1])[batch["label_positions"]]
    labels = batch["label_ids"]
    right = int((rows.argmax(-1) == labels).sum())
    return float(F.cross_entropy(rows, labels, reduction="sum")), right, len(labels)


def rows_of(dataset, collator, numbers):
    """The rows of a dataset with these numbers, each a batch of its own."""
    return [collator(dataset.__getitems__([int(n)])) for n in numbers]
