"""A small classification task and settings to fine-tune on it, shared by tests and the two processes they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from conftest import make_texts
from rich.console import Console

from pretrain_zoo.evaluation.finetune import PreparedTask, finetune, prepare
from pretrain_zoo.evaluation.finetune_arguments import FinetuneArguments
from pretrain_zoo.evaluation.glue_tasks import GLUE
from pretrain_zoo.evaluation.task_data import Examples
from pretrain_zoo.models.task_models import TaskModelArguments

TRAIN_ROWS, DEV_ROWS, TEST_ROWS = 38, 27, 5
QUIET = Console(quiet=True)


def examples(rows: int, seed: int, labels: bool = True) -> Examples:
    """Sentences; label 1 where there is a "war" in them."""
    texts = [text for text in make_texts(400, seed) if len(text) < 150][:rows]
    found = np.array([int("war" in text) for text in texts], np.int64)
    assert len(texts) == rows and 0 < found.sum() < rows
    return Examples((texts,), found if labels else None, [str(i) for i in range(rows)])


def prepared_task(tokenizer: Any, **settings: Any) -> PreparedTask:
    """The task, encoded; called SST-2, as which it has two labels and is scored by accuracy."""
    splits = {"train": examples(TRAIN_ROWS, 1), "validation": examples(DEV_ROWS, 2)}
    splits["test"] = examples(TEST_ROWS, 3, labels=False)
    return prepare(GLUE["sst2"], splits, tokenizer, arguments("unused", **settings))


def arguments(folder: str | Path, **settings: Any) -> FinetuneArguments:
    """Few, fast steps on the CPU."""
    common: dict[str, Any] = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 2e-3}
    common |= {"per_device_eval_batch_size": 4, "max_seq_length": 48, "use_cpu": True, "disable_tqdm": True}
    return FinetuneArguments(output_dir=str(folder), **(common | settings))


def model_arguments(tokenizer: str | Path, **settings: Any) -> TaskModelArguments:
    """A BERT of one layer with random weights."""
    size = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64"
    options: dict[str, Any] = {"model_name_or_path": "bert-tiny", "config_overrides": size}
    return TaskModelArguments(tokenizer_name=str(tokenizer), **(options | settings))


def finished_run(folder: Path, tokenizer_folder: Path, tokenizer: Any) -> tuple[Path, dict[str, Any]]:
    """The folder of a run of three epochs, and its result."""
    prepared, model_args = prepared_task(tokenizer), model_arguments(tokenizer_folder)
    return folder, finetune(prepared, model_args, arguments(folder), folder, QUIET)
