"""What runs of fine-tuning have in common: a folder of their own, a silent trainer, figures when they are done.

run.json       what the run is: the settings that decide its result
checkpoint-…/  state to resume from, until the run is finished
results.json   scores, sizes, memory, time
model/         the best model, by the score on the dev set
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, set_seed

from ..models.adapters import training_callbacks
from ..models.task_models import TaskModelArguments, save_task_model
from ..training.run_folder import RESULTS, claim_folder, find_run, read_json, write_json
from .finetune_arguments import LARGE, SMALL, FinetuneArguments
from .finetune_trainer import last_checkpoint
from .measure import folder_size, peak_memory, reset_peak_memory

DECIDING: tuple[str, ...] = ("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps")
DECIDING += ("weight_decay", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16", "fp16")
DECIDING += ("seed", "data_seed", "eval_strategy", "eval_steps", "load_best_model_at_end", "train_sampling_strategy")
DECIDING += ("max_seq_length",)
"""Arguments of training that decide the result of every run."""


class TaskRun:
    """The folder of one run.

    Attributes:
        finished: the content of results.json, if the folder holds this run, finished; nothing is left to do then.
        checkpoint: to resume from, or `None`.

    Raises `ValueError` if the folder holds another run.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], args: FinetuneArguments):
        self.folder, self.identity, self.args = folder, identity, args
        self.started = time.perf_counter()
        overwrite = args.overwrite_output_dir
        find_run(folder, identity, overwrite)  # refuses another run's folder
        self.finished = None if overwrite else read_json(folder / RESULTS)
        self.checkpoint = None if overwrite else last_checkpoint(folder)

    def begin(self) -> None:
        """Before the model is made: memory is counted from here, and what is random depends on the seed alone."""
        reset_peak_memory()
        set_seed(self.args.seed)

    def claim(self, trainer: Trainer) -> None:
        """Before training: the folder is this run's."""
        if self.args.process_index == 0:
            claim_folder(self.folder, self.identity, self.args.overwrite_output_dir)
        trainer.accelerator.wait_for_everyone()

    def save_model(self, trainer: Trainer, tokenizer: Any) -> dict[str, int]:
        """Write the model, on the first process; its size, for the results."""
        if self.args.process_index:
            return {}
        save_task_model(trainer.accelerator.unwrap_model(trainer.model), self.folder / "model")
        tokenizer.save_pretrained(self.folder / "model")
        return {"saved_bytes": folder_size(self.folder / "model")}

    def finish(self, trainer: Trainer, results: dict[str, Any]) -> dict[str, Any]:
        """Write the results, with what every run reports, and leave no checkpoints; all processes wait for it."""
        args = self.args
        results |= {"device": f"{args.world_size} × {args.device.type}", "settings": self.identity}
        results |= {"steps": trainer.state.global_step, "learning_rate": args.learning_rate}
        if args.process_index == 0:
            results["peak_memory_bytes"] = peak_memory()
            results["seconds"] = time.perf_counter() - self.started
            write_json(self.folder / RESULTS, results)
            for path in self.folder.glob("checkpoint-*"):
                shutil.rmtree(path)
        trainer.accelerator.wait_for_everyone()
        return results


def identity_of(
    model_args: TaskModelArguments, args: FinetuneArguments, names: Iterable[str], **more: Any
) -> dict[str, Any]:
    """The settings that decide the result of a run, as run.json keeps them: `DECIDING`, `names`, and `more`."""
    identity = more | asdict(model_args) | {name: getattr(args, name) for name in (*DECIDING, *names)}
    identity["batch"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {
        name: value if isinstance(value, (int, float, dict, type(None))) else str(value)
        for name, value in identity.items()
    }


def default_learning_rate(trainable: int) -> float:
    """The learning rate of a run that was given none, by the number of parameters it trains."""
    return SMALL if trainable < 50_000_000 else LARGE


def silence(trainer: Trainer) -> None:
    """No output of the trainer's own but a progress bar where one is wanted; and the callbacks that adapters need."""
    for silenced in (PrinterCallback, *([ProgressCallback] if trainer.args.disable_tqdm else [])):
        trainer.remove_callback(silenced)
    model: Any = trainer.model
    for callback in training_callbacks(model):
        trainer.add_callback(callback)
