"""Losses of a batch whose rows are of several components, each loss a plain cross-entropy over `label_ids`.

Terms of one name are pooled over components. Where rows have unlike terms, each term counts by the share of the
optimizer step's rows that have it; so beside the denominators the rows of each term, and of all, are counted.

Arguments `terms` hold the components that have each term, by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .losses import token_losses

ALL_ROWS = "rows"
"""Name of the count of all rows."""


def rows_of(term: str) -> str:
    """Name of the count of the rows that have a term."""
    return f"{ALL_ROWS} of {term}"


def per_component(component: Tensor, values: Tensor, number: int) -> Tensor:
    """`[number]`: sum of `values`, `[N]`, for each component, given the component of each value."""
    return torch.zeros(number, dtype=values.dtype, device=values.device).index_add(0, component, values)


def total_of(values: Tensor, components: Sequence[int]) -> Tensor:
    """Sum of `values` over these components, without the wait for a GPU that an index from here would take."""
    return torch.stack([values[c] for c in components]).sum()


def pooled_counts(terms: Mapping[str, list[int]], batch: Mapping[str, Tensor], component: Tensor) -> dict[str, Tensor]:
    """Labels of each term in the batch; where rows have unlike terms also the rows of each, and of all.

    Args:
        component: int `[B]`, of each row.
    """
    number = 1 + max(c for of in terms.values() for c in of)
    labels = per_component(batch["label_components"], (batch["label_ids"] != -100).long(), number)
    found = {term: total_of(labels, of) for term, of in terms.items()}
    if len(found) > 1:
        rows = per_component(component, torch.ones_like(component), number)
        found |= {rows_of(term): total_of(rows, of) for term, of in terms.items()}
        found[ALL_ROWS] = rows.sum()
    return found


def by_share_of_rows(counts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Counts of a step, those of terms that only a part of its rows have raised by one over that part."""
    total = counts.get(ALL_ROWS)
    if total is None:
        return counts
    rows = {term: counts[rows_of(term)] for term in counts if rows_of(term) in counts}
    return counts | {t: counts[t] * total / torch.where(number > 0, number, 1) for t, number in rows.items()}


def pooled_losses(
    terms: Mapping[str, list[int]], names: Sequence[str], logits: Tensor, batch: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Sums of the terms; loss and accuracy of each component as metrics under its name, of `names`."""
    labels, component = batch["label_ids"], batch["label_components"]
    losses = per_component(component, token_losses(logits, labels), len(names))
    with torch.no_grad():
        counts = per_component(component, (labels != -100).long(), len(names))
        correct = per_component(component, ((logits.argmax(-1) == labels) & (labels != -100)).long(), len(names))
    metrics = {}
    for term, of in terms.items():
        for c in of:
            metrics[f"{names[c]}.{term}_loss"] = (losses[c].detach(), counts[c])
            metrics[f"{names[c]}.accuracy"] = (correct[c], counts[c])
    return {term: total_of(losses, of) for term, of in terms.items()}, metrics
