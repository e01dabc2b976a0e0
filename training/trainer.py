"""Hugging Face's `Trainer` with losses as sums and counts, atomic checkpoints and a stop at the first bad loss."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from ..models.pretraining import PretrainingModel
from .dataset import DrawCollator, EvaluationDataset, PretrainingDataset
from .throughput import Throughput

IDENTITY = "data_order.json"
"""File in a checkpoint that says which draws the run makes; a resume that would make others is refused."""


class BadLossError(RuntimeError):
    """The loss was NaN or infinite; raised on all ranks before the optimizer step."""


class _StopAtBadLoss(TrainerCallback):
    def __init__(self, trainer: PretrainingTrainer):
        self.trainer = trainer

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.check_losses()


class PretrainingTrainer(Trainer):
    """Trains a `PretrainingModel` on a `PretrainingDataset`.

    Each loss term is divided once per optimizer step by its count over all micro-batches and processes, so 1×32, 4×8
    and 2 processes × 16 are the same update. Non-additive terms are averaged over micro-batches and processes.

    Args:
        model: from `objective.build`.
        args: `TrainingArguments`; order and columns are set as the dataset needs them.
        train_dataset, eval_dataset: a `PretrainingDataset` and an `EvaluationDataset`.
        data_collator: a `DrawCollator`; made from the dataset's objective if left out.
        kwargs: passed on to `Trainer`.

    Raises `ValueError` if the dataset's global batch is not what the arguments give, or when resuming from a
    checkpoint of other data; `BadLossError` when a loss is NaN or infinite.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PretrainingModel,
        args,
        train_dataset: PretrainingDataset | None = None,
        eval_dataset: EvaluationDataset | None = None,
        data_collator: DrawCollator | None = None,
        **kwargs: Any,
    ):
        args.remove_unused_columns = False
        args.train_sampling_strategy = "sequential"
        args.logging_nan_inf_filter = False  # it would hide what `check_losses` stops at
        args.accelerator_config.even_batches = False
        if train_dataset is not None:
            args.max_steps = train_dataset.max_steps
        dataset = train_dataset if train_dataset is not None else eval_dataset
        if data_collator is None and dataset is not None:
            data_collator = DrawCollator(dataset.objective, dataset.vocabulary)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        args._n_gpu = min(args.n_gpu, 1)  # DataParallel would split flat columns; launch processes instead
        self.objective = model.objective
        self.throughput = Throughput(model, train_dataset.length if train_dataset is not None else 0, args)
        self.add_callback(_StopAtBadLoss(self))
        self._staging: str | None = None
        self._wide = torch.float32 if args.device.type == "mps" else torch.float64  # sums over many batches
        self._reset_logged()
        if train_dataset is not None:
            self._check_global_batch(train_dataset.global_batch)

    def _check_global_batch(self, expected: int) -> None:
        args = self.args
        actual = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        if actual != expected:
            raise ValueError(
                f"the dataset draws {expected} rows per step, but per_device_train_batch_size "
                f"{args.per_device_train_batch_size} × gradient_accumulation_steps {args.gradient_accumulation_steps} "
                f"× {args.world_size} processes is {actual}; make them equal"
            )

    # losses

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of one optimizer step, and each additive term's count over all of them and all ranks."""
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        counts = [self.objective.counts(batch) for batch in batches]
        names = [name for name, term in self.objective.terms.items() if term.additive]
        totals = torch.stack([sum(c[name].to(device) for c in counts) for name in names]).long()
        return batches, dict(zip(names, self._all_sum(totals), strict=True))

    def _all_sum(self, values: torch.Tensor) -> torch.Tensor:
        if self.args.world_size > 1:
            dist.all_reduce(values)
        return values

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Σ weight · sum / count over the terms, scaled so that the average over processes is the global loss."""
        output = model(**inputs)
        progress = self.state.global_step / max(self.state.max_steps, 1)
        micro_batches = self.current_gradient_accumulation_steps
        loss = torch.zeros((), device=self.args.device)
        for name, term in self.objective.terms.items():
            if name not in output.sums:
                continue
            if term.additive:
                share = output.sums[name] / num_items_in_batch[name].clamp(min=1)
                value = share * self.args.world_size
            else:
                share = output.sums[name] / (micro_batches * self.args.world_size)
                value = output.sums[name] / micro_batches
            loss = loss + term.weight_at(progress) * value
            self._logged_terms[name] = self._logged_terms.get(name, 0.0) + share.detach().to(self._wide)
        for name, (total, count) in output.metrics.items():
            old = self._logged_metrics.get(name, (0.0, 0.0))
            self._logged_metrics[name] = (old[0] + total.to(self._wide), old[1] + count.to(self._wide))
        self.throughput.add(inputs)
        self._finite = self._finite & torch.isfinite(loss.detach())
        return (loss, output) if return_outputs else loss

    def check_losses(self) -> None:
        """Raise `BadLossError` on every rank if any rank's loss in this step was NaN or infinite."""
        finite = self._finite.float().reshape(1)
        if self.args.world_size > 1:
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        self._finite = torch.ones((), dtype=torch.bool, device=self.args.device)
        if not finite.item():
            last = get_last_checkpoint(self.args.output_dir) if os.path.isdir(self.args.output_dir) else None
            raise BadLossError(
                f"the loss became NaN or infinite at step {self.state.global_step + 1}; nothing of it was saved. "
                "Lower --learning_rate, raise --warmup_steps, or use bf16 instead of fp16; "
                + (f"the last good checkpoint is {last}" if last else "there is no checkpoint yet")
            )

    # logging

    def _reset_logged(self) -> None:
        self._logged_terms: dict[str, Any] = {}
        self._logged_metrics: dict[str, Any] = {}
        self._logged_step = self.state.global_step
        self._finite = torch.ones((), dtype=torch.bool, device=self.args.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each term's loss, the metrics and tokens per second since the last log."""
        if "loss" in logs and self._logged_terms:
            steps = max(self.state.global_step - self._logged_step, 1)
            names, metrics = sorted(self._logged_terms), sorted(self._logged_metrics)
            values = [self._logged_terms[n] for n in names]
            values += [x for n in metrics for x in self._logged_metrics[n]]
            reduced = self._all_sum(torch.stack(values).to(self._wide)).tolist()
            if len(names) > 1:
                logs |= {f"{n}_loss": v / steps for n, v in zip(names, reduced, strict=False)}
            pairs = reduced[len(names) :]
            logs |= {n: pairs[2 * i] / max(pairs[2 * i + 1], 1) for i, n in enumerate(metrics)}
            tokens = self._all_sum(self.throughput.tokens.clone().reshape(1)).item()
            logs |= self.throughput.report(tokens, self.args.world_size)
            self._reset_logged()
        super().log(logs, start_time)

    # evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Each held-out row once, on any number of processes: loss of each term, metrics, perplexity of one term.

        Raises `ValueError` without a dataset.
        """
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        if dataset is None:
            raise ValueError("evaluation needs an eval_dataset")
        started = time.perf_counter()
        world, rank, size = self.args.world_size, self.args.process_index, self.args.per_device_eval_batch_size
        mine = list(range(rank, len(dataset), world))
        most = math.ceil(math.ceil(len(dataset) / world) / size)
        batches = [mine[i * size : (i + 1) * size] for i in range(most)]
        real = [bool(batch) for batch in batches]  # sharded models need every rank in every forward pass
        loader = DataLoader(
            dataset,
            batch_sampler=[batch or [0] for batch in batches],
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )
        model = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        training = model.training
        model.eval()
        totals: dict[str, torch.Tensor] = {}
        for is_real, batch in zip(real, loader, strict=True):
            batch = self._prepare_inputs(batch)
            with torch.no_grad(), self.accelerator.autocast():
                output = model(**batch)
            counts = self.objective.counts(batch)
            for name, term in self.objective.terms.items():
                count = counts[name] if term.additive else torch.ones_like(output.sums[name])
                self._accumulate(totals, f"{name}_loss", output.sums[name], count, is_real, self._wide)
            for name, (total, count) in output.metrics.items():
                self._accumulate(totals, name, total, count, is_real, self._wide)
        model.train(training)
        names = sorted(totals)
        reduced = self._all_sum(torch.stack([totals[n] for n in names]))
        means = {n: (t[0] / t[1].clamp(min=1)).item() for n, t in zip(names, reduced, strict=True)}
        metrics = self._named(means, metric_key_prefix)
        metrics[f"{metric_key_prefix}_runtime"] = round(time.perf_counter() - started, 3)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @staticmethod
    def _accumulate(totals, name, total, count, is_real: bool, wide: torch.dtype) -> None:
        pair = torch.stack([total.detach().to(wide), count.to(total.device, wide)]) * is_real
        totals[name] = totals[name] + pair if name in totals else pair

    def _named(self, means: dict[str, float], prefix: str) -> dict[str, float]:
        terms = self.objective.terms
        progress = self.state.global_step / max(self.state.max_steps, 1)
        loss = sum(term.weight_at(progress) * means[f"{name}_loss"] for name, term in terms.items())
        metrics = {f"{prefix}_loss": float(loss)}
        if len(terms) == 1:
            metrics[f"{prefix}_perplexity"] = math.exp(min(loss, 700.0))
            means = {n: v for n, v in means.items() if n not in {f"{t}_loss" for t in terms}}
        return metrics | {f"{prefix}_{n}": v for n, v in means.items()}

    # checkpoints

    def _get_output_dir(self, trial) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial) -> None:
        """Write a checkpoint aside and move it into place whole, so that a killed run never leaves half of one."""
        run = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        staging = run / "saving"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self._barrier()
        self._staging = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        best = self.state.best_model_checkpoint
        if best and Path(best).parent == staging:
            self.state.best_model_checkpoint = str(run / name)
        self._barrier()  # the other ranks' random states are there
        if self.args.should_save:
            self.state.save_to_json(str(staging / name / "trainer_state.json"))
            if self.train_dataset is not None:
                (staging / name / IDENTITY).write_text(json.dumps(self.train_dataset.identity, indent=1))
            target = run / name
            if target.exists():  # saved by an earlier run that was resumed from before this step
                os.replace(target, staging / "old")
            os.replace(staging / name, target)
            shutil.rmtree(staging, ignore_errors=True)
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )
        self._barrier()

    def _barrier(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """A plain checkpoint and the tokenizer; unlike the stock method it writes no pickled arguments."""
        directory = output_dir or self.args.output_dir
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if self.args.should_save:
            model.save_pretrained(directory, state_dict=state_dict)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(directory)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if self.train_dataset is not None:
            check_identity(Path(resume_from_checkpoint) / IDENTITY, self.train_dataset.identity)
        if self.is_fsdp_enabled and any(p.is_dir() for p in Path(resume_from_checkpoint).glob("pytorch_model_fsdp*")):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.accelerator.unwrap_model(self.model, keep_torch_compile=False).load_checkpoint(resume_from_checkpoint)


def check_identity(file: Path, identity: dict[str, Any]) -> None:
    """Raise `ValueError`, naming the differences, unless the checkpoint's run draws the same data as this one."""
    if not file.is_file():
        raise ValueError(f"{file.parent} is not a checkpoint of this package (it has no {file.name}); resume another")
    saved = json.loads(file.read_text())
    changed = [f"{k}: {saved.get(k)} there, {v} here" for k, v in identity.items() if saved.get(k) != v]
    if changed:
        raise ValueError(
            f"cannot resume {file.parent}: it draws other data ({'; '.join(changed)}). "
            "Use the settings of the run, or start a new one in another output_dir"
        )
