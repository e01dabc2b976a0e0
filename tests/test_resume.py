"""A run that is killed goes on from its last complete checkpoint as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kill_worker import POINTS
from safetensors.torch import load_file
from training_runs import LENGTH, build, make_trainer, text
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pretrain_zoo.training.checkpoints import DATA_STATE, rotate
from pretrain_zoo.training.dataset import PretrainingDataset
from pretrain_zoo.training.memory import StreamMemory


@pytest.fixture(scope="session")
def killed(tmp_path_factory) -> tuple[Path, dict]:
    """Folder of the runs, and what happened to them."""
    folder = tmp_path_factory.mktemp("killed")
    tests = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, f"{tests}/kill_worker.py", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder, json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("point", POINTS)
def test_killed_twice_ends_with_the_same_weights(killed, point):
    folder, report = killed
    assert report["whole"]["status"] == [0]
    assert report[point]["status"] == [-9, -9, 0]
    whole = load_file(folder / "whole" / "final" / "model.safetensors")
    resumed = load_file(folder / point.replace(" ", "-") / "final" / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("point", POINTS)
def test_whatever_is_called_checkpoint_is_whole(killed, point):
    _, report = killed
    files = report["whole"]["seen"][0]["checkpoint-6"]
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", DATA_STATE} <= set(files)
    for seen in report[point]["seen"]:
        assert seen and all(found == files for found in seen.values())
    expected = "checkpoint-4" if point in ("step", "after", "rotation") else "checkpoint-2"
    assert max(report[point]["seen"][0]) == expected


def test_limit_on_checkpoints_holds(killed):
    _, report = killed
    assert list(report["whole"]["seen"][0]) == ["checkpoint-6"]
    assert not (killed[0] / "whole" / "saving").exists()


def test_checkpoint_is_plain_and_holds_no_foreign_pickle(killed):
    folder = killed[0] / "whole" / "checkpoint-6"
    assert not (folder / "training_args.bin").exists()
    safe = [torch.serialization.safe_globals([])]
    for name in ("optimizer.pt", "scheduler.pt"):
        with safe[0]:
            torch.load(folder / name, weights_only=True)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logits = model(**tokenizer("the miller", return_tensors="pt")).logits
    weights = load_file(killed[0] / "whole" / "final" / "model.safetensors")
    assert logits.isfinite().all()
    assert all(
        torch.equal(dict(model.named_parameters())[n], t) for n, t in weights.items() if "decoder.weight" not in n
    )


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    """A checkpoint after one step of two."""
    folder = tmp_path_factory.mktemp("interrupted")
    make_trainer("mlm", folder, micro=8, rows=8, steps=2, save_strategy="steps", save_steps=1).train()
    return folder / "checkpoint-1"


def _with(**changes) -> PretrainingDataset:
    """The dataset of `make_trainer` with other settings."""
    _, vocabulary, documents = text()
    objective, _ = build("mlm")
    settings: dict = {"length": LENGTH, "global_batch": 8, "max_steps": 2, "seed": 5}
    arguments: dict = {"objective": objective, "documents": documents, "vocabulary": vocabulary} | settings
    return PretrainingDataset(**(arguments | changes))


@pytest.mark.parametrize(
    "name, value",
    [("global_batch", 16), ("seed", 6), ("length", 12), ("corpus", None), ("objective", None)],
)
def test_resume_with_other_draws_is_refused(interrupted, tmp_path, name, value):
    from dataclasses import replace

    changes = {name: value}
    if name == "corpus":
        changes = {"documents": text()[2].select(torch.arange(100).numpy())}
    if name == "objective":
        changes = {"objective": replace(build("mlm")[0], mlm_probability=0.3)}
    trainer = make_trainer("mlm", tmp_path, micro=8, rows=8, steps=2)
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.train_dataset = _with(**changes)
    with pytest.raises(ValueError, match=f"draws other data.*{name}: .* there, .* here"):
        trainer.train(resume_from_checkpoint=str(interrupted))
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))


def test_resume_with_the_same_draws_is_not(interrupted, tmp_path):
    trainer = make_trainer("mlm", tmp_path, micro=4, accumulate=2, rows=8, steps=2)  # divided otherwise
    trainer.train(resume_from_checkpoint=str(interrupted))
    expected = load_file(interrupted.parent / "checkpoint-2" / "model.safetensors")
    assert trainer.state.global_step == 2
    for name, tensor in trainer.model.main.state_dict().items():
        if name in expected:
            torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-14)


def test_resume_from_what_is_no_checkpoint_is_refused(tmp_path):
    trainer = make_trainer("mlm", tmp_path, micro=8, rows=8, steps=2)
    with pytest.raises(ValueError, match="no checkpoint in"):
        trainer.train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(ValueError, match="cannot resume from .*checkpoint-1"):
        trainer.train(resume_from_checkpoint=True)


def test_rotation_keeps_newest_and_best(tmp_path):
    def names() -> list[int]:
        return sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*"))

    for step in (2, 4, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
    rotate(tmp_path, None, None)
    assert names() == [2, 4, 10, 12]
    rotate(tmp_path, 3, str(tmp_path / "checkpoint-2"))
    assert names() == [2, 10, 12]
    rotate(tmp_path, 1, str(tmp_path / "checkpoint-2"))
    assert names() == [2, 12]
    rotate(tmp_path, 1, None)
    assert names() == [12]


def test_saving_again_over_a_checkpoint(interrupted, tmp_path):
    """A run resumed from an earlier checkpoint writes later ones anew."""
    folder = interrupted.parent
    trainer = make_trainer("mlm", folder, micro=8, rows=8, steps=2, save_strategy="steps", save_steps=1)
    before = load_file(folder / "checkpoint-2" / "model.safetensors")
    inode = (folder / "checkpoint-2" / "model.safetensors").stat().st_ino
    trainer.train(resume_from_checkpoint=str(interrupted))
    after = load_file(folder / "checkpoint-2" / "model.safetensors")
    assert (folder / "checkpoint-2" / "model.safetensors").stat().st_ino != inode
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_memory_is_resumed_on_another_division(tmp_path):
    """Memory of 1 × 8 rows, saved and taken up by 2 processes × 2 × 2."""
    whole = StreamMemory(8, 0, 1)
    carry = tuple(torch.randn(8, 3, 4) for _ in range(12))
    whole.set(0, carry)
    whole.save(tmp_path / "one")
    for rank in range(2):
        part = StreamMemory(2, rank, 2)
        assert part.get(0, torch.device("cpu")) is None
        part.load(tmp_path / "one")
        for micro_batch in range(2):
            streams = [4 * micro_batch + 2 * rank, 4 * micro_batch + 2 * rank + 1]  # rows of the global batch
            found = part.get(micro_batch, torch.device("cpu"))
            assert all(torch.equal(layer, saved[streams]) for layer, saved in zip(found, carry, strict=True))
        part.save(tmp_path / "two")
    back = StreamMemory(8, 0, 1)
    back.load(tmp_path / "two")
    assert all(torch.equal(a, b) for a, b in zip(back.get(0, torch.device("cpu")), carry, strict=True))
