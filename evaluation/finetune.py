"""One run of fine-tuning: one task, one seed, one model, in a folder of its own (see `task_run`), which also has

predictions/   of the test sets, in the leaderboard's layout
"""

from __future__ import annotations

import copy
import gc
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from ..models.quantised import check_trainable
from ..models.task_models import TaskModelArguments, load_task_model, size_report
from .distilled_trainer import distilled
from .encoded import Collator, EncodedExamples
from .finetune_arguments import FinetuneArguments
from .finetune_trainer import FinetuneTrainer, balanced_weights, decide
from .glue_tasks import Task
from .predictions import submission_name, write_predictions
from .task_data import Examples
from .task_distillation import TaskDistiller
from .task_run import TaskRun, default_learning_rate, identity_of, silence
from .teachers import TeacherArguments, with_unlabelled

_DECIDING = ("early_stopping_patience", "class_weights", "max_train_samples", "max_eval_samples")


@dataclass(frozen=True)
class PreparedTask:
    """A task with its splits as token ids, shared by the runs of all seeds.

    Attributes:
        task: what is learnt.
        splits: rows by split: "train", "validation", … .
        index: what the leaderboard knows the rows of the test splits by.
        tokenizer: what encoded them.
    """

    task: Task
    splits: dict[str, EncodedExamples]
    index: dict[str, list[str]]
    tokenizer: Any


def prepare(
    task: Task,
    splits: dict[str, Examples],
    tokenizer: Any,
    args: FinetuneArguments,
    unlabelled: Examples | None = None,
) -> PreparedTask:
    """Sample and tokenize the splits as the arguments say; `unlabelled` rows join those to train on, all of them."""
    special = tokenizer.num_special_tokens_to_add(pair=len(task.texts) > 1)
    if args.max_seq_length <= special:
        raise ValueError(
            f"--max_seq_length {args.max_seq_length} leaves no room for text beside {special} special tokens"
        )
    limits = {"train": args.max_train_samples, "validation": args.max_eval_samples}
    sampled = {name: examples.sample(limits.get(name.partition("_")[0])) for name, examples in splits.items()}
    if unlabelled is not None:
        sampled["train"] = with_unlabelled(sampled["train"], unlabelled)
    encoded = {name: EncodedExamples(rows, tokenizer, args.max_seq_length) for name, rows in sampled.items()}
    return PreparedTask(task, encoded, {name: rows.index for name, rows in sampled.items()}, tokenizer)


def finetune(
    prepared: PreparedTask,
    model_args: TaskModelArguments,
    args: FinetuneArguments,
    folder: Path,
    console: Console,
    *,
    random_weights: bool = False,
    teacher: TeacherArguments | None = None,
) -> dict[str, Any]:
    """Train, choose the best checkpoint, evaluate, predict and save; returns the content of results.json.

    A run that the folder holds finished is not done again, one that was cut off goes on.

    Args:
        prepared: task and data.
        model_args: which model, and what of it is trained.
        args: how; `args.seed` governs the fresh head, dropout and the data order.
        folder: of this run.
        console: a line per evaluation is printed to it.
        random_weights: train the checkpoint's architecture from random weights, all of it: the baseline.
        teacher: a fine-tuned model to learn from.

    Raises:
        ValueError: for what cannot work, or if `folder` holds another run.
    """
    check_trainable(model_args)
    task, splits = prepared.task, prepared.splits
    args = _for_run(args, folder)
    teacher = teacher if teacher is not None and teacher.teacher is not None else None
    identity = run_identity(prepared, model_args, args, random_weights)
    run = TaskRun(folder, identity | (teacher.identity(task.name) if teacher else {}), args)
    if run.finished is not None:
        return run.finished
    run.begin()
    model = build_model(prepared, model_args, args.max_seq_length, random_weights)
    sizes = size_report(model)
    args.learning_rate = args.learning_rate or default_learning_rate(sizes["trainable"])
    distiller = teacher.distiller(task.name, model, prepared.tokenizer) if teacher else None
    if teacher and distiller and teacher.intermediate_epochs and run.checkpoint is None:
        with distiller.intermediate():
            inner = _without_evaluation(args, teacher.intermediate_epochs)
            make_trainer(prepared, model, inner, model_args.layer_lr_decay, distiller).train()
    trainer = make_trainer(prepared, model, args, model_args.layer_lr_decay, distiller)
    title = f"{task.title}, seed {args.seed}" + ", random weights" * random_weights
    trainer.add_callback(_Lines(console, title, task.metrics))
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
    run.claim(trainer)
    output = trainer.train(resume_from_checkpoint=run.checkpoint)

    metrics, predictions = {}, {}
    for name, rows in splits.items():
        if name.startswith("validation"):
            found = trainer.predict(rows, metric_key_prefix=name).metrics or {}
            names = (*task.metrics, "score", "loss")
            metrics[name] = {metric: found[f"{name}_{metric}"] for metric in names}
        elif name != "train":
            logits: Any = trainer.predict(rows).predictions
            predictions[name] = decide(logits)
    results: dict[str, Any] = {
        "task": task.name,
        "seed": args.seed,
        "model": model_args.model_name_or_path,
        "random_weights": random_weights,
        "score": sum(m["score"] for m in metrics.values()) / len(metrics),
        "metrics": metrics,
        "best_step": trainer.state.best_global_step,
        "train_rows": len(splits["train"]),
        "cut_rows": splits["train"].truncated(args.max_seq_length),
        "batch": identity["batch"],
        "epochs": args.num_train_epochs,
        "trainable_parameters": sizes["trainable"],
        "parameters": sizes["total"],
        "train_seconds": output.metrics["train_runtime"],
        "history": [log for log in trainer.state.log_history if "eval_score" in log],
    }
    results |= run.save_model(trainer, prepared.tokenizer)
    for name, decided in predictions.items() if args.process_index == 0 else ():
        write_predictions(folder / "predictions" / submission_name(task, name), task, prepared.index[name], decided)
    run.finish(trainer, results)
    del trainer, model
    gc.collect()
    return results


def run_identity(
    prepared: PreparedTask, model_args: TaskModelArguments, args: FinetuneArguments, random_weights: bool
) -> dict[str, Any]:
    """The settings that decide the result of a run, and the size of its data."""
    rows = {name: len(split) for name, split in prepared.splits.items()}
    own: dict[str, Any] = {"task_name": prepared.task.name, "random_weights": random_weights, "rows": rows}
    return identity_of(model_args, args, _DECIDING, **own)


def build_model(prepared: PreparedTask, model_args: TaskModelArguments, max_length: int, random_weights: bool) -> Any:
    """The model with the task's head; `random_weights`: of the same architecture, all of it to be trained anew."""
    task = prepared.task
    settings: dict[str, Any] = {"num_labels": task.num_labels}
    if task.labels is not None and not all(label.isdecimal() for label in task.labels):
        settings = {"label_names": list(task.labels)}
    if random_weights:
        model_args = replace(model_args, peft=None, load_in_8bit=False, load_in_4bit=False, freeze_backbone=False)
    model = load_task_model(
        model_args,
        prepared.tokenizer,
        "sequence_classification",
        problem_type="regression" if task.is_regression else "single_label_classification",
        max_length=max_length,
        **settings,
    )
    return type(model)._from_config(model.config, dtype=model.dtype) if random_weights else model


def make_trainer(
    prepared: PreparedTask,
    model: Any,
    args: FinetuneArguments,
    layer_lr_decay: float | None = None,
    distiller: TaskDistiller | None = None,
) -> FinetuneTrainer:
    """The trainer of a run, silent, with the loss of a distiller if there is one.

    Raises `ValueError` for class weights that do not fit the task.
    """
    trainer_class = FinetuneTrainer if distiller is None else distilled(FinetuneTrainer, distiller)
    trainer = trainer_class(
        model=model,
        args=args,
        train_dataset=prepared.splits["train"],
        eval_dataset=prepared.splits["validation"],
        data_collator=Collator(prepared.tokenizer, model, pad_to_multiple_of=8 if args.bf16 or args.fp16 else None),
        processing_class=prepared.tokenizer,
        score=official_metric(prepared.task),
        class_weights=class_weights(args.class_weights, prepared),
        layer_lr_decay=layer_lr_decay,
    )
    silence(trainer)
    return trainer


def official_metric(task: Task) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """The task's metrics, through `evaluate` and the module beside this file, which needs no network."""
    import evaluate

    module = str(Path(__file__).with_name("glue_metric.py"))
    metric = evaluate.load(module, ",".join(task.metrics), keep_in_memory=True, experiment_id=uuid.uuid4().hex)
    return lambda predictions, references: metric.compute(predictions=predictions, references=references)


def class_weights(text: str, prepared: PreparedTask) -> torch.Tensor | None:
    """The weights that `--class_weights` names."""
    task = prepared.task
    if text == "none":
        return None
    if task.labels is None:
        raise ValueError(f"--class_weights: {task.title} predicts a number and has no classes")
    if text == "balanced":
        labels = prepared.splits["train"].labels
        assert labels is not None
        return torch.tensor(balanced_weights(labels[labels >= 0], len(task.labels)), dtype=torch.float32)
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != len(task.labels) or min(weights) < 0:
        raise ValueError(
            f"--class_weights must be none, balanced or {len(task.labels)} numbers, one for each of "
            f"{', '.join(task.labels)}; not {text!r}"
        )
    return torch.tensor(weights)


def _without_evaluation(args: FinetuneArguments, epochs: float) -> FinetuneArguments:
    """The arguments of a first stage, of which nothing is kept but the weights."""
    args = copy.copy(args)
    args.num_train_epochs, args.max_steps, args.load_best_model_at_end = epochs, -1, False
    args.eval_strategy = args.save_strategy = IntervalStrategy.NO
    return args


def _for_run(args: FinetuneArguments, folder: Path) -> FinetuneArguments:
    args = copy.copy(args)
    args.output_dir = str(folder)
    return args


class _Lines(TrainerCallback):
    """A line per evaluation."""

    def __init__(self, console: Console, title: str, names: tuple[str, ...]):
        self.console, self.title, self.names = console, title, ("loss", *names)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if metrics and "eval_score" in metrics:
            shown = "  ".join(f"{name.replace('_', ' ')} {metrics[f'eval_{name}']:.3f}" for name in self.names)
            self.console.print(f"{self.title}  epoch {state.epoch or 0:.1f}  {shown}")
