"""Two processes, joined by gloo on the CPU, give what one process gives. One launch serves all tests here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import ADAM, EVAL_ROWS, RUNS, SHARDED, STEPS
from safetensors.torch import load_file
from training_runs import Gradients, make_mixed_trainer, make_trainer, relative_error
from transformers.trainer_utils import get_last_checkpoint

from pretrain_zoo.models.build_model import AUTO_CLASSES

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent


def launch(folder: Path, *options: str, part: str = "") -> Path:
    """Start the worker on two processes; returns the folder it wrote to."""
    tests = str(ROOT / "tests")
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--num_processes", "2"]
    command += ["--main_process_port", "0", f"{tests}/distributed_worker.py", str(folder), *([part] if part else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory) -> Path:
    """Folder with what the worker wrote."""
    return launch(tmp_path_factory.mktemp("distributed"), "--config_file", f"{ROOT}/accelerate_config.yaml")


@pytest.fixture(scope="session")
def sharded(tmp_path_factory) -> Path:
    """The same under FSDP2."""
    folder = tmp_path_factory.mktemp("sharded")
    return launch(folder, "--config_file", f"{ROOT}/accelerate_configs/fsdp2.yaml", part="fsdp")


@pytest.mark.parametrize("name, dtype", RUNS, ids=[f"{name}-{dtype}".replace("torch.", "") for name, dtype in RUNS])
def test_update_does_not_depend_on_the_division_of_the_batch(two_processes, tmp_path, name, dtype):
    found = {"2 × 16": load_file(two_processes / f"{name}-{dtype}.safetensors")}
    logs = {"2 × 16": json.loads((two_processes / f"{name}-{dtype}.json").read_text())}
    for micro, accumulate in ((32, 1), (8, 4)):
        gradients = Gradients()
        trainer = make_trainer(
            name, tmp_path, micro=micro, accumulate=accumulate, steps=STEPS, dtype=dtype, callbacks=(gradients,)
        )
        trainer.train()
        key = f"{accumulate} × {micro}"
        found[key] = {f"{i} {n}": g for i, step in enumerate(gradients.steps) for n, g in step.items()}
        logs[key] = trainer.state.log_history
    expected, steps = found.pop("1 × 32"), logs.pop("1 × 32")
    assert len({key.split()[0] for key in expected}) == STEPS
    for division in found:
        assert relative_error(found[division], expected) <= (1e-10 if dtype == torch.float64 else 1e-5), division
        for here, there in zip(logs[division][:STEPS], steps[:STEPS], strict=True):  # what is logged is the same too
            values = {k: v for k, v in there.items() if k != "tokens_per_second"}
            assert {k: here[k] for k in values} == pytest.approx(values, rel=1e-4)


def test_mixtures_do_not_depend_on_the_processes(two_processes, tmp_path):
    gradients = Gradients()
    trainer = make_mixed_trainer(tmp_path, callbacks=(gradients,))
    trainer.train()
    expected = {f"{i} {name}": g for i, step in enumerate(gradients.steps) for name, g in step.items()}
    assert relative_error(load_file(two_processes / "mixed.safetensors"), expected) <= 1e-10
    there = json.loads((two_processes / "mixed.json").read_text())
    for found, log in zip(there["history"][:4], trainer.state.log_history[:4], strict=True):
        values = {name: value for name, value in log.items() if name != "tokens_per_second"}
        assert {name: found[name] for name in values} == pytest.approx(values, rel=1e-6)  # Trainer's loss is float32
    metrics = trainer.evaluate()
    metrics.pop("eval_runtime")
    assert {name: there["metrics"][name] for name in metrics} == pytest.approx(metrics, rel=1e-9)


def test_means_over_processes_take_what_only_one_has(two_processes):
    for rank in range(2):
        assert json.loads((two_processes / f"means-{rank}.json").read_text()) == {"a": 2.5, "b": 3.0, "c": 0.0}


@pytest.mark.parametrize("name", ["mlm", "recurrent_clm"])
def test_evaluation_is_that_of_one_process(two_processes, tmp_path, name):
    expected = make_trainer(name, tmp_path, eval_rows=EVAL_ROWS).evaluate()
    expected.pop("eval_runtime")
    for rank in range(2):
        metrics = json.loads((two_processes / f"evaluation-{name}-{rank}.json").read_text())
        assert {k: metrics[k] for k in expected} == pytest.approx(expected, rel=1e-12)


def test_best_checkpoint_is_loaded_at_the_end(two_processes):
    record = json.loads((two_processes / "best.json").read_text())
    losses = [entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry]
    assert len(losses) >= 3
    assert record["final"]["eval_loss"] == pytest.approx(min(losses), rel=1e-12)


@pytest.mark.parametrize("name", ["mlm", "recurrent_clm"])
def test_resumed_run_ends_with_the_same_weights(two_processes, name):
    for rank in range(2):
        assert json.loads((two_processes / f"resume-{name}-{rank}.json").read_text()) is True
    written = {path.name for path in (two_processes / f"whole-{name}" / "checkpoint-2").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= written


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_bad_loss_of_one_process_stops_all_before_the_step(two_processes, value):
    for rank in range(2):
        record = json.loads((two_processes / f"{value}-{rank}.json").read_text())
        assert "NaN or infinite at step 3" in record["message"]
        assert record["step"] == 1  # the last optimizer step that began
    last = get_last_checkpoint(str(two_processes / value))
    assert last is not None and last.endswith("checkpoint-2")
    assert all(torch.isfinite(tensor).all() for tensor in load_file(Path(last) / "model.safetensors").values())


@pytest.mark.parametrize("name", SHARDED)
def test_fsdp_trains_evaluates_and_resumes_alike(sharded, tmp_path, name):
    record = json.loads((sharded / f"{name}.json").read_text())
    trainer = make_trainer(name, tmp_path, eval_rows=EVAL_ROWS, **ADAM)
    trainer.train()
    expected = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in record["history"] if "loss" in entry] == pytest.approx(expected, rel=1e-6)
    assert record["metrics"]["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-9)
    assert record["resumed_alike"]
    plain = AUTO_CLASSES[trainer.objective.architecture].from_pretrained(sharded / f"final-{name}")
    for key, parameter in trainer.model.main.named_parameters():
        torch.testing.assert_close(plain.get_parameter(key).double(), parameter.double(), rtol=1e-4, atol=1e-6)


def test_lamb_measures_sharded_tensors_whole(sharded):
    for rank in range(2):
        assert json.loads((sharded / f"lamb-{rank}.json").read_text()) < 1e-12
