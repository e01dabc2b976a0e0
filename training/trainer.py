"""Hugging Face's `Trainer` with losses as sums and counts, and a stop at the first bad loss."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..models.pretraining import PretrainingModel
from ..objectives import Objective
from .checkpoints import CheckpointingTrainer
from .dataset import DrawCollator, EvaluationDataset, PretrainingDataset
from .learning_rates import scheduler_options
from .memory import StreamMemory
from .optimizers import own_optimizer, refuse_shards
from .sharding import tied_weights_in_the_root
from .sums import Sums
from .throughput import Throughput


class BadLossError(RuntimeError):
    """The loss was NaN or infinite; raised on all ranks before the optimizer step."""


class _Hooks(TrainerCallback):
    def __init__(self, begin: Callable[[], None], check: Callable[[], None]):
        self.begin, self.check = begin, check

    def on_train_begin(self, args, state, control, **kwargs):
        self.begin()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.check()


class PretrainingTrainer(CheckpointingTrainer):
    """Trains a `PretrainingModel` on a `PretrainingDataset`.

    Each loss term is divided once per optimizer step by its count over all micro-batches and processes, so 1×32, 4×8
    and 2 processes × 16 are the same update. Non-additive terms are averaged over micro-batches and processes.

    Checkpoints appear under their name when they are complete; a run that is killed resumes from the last one and ends
    with the same weights. All processes must see the same `output_dir`.

    Args:
        model: from `objective.build`.
        args: `TrainingArguments`; steps, order and columns are set as the dataset needs them.
        train_dataset, eval_dataset: a `PretrainingDataset` and an `EvaluationDataset`.
        data_collator: a `DrawCollator`; made from the dataset's objective if left out.
        learning_rates: factor of the learning rate by step, in place of the schedule that `args` name.
        kwargs: passed on to `Trainer`.

    Raises `ValueError` if the dataset's global batch is not what the arguments give, or for an argument that would
    change the draws or the loss.
    """

    loss_is_scaled_for_ga = True
    model: Any
    model_wrapped: Any
    objective: Objective

    def __init__(
        self,
        model: PretrainingModel,
        args: TrainingArguments,
        train_dataset: PretrainingDataset | None = None,
        eval_dataset: EvaluationDataset | None = None,
        data_collator: DrawCollator | None = None,
        learning_rates: Callable[[int], float] | None = None,
        **kwargs: Any,
    ):
        _settle(args)
        if train_dataset is not None:
            args.max_steps = train_dataset.max_steps
        dataset = train_dataset if train_dataset is not None else eval_dataset
        if data_collator is None and dataset is not None:
            data_collator = DrawCollator(dataset.objective, dataset.vocabulary)
        collator: Any = data_collator  # one that takes a whole batch, not a list of rows
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            optimizer_cls_and_kwargs=own_optimizer(args),
            **kwargs,
        )
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            refuse_shards(args, flattened=self.is_deepspeed_enabled or not self.accelerator.is_fsdp2)
        self.objective, self.terms = model.objective, model.terms
        self.learning_rates = learning_rates
        self.throughput = Throughput(model, train_dataset.length if train_dataset is not None else 0, args.device)
        self.add_callback(_Hooks(self._begin, self.check_losses))
        if train_dataset is not None:
            self._check_global_batch(train_dataset.global_batch)
            if train_dataset.source.order == "streams":
                self._memory = StreamMemory(args.per_device_train_batch_size, args.process_index, args.world_size)
        self._begin()

    def _check_global_batch(self, expected: int) -> None:
        args, actual = self.args, self.get_total_train_batch_size(self.args)
        if actual != expected:
            raise ValueError(
                f"the dataset draws {expected} rows per step, but per_device_train_batch_size "
                f"{args.per_device_train_batch_size} × gradient_accumulation_steps {args.gradient_accumulation_steps} "
                f"× {args.world_size} processes is {actual}; make them equal"
            )

    def _begin(self) -> None:
        self._logged = Sums(self.args.device)  # since the last log
        self._finite = torch.ones((), dtype=torch.bool, device=self.args.device)
        self._counts: dict[str, Tensor] = {}
        self._micro_batch = 0
        self.throughput.restart()

    @property
    def progress(self) -> float:
        """Share of the run that lies before the current step, in [0, 1)."""
        steps = max(self.state.max_steps, 1)
        return min(self.state.global_step, steps - 1) / steps

    def _prepare_for_training(self, *args, **kwargs):
        with tied_weights_in_the_root(self.model) if self.is_fsdp_enabled else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    # losses

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of an optimizer step, and each term's denominator over all of them and all ranks."""
        batches = list(islice(epoch_iterator, num_batches))
        self._micro_batch = 0
        counts = [self.objective.counts(batch) for batch in batches]
        names = [name for name, term in self.terms.items() if term.additive]
        names = list(dict.fromkeys([*names, *(name for count in counts for name in count)]))
        totals = torch.zeros(len(names), dtype=self._logged.dtype, device=device)
        for count in counts:
            totals += torch.stack([torch.as_tensor(count.get(name, 0)).to(totals) for name in names]) if names else 0
        self._reduce(totals)
        self._counts = dict(zip(names, totals, strict=True))
        return batches, self.objective.denominators(self._counts)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Σ weight · sum / count over the terms, scaled so that the average over processes is the global loss."""
        world, micro_batches = self.args.world_size, self.current_gradient_accumulation_steps
        if self._memory is None:
            output = model(**inputs)
        else:
            output = model(carry=self._memory.get(self._micro_batch, self.args.device), **inputs)
            self._memory.set(self._micro_batch, output.carry)
        self._micro_batch += 1
        loss = torch.zeros((), device=self.args.device)
        for name, total in output.sums.items():
            term = self.terms[name]
            if term.additive:  # DDP, FSDP and DeepSpeed average gradients over processes
                count = num_items_in_batch[name]
                value = total * (world / torch.where(count > 0, count, 1)).to(total.dtype)
                mean = total / torch.where(count > 0, self._counts[name], 1).to(total.dtype)
            else:
                count, value, mean = torch.ones_like(total), total / micro_batches, total / (micro_batches * world)
            loss = loss + term.weight_at(self.progress) * value
            self._logged.add(f"{name}_loss", mean, (count > 0) / (micro_batches * world))
        for name, (total, count) in (output.metrics or {}).items():
            self._logged.add(name, total, count)
        self.throughput.add(inputs)
        self._finite = self._finite & torch.isfinite(loss.detach())
        return (loss, output) if return_outputs else loss

    def _reduce(self, values: Tensor, operation: Any = dist.ReduceOp.SUM) -> None:
        if self.args.world_size > 1:
            dist.all_reduce(values, operation)

    def check_losses(self) -> None:
        """Raise `BadLossError` on every rank if any rank's loss in this step was NaN or infinite."""
        finite = self._finite.float()
        self._reduce(finite, dist.ReduceOp.MIN)
        if not finite.item():
            folder = str(self.args.output_dir)
            last = get_last_checkpoint(folder) if os.path.isdir(folder) else None
            raise BadLossError(
                f"the loss became NaN or infinite at step {self.state.global_step + 1}; nothing of it was saved. "
                "Lower --learning_rate, raise --warmup_steps, or use bf16 instead of fp16; "
                + (f"the last good checkpoint is {last}" if last else "there is no checkpoint yet")
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each term's loss (if there are several), the metrics and tokens per second since the last log."""
        if "loss" in logs:
            means = self._logged.means(None)
            means = _without_sums(means)
            if len(self.terms) == 1:
                means.pop(f"{next(iter(self.terms))}_loss", None)
            tokens = self.throughput.tokens.clone()
            self._reduce(tokens)
            logs |= means | self.throughput.report(tokens.item(), self.args.world_size)
            self._logged = Sums(self.args.device)
        super().log(logs, start_time)

    # optimizer

    @cached_property
    def _networks(self) -> dict[str, list[Tensor]]:
        """Parameters by network (`PretrainingModel.network_of`); each is clipped by itself."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        networks: dict[str, list[Tensor]] = {}
        for name, parameter in model.named_parameters():
            networks.setdefault(model.network_of(name), []).append(parameter)
        return networks

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The optimizer that the arguments name, with parameter groups of its own for each network of the model."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh and len(self._networks) > 1:
            groups = []
            for name, parameters in self._networks.items():
                own = {id(parameter) for parameter in parameters}
                for group in optimizer.param_groups:
                    groups.append({**group, "params": [p for p in group["params"] if id(p) in own], "network": name})
            optimizer.param_groups[:] = [group for group in groups if group["params"]]
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The schedule that the arguments name, or that of `learning_rates`."""
        if self.learning_rates is None or self.lr_scheduler is not None:
            kind, options = self.args.lr_scheduler_type, self.args.lr_scheduler_kwargs
            self.args.lr_scheduler_kwargs = scheduler_options(kind, options, num_training_steps)
            return super().create_scheduler(num_training_steps, optimizer)
        chosen: Any = optimizer if optimizer is not None else self.optimizer
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, self.learning_rates)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _clip_grad_norm(self, model):
        if len(self._networks) == 1 or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        clip = torch.nn.utils.clip_grad_norm_
        norms = [clip(parameters, self.args.max_grad_norm) for parameters in self._networks.values()]
        return torch.stack(norms).square().sum().sqrt()

    # evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Each held-out row once, on any number of processes: loss of each term, metrics, perplexity of one term.

        Raises `ValueError` without a dataset.
        """
        dataset: Any = eval_dataset if eval_dataset is not None else self.eval_dataset
        if dataset is None:
            raise ValueError("evaluation needs an eval_dataset")
        started = time.perf_counter()
        with self.throughput.paused():
            dataset = dataset.after(self.state.global_step)
            means = self._evaluation_sums(dataset).means()
        terms = self.terms
        loss = dataset.loss_of(means, terms, self.progress)
        metrics = {f"{metric_key_prefix}_loss": loss}
        if (own := self.objective.perplexity_term) is not None:  # routers' losses are not part of it
            metrics[f"{metric_key_prefix}_perplexity"] = math.exp(min(means.get(f"{own}_loss", 0.0), 700.0))
        if len(terms) == 1:
            means = {n: v for n, v in means.items() if n not in {f"{t}_loss" for t in terms}}
        metrics |= {f"{metric_key_prefix}_{n}": v for n, v in _without_sums(means).items()}
        metrics[f"{metric_key_prefix}_runtime"] = round(time.perf_counter() - started, 3)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluation_sums(self, dataset: EvaluationDataset) -> Sums:
        """Terms and metrics over the batches that fall to this process."""
        args = self.args
        share = dataset.share(args.per_device_eval_batch_size, args.process_index, args.world_size)
        loader = DataLoader(
            dataset,
            batch_sampler=[batch for batch, _ in share],
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            generator=torch.Generator(),  # leaves the global one, which dropout draws from, alone
        )
        model = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        training, carry = model.training, None
        model.eval()
        sums = Sums(args.device)
        for (_, is_mine), batch in zip(share, loader, strict=True):
            batch = self._prepare_inputs(batch)
            with torch.no_grad(), self.accelerator.autocast():
                output = model(**batch) if carry is None else model(carry=carry, **batch)
            carry = output.carry
            if not is_mine:
                continue
            counts = self.objective.counts(batch)
            for name, total in output.sums.items():
                additive = self.terms[name].additive
                sums.add(f"{name}_loss", total, counts[name] if additive else torch.ones_like(total))
            for name, (total, count) in (output.metrics or {}).items():
                sums.add(name, total, count)
        model.train(training)
        return sums


def _without_sums(means: dict[str, float]) -> dict[str, float]:
    """Without what is told by component, too: `mlm_loss` where there is an `en.mlm_loss`."""
    whole = {name.partition(".")[2] for name in means}
    return {name: mean for name, mean in means.items() if name not in whole}


def _settle(args: TrainingArguments) -> None:
    """Set what the draws and losses of a run need. Raises `ValueError` for what cannot be."""
    if args.auto_find_batch_size:
        raise ValueError("auto_find_batch_size would change the run's draws; set per_device_train_batch_size instead")
    if args.label_smoothing_factor:
        raise ValueError("label_smoothing_factor acts on the stock loss, not on the objective's; leave it out")
    args.remove_unused_columns = False
    args.train_sampling_strategy = "sequential"  # the dataset's own order is shuffled
    args.dataloader_in_order = True
    args.ignore_data_skip = False
    accelerator: Any = args.accelerator_config
    accelerator.split_batches = accelerator.dispatch_batches = False
    args.logging_nan_inf_filter = False  # it would hide what `check_losses` stops at
    args._n_gpu = min(args.n_gpu, 1)  # DataParallel would split flat columns; launch processes instead
    if args.dataloader_num_workers and args.dataloader_multiprocessing_context is None and sys.platform == "linux":
        args.dataloader_multiprocessing_context = "fork"  # shares memory-mapped documents; others would copy them
