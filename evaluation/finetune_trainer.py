"""Hugging Face's `Trainer` for one task: rows of about one length together, each row evaluated once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput, sort_checkpoints

from ..models.task_models import optimizer_groups
from .encoded import LengthGroupedEpochs, evaluation_share

COMPLETE = "complete"
"""File in a checkpoint that was written whole."""


class _Hooks(TrainerCallback):
    """Marks complete checkpoints, and tells the sampler its epoch, which some wrappers of it forget after a resume."""

    def __init__(self, trainer: FinetuneTrainer):
        self.trainer = trainer

    def on_save(self, args, state, control, **kwargs):
        self.trainer.accelerator.wait_for_everyone()  # files of other processes are there
        if args.should_save:
            Path(args.output_dir, f"checkpoint-{state.global_step}", COMPLETE).touch()

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(math.floor((state.epoch or 0.0) + 1e-6))


def last_checkpoint(run: Path) -> str | None:
    """The newest checkpoint in a run's folder that was written whole; `None` without one."""
    checkpoints = [path for path in sort_checkpoints(str(run)) if Path(path, COMPLETE).is_file()]
    return checkpoints[-1] if checkpoints else None


class FinetuneTrainer(Trainer):
    """Fine-tunes a sequence-classification model.

    The loss is a sum over rows, each with the weight of its class, divided once by the rows of the optimizer step, so
    that the division into micro-batches and processes does not matter. Evaluation takes each row exactly once on any
    number of processes and gives the same figures on all of them; the stock one repeats rows to fill the last batches.

    Args:
        class_weights: weight of each class in the loss, float [labels]; `None` for one.
        layer_lr_decay: see `optimizer_groups`.
        score: metrics from predictions (ids, or numbers of a regression) and labels.
        kwargs: passed on to `Trainer`; datasets are `EncodedExamples`.
    """

    def __init__(
        self,
        *args: Any,
        score: Callable[[np.ndarray, np.ndarray], dict[str, float]],
        class_weights: torch.Tensor | None = None,
        layer_lr_decay: float | None = None,
        **kwargs: Any,
    ):
        self.sampler: LengthGroupedEpochs | None = None
        self.class_weights, self.layer_lr_decay, self.score = class_weights, layer_lr_decay, score
        settings: dict[str, Any] = dict(compute_loss_func=self._loss, **kwargs)
        super().__init__(*args, **settings)
        self.add_callback(_Hooks(self))

    def _loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None):
        losses = self._losses(outputs["logits"], labels)
        return losses.sum() / num_items_in_batch if num_items_in_batch is not None else losses.mean()

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of each row."""
        if logits.shape[-1] == 1:
            return functional.mse_loss(logits.float().squeeze(-1), labels.float(), reduction="none")
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        return functional.cross_entropy(logits.float(), labels, weight=weights, reduction="none")

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The optimizer that the arguments name, over `optimizer_groups`."""
        if self.optimizer is None:
            own: Any = self.model
            cls, settings = self.get_optimizer_cls_and_kwargs(self.args, own)
            model = own if model is None else model
            groups = optimizer_groups(model, self.args.learning_rate, self.args.weight_decay, self.layer_lr_decay)
            self.optimizer = cls(groups, **settings)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None):
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(dataset)
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.sampler = LengthGroupedEpochs(dataset.lengths, step, seed)
        return self.sampler

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The batches of this process (see `evaluation_share`)."""
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        share = evaluation_share(
            dataset.lengths, self.args.eval_batch_size, self.args.process_index, self.args.world_size
        )
        return DataLoader(
            dataset,
            batch_sampler=[batch for batch, _ in share],
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            generator=torch.Generator(),  # leaves the global one, which dropout draws from, alone
        )

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As `get_eval_dataloader`."""
        return self.get_eval_dataloader(test_dataset)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Predictions and metrics of all rows in their order, on every process (see `put_together`).

        Raises `ValueError` if the model gives NaN or infinite values.
        """
        args = self.args
        dataset: Any = dataloader.dataset
        share = evaluation_share(dataset.lengths, args.eval_batch_size, args.process_index, args.world_size)
        model: Any = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        training = model.training
        model.eval()
        found: list[tuple[list[int], tuple[np.ndarray, ...]]] = []
        for (rows, counts), batch in zip(share, dataloader, strict=True):
            with torch.no_grad(), self.accelerator.autocast():
                values = self.read_batch(model, self._prepare_inputs(batch))
            if counts:
                found.append((rows, tuple(value.float().cpu().numpy() for value in values)))
        model.train(training)
        if args.world_size > 1:
            found = gather_object(found)
        predictions, metrics = self.put_together(found, dataset)
        return EvalLoopOutput(
            predictions=predictions,
            label_ids=dataset.labels,
            metrics={f"{metric_key_prefix}_{name}": value for name, value in metrics.items()},
            num_samples=len(dataset),
        )

    def read_batch(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """What evaluation keeps of a batch, a row for each of the batch's: the logits."""
        batch.pop("labels", None)
        return (model(**batch)["logits"],)

    def put_together(
        self, found: list[tuple[list[int], tuple[np.ndarray, ...]]], dataset: Any
    ) -> tuple[Any, dict[str, float]]:
        """Predictions, the logits of all rows in their order, and metrics, from numbers of rows with their values."""
        logits = np.empty((len(dataset), found[0][1][0].shape[-1]), np.float32)
        for rows, (values,) in found:
            logits[rows] = values
        self.check_finite(logits)
        if dataset.labels is None:
            return logits, {}
        losses = self._losses(torch.from_numpy(logits), torch.from_numpy(dataset.labels))
        return logits, {"loss": losses.mean().item()} | self.score(decide(logits), dataset.labels)

    def check_finite(self, values: np.ndarray) -> None:
        """Raises `ValueError` if the model gave NaN or infinite values."""
        if not np.isfinite(values).all():
            raise ValueError(
                f"the model gives NaN or infinite values after step {self.state.global_step}; lower --learning_rate, "
                "or use bf16 instead of fp16"
            )


def decide(logits: np.ndarray) -> np.ndarray:
    """Predicted ids from logits [rows, labels], or numbers from [rows, 1]."""
    return logits[:, 0].astype(np.float64) if logits.shape[-1] == 1 else logits.argmax(-1)


def balanced_weights(labels: np.ndarray, num_labels: int) -> np.ndarray:
    """n / (classes · n of the class), scikit-learn's "balanced"; 0 for a class that is not there."""
    counts = np.bincount(labels, minlength=num_labels)
    return np.divide(len(labels), num_labels * counts, out=np.zeros(num_labels), where=counts > 0)
