"""What `test_resume.py` starts: runs that kill themselves and are resumed, each in a fork of one warm process.

python tests/kill_worker.py FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from training_runs import make_trainer, text
from transformers.trainer_utils import get_last_checkpoint

from pretrain_zoo.models.pretraining import PretrainingModel
from pretrain_zoo.training import checkpoints

STEPS = 6  # with a checkpoint every two of them
POINTS = ("step", "model", "half of the model", "half of the optimizer", "before", "after", "rotation")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def inject(trainer, point: str, step: int) -> None:
    """Make the process kill itself at `point` of the save after `step` ("step": in the step that follows)."""

    def now() -> bool:
        return trainer.state.global_step == step

    def around(owner, name, action) -> None:
        original = getattr(owner, name)

        def replacement(*args, **kwargs):
            if now():
                action(original, *args, **kwargs)
            return original(*args, **kwargs)

        setattr(owner, name, replacement)

    def halve(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        kill()

    def after_model(original, self, folder, *args, **kwargs):
        original(self, folder, *args, **kwargs)
        if point == "half of the model":
            halve(Path(folder) / "model.safetensors")
        kill()

    def optimizer(original, state, path):
        original(state, path)
        if Path(path).name == "optimizer.pt":
            halve(Path(path))

    def half_deleted(original, folder, *args, **kwargs):
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        if "checkpoint-" in Path(folder).name and files:
            files[0].unlink()
            kill()

    if point == "step":
        hooks = next(c for c in trainer.callback_handler.callbacks if hasattr(c, "check"))
        around(hooks, "check", lambda *args, **kwargs: kill())
    elif point in ("model", "half of the model"):
        around(PretrainingModel, "save_pretrained", after_model)
    elif point == "half of the optimizer":
        around(torch, "save", optimizer)
    elif point == "before":
        around(checkpoints, "publish", lambda *args, **kwargs: kill())
    elif point == "after":
        around(checkpoints, "rotate", lambda *args, **kwargs: kill())
    elif point == "rotation":
        around(checkpoints.shutil, "rmtree", half_deleted)


def run(folder: Path, point: str | None = None, step: int = 0) -> None:
    """Train, from the last checkpoint if there is one, to the end or to death."""
    trainer = make_trainer(
        "mlm",
        folder,
        micro=4,
        rows=8,
        accumulate=2,
        steps=STEPS,
        dtype=torch.float32,
        dropout=True,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        optim="adamw_torch",
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        eval_rows=8,
        eval_strategy="steps",
        eval_steps=2,
    )
    if point is not None:
        inject(trainer, point, step)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    trainer.save_model(str(folder / "final"))


def fork(*args) -> int:
    """Exit status of `run(*args)` in a fork: 0, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            run(*args)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def checkpoints_in(folder: Path) -> dict[str, list[str]]:
    """Files of everything called checkpoint, by name."""
    return {c.name: sorted(path.name for path in c.iterdir()) for c in sorted(folder.glob("checkpoint-*"))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    text()
    results = Path(sys.argv[1])
    report: dict = {"whole": {"status": [fork(results / "whole")], "seen": [checkpoints_in(results / "whole")]}}
    for point in POINTS:
        folder = results / point.replace(" ", "-")
        status, seen = [], []
        for kill_at in (4, 5 if point == "step" else 6, None):
            status.append(fork(folder, point, kill_at) if kill_at else fork(folder))
            seen.append(checkpoints_in(folder))
        report[point] = {"status": status, "seen": seen}
    (results / "report.json").write_text(json.dumps(report))
