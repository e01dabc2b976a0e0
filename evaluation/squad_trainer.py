"""`FinetuneTrainer` for question answering: two scores per token, each window evaluated once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..models.masked_positions import stock_model
from .encoded import evaluation_share
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

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Scores of all windows in their order, on every process: starts and ends, each `[windows, length]`.

        Raises `ValueError` if the model gives NaN or infinite values.
        """
        args = self.args
        dataset: Any = dataloader.dataset
        share = evaluation_share(dataset.lengths, args.eval_batch_size, args.process_index, args.world_size)
        model: Any = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        training = model.training
        model.eval()
        found: list[tuple[list[int], np.ndarray, np.ndarray]] = []
        for (rows, counts), batch in zip(share, dataloader, strict=True):
            batch = self._prepare_inputs(batch)
            labels = batch.pop("labels")
            with torch.no_grad(), self.accelerator.autocast():
                outputs = model(**batch)
            if counts:
                start, end = _scores(outputs, batch["attention_mask"])
                losses = self._span_losses(start, end, labels).mean(1)
                found.append((rows, torch.stack([start, end], 1).cpu().numpy(), losses.cpu().numpy()))
        model.train(training)
        if args.world_size > 1:
            found = gather_object(found)
        scores = np.full((len(dataset), 2, max(dataset.lengths)), np.finfo(np.float32).min, np.float32)
        all_losses = np.empty(len(dataset), np.float32)
        for rows, values, loss in found:
            width = min(values.shape[2], scores.shape[2])
            scores[rows, :, :width] = values[:, :, :width]
            all_losses[rows] = loss
        if not np.isfinite(all_losses).all():
            raise ValueError(
                f"the model gives NaN or infinite values after step {self.state.global_step}; lower --learning_rate, "
                "or use bf16 instead of fp16"
            )
        metrics = {"loss": float(all_losses.mean())} | self.score_spans(scores[:, 0], scores[:, 1], dataset)
        both: Any = (scores[:, 0], scores[:, 1])
        return EvalLoopOutput(
            predictions=both,
            label_ids=dataset.labels,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(dataset),
        )
