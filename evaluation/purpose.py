"""What a trained checkpoint is for: its metric, and training that goes on, of language models and of classifiers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, DataCollatorWithPadding, HfArgumentParser, PreTrainedModel, TrainerCallback

from ..models.int8_linear import linear_layers
from ..models.pretraining import PretrainingModel
from ..objectives import Vocabulary
from ..training.arguments import parse_arguments
from ..training.dataset import DrawCollator
from ..training.prepare import get_data, get_datasets, get_tokenizer
from ..training.report import report_by_lines
from ..training.trainer import PretrainingTrainer
from .compression import held_out_metrics
from .finetune import make_trainer, prepare
from .finetune_arguments import SMALL, FinetuneArguments
from .finetune_trainer import decide
from .glue_tasks import get_tasks
from .metrics import compute_metrics
from .task_data import load_task

OBJECTIVES = {
    "ForMaskedLM": "mlm",
    "ForCausalLM": "clm",
    "LMHeadModel": "clm",
    "ForConditionalGeneration": "span_corruption",
}
"""Objective by the end of an architecture's name, where none is given."""


@dataclass
class Purpose:
    """What a checkpoint is for, as functions of the model.

    Attributes:
        metrics: the figures it is judged by.
        train: go on training it, with these callbacks.
        backward: a backward pass on a batch each, for estimates of importance.
        tokenizer: saved beside the model.
    """

    metrics: Callable[[PreTrainedModel], dict[str, float]]
    train: Callable[[PreTrainedModel, list[TrainerCallback]], None]
    backward: Callable[[PreTrainedModel, int], Iterator[None]]
    tokenizer: Any


class KeepZeros(TrainerCallback):
    """Weights of linear layers that are zero when training begins stay zero."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        network: Any = getattr(model, "main", model)
        weights: list[Any] = [layer.weight for layer in linear_layers(network).values()]
        self.kept = [(weight, weight != 0) for weight in weights if (weight == 0).any()]

    def on_step_end(self, args, state, control, **kwargs):
        with torch.no_grad():
            for weight, kept in self.kept:
                weight.mul_(kept)


def pretraining(checkpoint: str, model: PreTrainedModel, argv: list[str], steps: int, scratch: str) -> Purpose:
    """A language model's: held-out perplexity. Raises `ValueError` for arguments that do not fit."""
    if not any(arg.partition("=")[0] == "--objective" for arg in argv):
        ending = next((end for end in OBJECTIVES if type(model).__name__.endswith(end)), None)
        if ending is None:
            raise ValueError(f"{type(model).__name__} is no language model; give --task_name, or --objective")
        argv = ["--objective", OBJECTIVES[ending], *argv]
    own = ["--model_name_or_path", checkpoint, "--output_dir", scratch]
    run = parse_arguments([*own, *argv, f"--max_steps={max(steps, 1)}"])
    args, objective = run.training, run.objective
    args.eval_strategy = args.save_strategy = "no"
    tokenizer = get_tokenizer(run.model, run.corpus.open(), os.path.expanduser(run.corpus.cache_dir))
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    objective.check(vocabulary, model.config)
    data = get_data(run, tokenizer, os.path.expanduser(run.corpus.cache_dir))
    train_dataset, held_out = get_datasets(run, objective, data, vocabulary)

    def wrapped(main: PreTrainedModel) -> PretrainingModel:
        made = PretrainingModel(objective, main, objective.heads(main, vocabulary))
        made.load_heads(checkpoint)
        return made

    def metrics(main: PreTrainedModel) -> dict[str, float]:
        device = next(main.parameters()).device
        found = held_out_metrics(wrapped(main), held_out, args.per_device_eval_batch_size, device)
        return {name: value for name, value in found.items() if name in ("perplexity", "accuracy")} or found

    def train(main: PreTrainedModel, callbacks: list[TrainerCallback]) -> None:
        transformers.set_seed(args.seed)
        trainer = PretrainingTrainer(wrapped(main), args, train_dataset, callbacks=callbacks)
        report_by_lines(trainer)
        trainer.train()

    def backward(main: PreTrainedModel, batches: int) -> Iterator[None]:
        collator, model = DrawCollator(objective, vocabulary), wrapped(main)
        size, device = args.per_device_train_batch_size, next(main.parameters()).device
        for start in range(0, batches * size, size):
            rows = train_dataset.__getitems__([n % len(train_dataset) for n in range(start, start + size)])
            batch = {name: value.to(device) for name, value in collator(rows).items()}
            counts, sums = objective.counts(batch), model(**batch).sums
            sum(sums[name] / counts[name].clamp(min=1) for name in counts).backward()
            yield
            model.zero_grad()

    return Purpose(metrics, train, backward, tokenizer)


def fine_tuning(
    checkpoint: str, task_name: str, data_dir: str | None, argv: list[str], steps: int, scratch: str
) -> Purpose:
    """A classifier's: the metric of its GLUE task. `argv`: of fine-tuning."""
    (task,) = get_tasks(task_name)
    own = ["--eval_strategy", "no", "--output_dir", scratch, f"--max_steps={max(steps, 1)}"]
    (args,) = HfArgumentParser(FinetuneArguments).parse_args_into_dataclasses([*argv, *own])  # type: ignore[arg-type]
    args.learning_rate = args.learning_rate or SMALL
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    folder = None if data_dir is None else Path(data_dir)
    prepared = prepare(task, load_task(task, folder), tokenizer, args)
    collator = DataCollatorWithPadding(tokenizer)

    def batches(split: str, size: int, device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
        rows = prepared.splits[split]
        for start in range(0, len(rows), size):
            batch = collator([rows[i] for i in range(start, min(start + size, len(rows)))])
            yield {name: value.to(device) for name, value in batch.items()}

    def metrics(model: PreTrainedModel) -> dict[str, float]:
        device, logits = next(model.parameters()).device, []
        model.eval()
        with torch.no_grad():
            for batch in batches("validation", args.per_device_eval_batch_size, device):
                batch.pop("labels")
                logits.append(model(**batch).logits.float().cpu())
        labels: Any = prepared.splits["validation"].labels
        found = compute_metrics(task.metrics, decide(torch.cat(logits).numpy()), labels)
        return {name: found[name] for name in task.metrics}

    def train(model: PreTrainedModel, callbacks: list[TrainerCallback]) -> None:
        transformers.set_seed(args.seed)
        trainer = make_trainer(prepared, model, args)
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train()

    def backward(model: PreTrainedModel, count: int) -> Iterator[None]:
        device = next(model.parameters()).device
        for _, batch in zip(range(count), batches("train", args.per_device_train_batch_size, device)):
            model(**batch).loss.backward()
            yield
            model.zero_grad()

    return Purpose(metrics, train, backward, tokenizer)
