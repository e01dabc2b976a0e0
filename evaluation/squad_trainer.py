"""`FinetuneTrainer` for question answering: two scores per token, each window evaluated once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..models.masked_positions import stock_model
from .finetune_trainer import FinetuneTrainer
from .squad import WindowDataset


def takes_types(model: Any) -> bool:
    """Whether the model has embeddings for two kinds of segments."""
    stock = stock_model(model)
    accepted = inspect.signature(stock.forward).parameters
    return "token_type_ids" in accepted and getattr(stock.config, "type_vocab_size", 2) > 1


def _scores(outputs: Any, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of starts and of ends, those of padding as low as can be."""
    lowest = torch.finfo(torch.float32).min
    start, end = (outputs[name].float() for name in ("start_logits", "end_logits"))
    return start.masked_fill(attention_mask == 0, lowest), end.masked_fill(attention_mask == 0, lowest)


class SquadTrainer(FinetuneTrainer):
    """Trains and evaluates on `WindowDataset`s.

    The loss is the mean over windows of the mean of two cross-entropies, of the answer's first and last token (Devlin
    et al. 2018, section 4.2), divided once by the windows of the optimizer step. Padding is none of the choices, so a
    window's loss does not depend on the batch it is in; in the stock heads' loss it is.

    Args:
        score: metrics from scores of starts and ends, each `[windows, length]`, and the dataset they belong to.
        args, kwargs: of `FinetuneTrainer`.
    """

    def __init__(
        self,
        *args: Any,
        score: Callable[[np.ndarray, np.ndarray, WindowDataset], dict[str, float]],
        **kwargs: Any,
    ):
        self.score_spans = score
        super().__init__(*args, score=lambda predictions, references: {}, **kwargs)

    def compute_loss(self, model, inputs, *args: Any, **kwargs: Any):
        """The loss of a batch."""
        self._attention_mask = inputs["attention_mask"]
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None):
        losses = self._span_losses(*_scores(outputs, self._attention_mask), labels)
        return losses.sum() / num_items_in_batch if num_items_in_batch is not None else losses.mean()

    @staticmethod
    def _span_losses(start: torch.Tensor, end: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropies `[windows, 2]` of first and last tokens `labels`, `[windows, 2]`."""
        return torch.stack(
            [functional.cross_entropy(s, labels[:, i], reduction="none") for i, s in enumerate((start, end))], 1
        )

    def read_batch(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """Scores of starts and ends, `[windows, 2, length]`, and losses."""
        labels = batch.pop("labels")
        start, end = _scores(model(**batch), batch["attention_mask"])
        return torch.stack([start, end], 1), self._span_losses(start, end, labels).mean(1)

    def put_together(
        self, found: list[tuple[list[int], tuple[np.ndarray, ...]]], dataset: Any
    ) -> tuple[Any, dict[str, float]]:
        """Scores of all windows in their order, starts and ends, each `[windows, length]`, and metrics."""
        scores = np.full((len(dataset), 2, max(dataset.lengths)), np.finfo(np.float32).min, np.float32)
        losses = np.empty(len(dataset), np.float32)
        for rows, (values, loss) in found:
            width = min(values.shape[2], scores.shape[2])
            scores[rows, :, :width] = values[:, :, :width]
            losses[rows] = loss
        self.check_finite(losses)
        start, end = scores[:, 0], scores[:, 1]
        return (start, end), {"loss": float(losses.mean())} | self.score_spans(start, end, dataset)
