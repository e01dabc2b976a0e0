"""Checkpoints that are there whole or not at all, whenever a run is killed."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint, sort_checkpoints

from .memory import StreamMemory
from .throughput import Throughput

STAGING = "saving"
"""Folder of a run in which checkpoints are written, and deleted."""
DATA_STATE = "data_order.json"
"""File in a checkpoint that says which draws the run makes; a resume that would make others is refused."""


def publish(staged: Path, target: Path) -> None:
    """Move a complete checkpoint into place. Its files reach the disk before its name appears."""
    for path in staged.rglob("*"):
        if path.is_file():
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
    if target.exists():  # of a run that was resumed from an earlier step
        discard(target)
    os.replace(staged, target)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint. Its name vanishes first, so that half of one is never taken for a whole one."""
    aside = checkpoint.parent / STAGING / f"old-{checkpoint.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    os.replace(checkpoint, aside)
    shutil.rmtree(aside, ignore_errors=True)


def rotate(run: Path, limit: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints beyond `limit` (`None`: none), but neither the newest nor the best.

    Deletes the staging folder too, with whatever a killed run left there.
    """
    checkpoints = [Path(path) for path in sort_checkpoints(str(run))]
    if limit and limit > 0 and checkpoints:
        kept = {checkpoints[-1], *([Path(best)] if best else [])}
        spare = [path for path in checkpoints if path not in kept]
        for path in spare[: max(len(checkpoints) - max(limit, len(kept)), 0)]:
            discard(path)
    shutil.rmtree(run / STAGING, ignore_errors=True)


class CheckpointingTrainer(Trainer):
    """`Trainer` on a `PretrainingDataset` with such checkpoints: plain ones, with what resuming takes beside.

    Attributes:
        throughput: what saving is not counted in.
        saves, save_seconds: checkpoints that this process saw written, and how long they took altogether.
        checkpoint_bytes: size on disk of the last of them; the first process knows it.
    """

    train_dataset: Any
    throughput: Throughput
    saves = 0
    save_seconds = 0.0
    checkpoint_bytes = 0
    _memory: StreamMemory | None = None
    _staging: Path | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        """As `Trainer.train`. Raises `ValueError` for a checkpoint of a run that draws other data, and `BadLossError`
        when a loss is NaN or infinite."""
        folder = str(self.args.output_dir)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(folder) if os.path.isdir(folder) else None
            if resume_from_checkpoint is None:
                raise ValueError(f"there is no checkpoint in {folder} to resume from")
        if self.args.should_save:
            shutil.rmtree(Path(folder) / STAGING, ignore_errors=True)  # of a run that was killed
        if resume_from_checkpoint:
            file = Path(str(resume_from_checkpoint)) / DATA_STATE
            if not file.is_file():
                raise ValueError(f"cannot resume from {file.parent}: it is no checkpoint of this trainer")
            self.train_dataset.restore(json.loads(file.read_text()))
            if self._memory is not None:
                self._memory.load(file.parent)
        return super().train(resume_from_checkpoint or None, *args, **kwargs)

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model, trial) -> None:
        """Write a checkpoint aside and move it into place whole, so that a killed run never leaves half of one."""
        run = Path(self._get_output_dir(trial))
        staging, target = run / STAGING, run / f"checkpoint-{self.state.global_step}"
        staged = staging / target.name
        began = time.perf_counter()
        with self.throughput.paused():
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
                staging.mkdir(parents=True)
            self._barrier()
            self._staging = staging
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            if self._memory is not None:
                self._memory.save(staged)
            if self.state.best_model_checkpoint == str(staged):
                self.state.best_model_checkpoint = str(target)
            self._barrier()  # files of other processes are there
            if self.args.should_save:
                self.state.save_to_json(str(staged / "trainer_state.json"))
                (staged / DATA_STATE).write_text(json.dumps(self.train_dataset.state(self.state.global_step), indent=1))
                publish(staged, target)
                self.checkpoint_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
                rotate(run, self.args.save_total_limit, self.state.best_model_checkpoint)
            self._barrier()
        self.saves += 1
        self.save_seconds += time.perf_counter() - began

    def _barrier(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()

    def _finalize_training(self, *args, **kwargs):
        best = self.state.best_model_checkpoint
        if self.args.should_save and best is not None and self.args.save_total_limit == 1:
            for path in map(Path, sort_checkpoints(str(self.args.output_dir))):
                if not path.samefile(best):  # the stock method deletes it in place
                    discard(path)
        return super()._finalize_training(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model as a plain checkpoint, gathered whole where it is sharded."""
        if not self.is_fsdp_enabled:
            return super().save_model(output_dir, _internal_call)
        self._save(output_dir, self.accelerator.get_state_dict(self.model))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """A plain checkpoint and the tokenizer; unlike the stock method it writes no pickled arguments."""
        if self.args.should_save:
            directory = output_dir or str(self.args.output_dir)
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            model.save_pretrained(directory, state_dict=state_dict)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(directory)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.accelerator.unwrap_model(self.model, keep_torch_compile=False).load_checkpoint(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_best_model()
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))
