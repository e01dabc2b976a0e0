"""Fine-tuning runs: scores of the saved model row by row, resuming, early stopping, adapters, two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_runs import (
    DEV_ROWS,
    QUIET,
    TEST_ROWS,
    TRAIN_ROWS,
    arguments,
    examples,
    finished_run,
    model_arguments,
    prepared_task,
)
from safetensors.torch import load_file

from pretrain_zoo.evaluation import finetune as finetune_module
from pretrain_zoo.evaluation.finetune import build_model, finetune
from pretrain_zoo.evaluation.finetune_trainer import last_checkpoint
from pretrain_zoo.models.task_models import load_saved


@pytest.fixture(scope="module")
def finished(tokenizer_folder, wordpiece_tokenizer, tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("finetune") / "run", tokenizer_folder, wordpiece_tokenizer)


def predict_one_by_one(folder: Path, tokenizer, rows) -> np.ndarray:
    """Logits of each row alone, without padding."""
    model = load_saved(folder / "model")
    with torch.no_grad():
        encoded = [tokenizer(text, truncation=True, max_length=48, return_tensors="pt") for text in rows.texts[0]]
        return np.concatenate([model(**row)["logits"].numpy() for row in encoded])


# one process


def test_scores_are_those_of_the_saved_model_row_by_row(finished, wordpiece_tokenizer):
    folder, result = finished
    dev, test = examples(DEV_ROWS, 2), examples(TEST_ROWS, 3, labels=False)
    right = predict_one_by_one(folder, wordpiece_tokenizer, dev).argmax(-1) == dev.labels
    assert result["metrics"]["validation"]["accuracy"] == pytest.approx(right.mean())
    found = [line.split("\t") for line in (folder / "predictions" / "SST-2.tsv").read_text().splitlines()]
    expected = predict_one_by_one(folder, wordpiece_tokenizer, test).argmax(-1)
    assert found == [["index", "prediction"], *([str(i), str(label)] for i, label in enumerate(expected))]


def test_best_checkpoint_is_kept_and_nothing_else(finished):
    folder, result = finished
    scores = {log["step"]: log["eval_score"] for log in result["history"]}
    assert len(scores) == 3
    assert result["score"] == pytest.approx(max(scores.values())) == pytest.approx(scores[result["best_step"]])
    assert not list(folder.glob("checkpoint-*"))
    weights = folder / "model" / "model.safetensors"
    assert result["saved_bytes"] == weights.stat().st_size
    assert result["trainable_parameters"] == sum(tensor.numel() for tensor in load_file(weights).values())
    assert result["peak_memory_bytes"] > 50_000_000 and result["seconds"] > 0


def test_finished_run_is_not_done_again_and_another_is_refused(finished, tokenizer_folder, wordpiece_tokenizer):
    folder, result = finished
    prepared, model_args = prepared_task(wordpiece_tokenizer), model_arguments(tokenizer_folder)
    assert finetune(prepared, model_args, arguments(folder), folder, QUIET) == json.loads(json.dumps(result))
    with pytest.raises(ValueError, match=r"learning_rate 0\.001 \(there 0\.002\)"):
        finetune(prepared, model_args, arguments(folder, learning_rate=1e-3), folder, QUIET)


def test_cut_off_run_ends_as_if_it_had_not_been(finished, tokenizer_folder, wordpiece_tokenizer, tmp_path, monkeypatch):
    folder, result = finished
    prepared, model_args = prepared_task(wordpiece_tokenizer), model_arguments(tokenizer_folder)
    again = tmp_path / "run"
    show = finetune_module._Lines.on_evaluate

    def stop(self, args, state, control, **kwargs):
        if state.epoch == 2:
            raise KeyboardInterrupt
        return show(self, args, state, control, **kwargs)

    monkeypatch.setattr(finetune_module._Lines, "on_evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(prepared, model_args, arguments(again), again, QUIET)
    assert [path.name for path in again.glob("checkpoint-*")] == ["checkpoint-5"]
    monkeypatch.setattr(finetune_module._Lines, "on_evaluate", show)
    resumed = finetune(prepared, model_args, arguments(again), again, QUIET)
    assert [log["eval_loss"] for log in resumed["history"]] == [log["eval_loss"] for log in result["history"]]
    one, other = (load_file(path / "model" / "model.safetensors") for path in (folder, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_checkpoint_that_was_not_finished_is_passed_over(tmp_path):
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "checkpoint-5" / "complete").touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


def test_early_stopping_and_random_weights(finished, tokenizer_folder, wordpiece_tokenizer, tmp_path):
    folder, _ = finished
    model_args = model_arguments(tokenizer_folder, model_name_or_path=str(folder / "model"), config_overrides=None)
    prepared = prepared_task(wordpiece_tokenizer)
    args = arguments(tmp_path, num_train_epochs=6, learning_rate=1e-12, early_stopping_patience=2)
    result = finetune(prepared, model_args, args, tmp_path, QUIET)
    assert len(result["history"]) == 3  # no better score after the first
    torch.manual_seed(0)
    fresh = build_model(prepared, model_args, 48, random_weights=True)
    trained = load_file(folder / "model" / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert {name: tensor.shape for name, tensor in fresh.state_dict().items() if name in trained} == {
        name: tensor.shape for name, tensor in trained.items()
    }
    assert not torch.allclose(fresh.state_dict()[name], trained[name])


@pytest.mark.parametrize("peft", ["lora", "ia3"])
def test_adapters_train_and_are_all_that_is_saved(finished, tokenizer_folder, wordpiece_tokenizer, tmp_path, peft):
    folder, _ = finished
    options = {"model_name_or_path": str(folder / "model"), "config_overrides": None, "peft": peft}
    model_args = model_arguments(tokenizer_folder, **options)
    args = arguments(tmp_path, num_train_epochs=1)
    result = finetune(prepared_task(wordpiece_tokenizer), model_args, args, tmp_path, QUIET)
    assert result["trainable_parameters"] < result["parameters"] / 3
    dev = examples(DEV_ROWS, 2)
    right = predict_one_by_one(tmp_path, wordpiece_tokenizer, dev).argmax(-1) == dev.labels
    assert result["score"] == pytest.approx(right.mean())


# two processes


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_count_each_row_once(tokenizer_folder, wordpiece_tokenizer, tmp_path):
    root = Path(__file__).parent.parent
    wordpiece_tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = os.pathsep.join(filter(None, [str(root / "tests"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"{root}/accelerate_config.yaml"]
    start += ["--num_processes", "2", "--main_process_port", "0", f"{root}/tests/glue_worker.py", str(tmp_path)]
    done = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]
    records = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert records[0]["metrics"] == records[1]["metrics"]
    dev = examples(DEV_ROWS, 2)  # 27 rows in batches of 4 on 2 processes
    logits = predict_one_by_one(tmp_path / "run", wordpiece_tokenizer, dev)
    found = records[0]["metrics"]["validation"]
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == dev.labels).mean())
    losses = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(dev.labels))
    assert found["loss"] == pytest.approx(losses.item(), rel=1e-4)
    batches = -(-TRAIN_ROWS // 8)  # 8 rows a step over both; the last is filled up from the start
    for epoch in range(2):
        share = batches * 4
        seen = [row for record in records for row in record["seen"][epoch * share : (epoch + 1) * share]]
        assert set(seen) == set(range(TRAIN_ROWS)), epoch
