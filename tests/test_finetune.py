"""Fine-tuning: order, evaluation, losses, resuming, the command and its report."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_runs import DEV_ROWS, TEST_ROWS, TRAIN_ROWS, arguments, examples, model_arguments, prepared_task
from glue_files import write_task
from rich.console import Console
from safetensors.torch import load_file

from pretrain_zoo.evaluation import finetune as finetune_module
from pretrain_zoo.evaluation.encoded import EncodedExamples, LengthGroupedEpochs, evaluation_share
from pretrain_zoo.evaluation.finetune import build_model, class_weights, finetune, make_trainer
from pretrain_zoo.evaluation.finetune_trainer import balanced_weights, last_checkpoint
from pretrain_zoo.evaluation.glue_report import cell, glue_average, grid, spread, summarize
from pretrain_zoo.evaluation.search import GRIDS, combination_name, parse_grid
from pretrain_zoo.models.task_models import load_saved
from pretrain_zoo.scripts.run_glue import main

QUIET = Console(quiet=True)
NO_DROPOUT = "hidden_dropout_prob=0,attention_probs_dropout_prob=0,hidden_size=32,num_hidden_layers=1,"
NO_DROPOUT += "num_attention_heads=2,intermediate_size=64"


@pytest.fixture(scope="session")
def tokenizer_folder(wordpiece_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    wordpiece_tokenizer.save_pretrained(folder)
    return folder


# order and shares


@pytest.mark.parametrize("rows, batch, processes", [(27, 4, 2), (27, 4, 1), (3, 4, 3), (8, 4, 2), (1, 1, 4)])
def test_each_row_is_evaluated_once(rows, batch, processes):
    lengths = np.random.default_rng(0).integers(1, 50, rows).tolist()
    shares = [evaluation_share(lengths, batch, process, processes) for process in range(processes)]
    counted = [row for share in shares for rows_, counts in share for row in rows_ if counts]
    assert sorted(counted) == list(range(rows))
    assert len({len(share) for share in shares}) == 1  # sharded models run in step
    assert all(0 < len(rows_) <= batch for share in shares for rows_, _ in share)


def test_order_groups_lengths_and_depends_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(1, 100, 640).tolist()
    sampler = LengthGroupedEpochs(lengths, 16, seed=5)
    first = list(sampler)
    torch.rand(3)  # what else is drawn does not matter
    assert list(sampler) == first and sorted(first) == list(range(640))
    sampler.set_epoch(1)
    assert list(sampler) != first
    again = LengthGroupedEpochs(lengths, 16, seed=5)
    again.set_epoch(1)
    assert list(again) == list(sampler)
    padded = sum(16 * max(lengths[i] for i in first[k : k + 16]) for k in range(0, 640, 16))
    assert padded < 1.15 * sum(lengths)  # in a random order: about 1.9 times


def test_rows_are_cut_and_pairs_encoded(wordpiece_tokenizer):
    rows = examples(8, 1)
    encoded = EncodedExamples(rows, wordpiece_tokenizer, 16)
    assert encoded[0]["input_ids"] == wordpiece_tokenizer(rows.texts[0][0], truncation=True, max_length=16)["input_ids"]
    assert encoded.truncated(16) == sum(len(wordpiece_tokenizer(text)["input_ids"]) >= 16 for text in rows.texts[0])
    assert encoded[3]["labels"] == rows.labels[3]


# losses


def test_class_weights_of_rare_classes_are_larger(tokenizer_folder, wordpiece_tokenizer):
    labels = np.array([0] * 6 + [1] * 2)
    assert balanced_weights(labels, 3).tolist() == pytest.approx([8 / 18, 8 / 6, 0])
    prepared = prepared_task(wordpiece_tokenizer)
    assert class_weights("1,2.5", prepared).tolist() == [1, 2.5]
    counts = np.bincount(prepared.splits["train"].labels)
    assert class_weights("balanced", prepared).tolist() == pytest.approx((TRAIN_ROWS / 2 / counts).tolist())
    with pytest.raises(ValueError, match="2 numbers, one for each of 0, 1"):
        class_weights("1,2,3", prepared)
    prepared.splits["train"].labels[:4] = -1  # rows that only a teacher labels
    counts = np.bincount(prepared.splits["train"].labels[4:])
    assert class_weights("balanced", prepared).tolist() == pytest.approx(((TRAIN_ROWS - 4) / 2 / counts).tolist())


def test_update_does_not_depend_on_micro_batches(tokenizer_folder, wordpiece_tokenizer, tmp_path):
    weights = []
    for micro, accumulate in ((8, 1), (4, 2), (2, 4)):
        args = arguments(
            tmp_path / f"{micro}",
            max_steps=1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulate,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            warmup_steps=0,
            eval_strategy="no",
            class_weights="1,3",
        )
        torch.manual_seed(0)
        prepared = prepared_task(wordpiece_tokenizer)
        model = build_model(prepared, model_arguments(tokenizer_folder, config_overrides=NO_DROPOUT), 48, False)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        make_trainer(prepared, model, args).train()
        changed = [new.detach() - old for new, old in zip(model.parameters(), before, strict=True)]
        weights.append(torch.cat([change.flatten() for change in changed]))
    assert weights[0].abs().max() > 1e-5
    for other in weights[1:]:
        assert (other - weights[0]).norm() <= 1e-3 * weights[0].norm()  # float32 sums


def test_loss_weighs_classes(tokenizer_folder, wordpiece_tokenizer, tmp_path):
    prepared = prepared_task(wordpiece_tokenizer)
    model = build_model(prepared, model_arguments(tokenizer_folder), 48, False)
    trainer = make_trainer(prepared, model, arguments(tmp_path, class_weights="1,3"))
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    found = trainer._loss({"logits": logits}, torch.tensor([1, 0]), torch.tensor(4.0))
    expected = 3 * np.log(1 + np.exp(-1)) + np.log(1 + np.exp(-2))
    assert found.item() == pytest.approx(expected / 4, rel=1e-6)


# runs


@pytest.fixture(scope="session")
def finished(tokenizer_folder, wordpiece_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune") / "run"
    prepared, model_args = prepared_task(wordpiece_tokenizer), model_arguments(tokenizer_folder)
    return folder, finetune(prepared, model_args, arguments(folder), folder, QUIET)


def predict_one_by_one(folder: Path, tokenizer, rows) -> np.ndarray:
    """Logits of each row alone, without padding."""
    model = load_saved(folder / "model")
    with torch.no_grad():
        encoded = [tokenizer(text, truncation=True, max_length=48, return_tensors="pt") for text in rows.texts[0]]
        return np.concatenate([model(**row)["logits"].numpy() for row in encoded])


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


# search and report


def test_grids():
    combinations = parse_grid("bert")
    assert len(combinations) == 18 == len({combination_name(each) for each in combinations})
    assert parse_grid("learning_rate=1e-4,3e-4;batch=16") == [
        {"learning_rate": 1e-4, "batch": 16},
        {"learning_rate": 3e-4, "batch": 16},
    ]
    assert set(GRIDS) == {"bert", "roberta"}
    for text in ("big", "dropout=0.1", "learning_rate"):
        with pytest.raises(ValueError, match="--search must be"):
            parse_grid(text)


def run(task: str, seed: int, **values: float) -> dict:
    """A result as `finetune` returns it; metrics by their names, or by split and name."""
    metrics: dict[str, dict[str, float]] = {"validation": {}}
    for name, value in values.items():
        split, _, metric = name.rpartition("__")
        metrics.setdefault(split or "validation", {})[metric] = value
    for found in metrics.values():
        found["score"] = statistics.fmean(found.values())
    score = statistics.fmean(found["score"] for found in metrics.values())
    rest = {
        "train_rows": 10,
        "learning_rate": 1e-3,
        "batch": 8,
        "epochs": 3,
        "trainable_parameters": 5,
        "parameters": 9,
    }
    return {"task": task, "seed": seed, "metrics": metrics, "score": score, "device": "1 × cpu", **rest}


def test_table_reads_as_in_the_papers():
    tasks = {
        "cola": summarize(
            [run("cola", seed, matthews_correlation=value) for seed, value in enumerate((0.4, 0.6, 0.5))]
        ),
        "mrpc": summarize([run("mrpc", 0, f1=0.9, accuracy=0.86)]),
        "mnli": summarize([run("mnli", 0, accuracy=0.8, validation_mismatched__accuracy=0.82)]),
        "wnli": summarize([run("wnli", 0, accuracy=0.5)]),
    }
    assert cell(tasks["cola"]) == "50.0 ± 10.0"
    assert cell(tasks["mrpc"]) == "90.0/86.0"
    assert cell(tasks["mnli"]) == "80.0/82.0"
    assert glue_average(tasks) == (pytest.approx((0.5 + 0.88 + 0.81) / 3), 3)  # without WNLI
    headings, lines = grid({"mine": tasks, "other": {"cola": tasks["cola"]}})
    assert [text.partition("\n")[0] for text in headings] == ["", "MNLI-m/mm", "CoLA", "MRPC", "WNLI", "Average"]
    assert lines[0] == ["mine", "80.0/82.0", "50.0 ± 10.0", "90.0/86.0", "50.0", "73.0"]
    # an average over fewer tasks does not compare
    assert lines[1] == ["other", "–", "50.0 ± 10.0", "–", "–", "–"]
    assert spread([0.4, 0.6, 0.5]) == pytest.approx({"median": 0.5, "mean": 0.5, "deviation": 0.1})


# the command


@pytest.fixture
def glue_folder(tmp_path) -> Path:
    for name in ("rte", "mnli", "stsb", "cola"):
        write_task(tmp_path / "glue", name, rows=12)
    return tmp_path / "glue"


def command(folder: Path, model: str, *more: str) -> list[str]:
    options = ["--model_name_or_path", model, "--output_dir", str(folder), "--use_cpu", "--num_train_epochs", "1"]
    return [*options, "--per_device_train_batch_size", "4", "--max_seq_length", "32", *more]


def test_command_trains_warm_starts_and_reports(finished, glue_folder, tmp_path, capsys):
    model, out = str(finished[0] / "model"), tmp_path / "out"
    data = ["--data_dir", str(glue_folder), "--seeds", "2"]
    options = command(out, model, "--task_name", "rte,stsb", "--warm_start", "mnli", *data, "--run_name", "mine")
    assert main(options) == 0
    shown = capsys.readouterr().out
    assert "MNLI-m/mm" in shown and "median of 2 seeds" in shown and "mine" in shown
    report = json.loads((out / "glue.json").read_text())
    assert report["rows"]["mine"]["rte"]["seeds"] == [42, 43] and report["average"]["mine"]["tasks"] == 3
    started = json.loads((out / "rte" / "seed-43" / "run.json").read_text())["identity"]["model_name_or_path"]
    assert started == str(out / "mnli" / "seed-43" / "model")
    assert {path.name for path in (out / "submission").iterdir()} == {
        "RTE.tsv",
        "STS-B.tsv",
        "MNLI-m.tsv",
        "MNLI-mm.tsv",
    }
    assert (out / "glue.png").stat().st_size > 5000 and "| mine |" in (out / "glue.md").read_text()
    written = (out / "rte" / "seed-42" / "results.json").stat().st_mtime_ns
    assert main([*options, "--compare_with", str(out)]) == 0  # nothing is done twice
    assert (out / "rte" / "seed-42" / "results.json").stat().st_mtime_ns == written


def test_command_searches_and_compares_with_random_weights(finished, glue_folder, tmp_path, capsys):
    model, out = str(finished[0] / "model"), tmp_path / "out"
    grid_text = "learning_rate=1e-9,2e-3"
    data = ["--task_name", "cola", "--data_dir", str(glue_folder), "--seeds", "2", "--search", grid_text]
    assert main(command(out, model, *data, "--random_baseline")) == 0
    assert "of 2 settings the best is learning_rate=" in capsys.readouterr().out
    runs = sorted(str(path.parent.relative_to(out)) for path in out.rglob("results.json"))
    assert len([name for name in runs if name.startswith("cola/") and "seed-42" in name]) == 2
    assert len([name for name in runs if name.startswith("cola/") and "seed-43" in name]) == 1  # the best only
    assert set(json.loads((out / "glue.json").read_text())["rows"]) == {"model", "random weights"}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--task_name", "cola", "--data_dir", "nowhere"], "no folder nowhere"),
        (["--task_name", "sst3"], "did you mean sst2"),
        (["--teacher", "/no/such/{task}", "--task_name", "cola", "--data_dir", "GLUE"], "no folder '/no/such/cola'"),
        (["--seeds", "0"], "--seeds must be 1"),
        (["--train_file", "x.csv"], "needs a --validation_file"),
        (["--early_stopping_patience", "2", "--eval_strategy", "no"], "needs evaluations"),
        (["--search", "everything", "--task_name", "cola", "--data_dir", "GLUE"], "--search must be bert"),
        (["--class_weights", "balanced", "--task_name", "stsb", "--data_dir", "GLUE"], "has no classes"),
        (["--no_such_option", "1"], "no_such_option"),
        (["--load_in_4bit", "--task_name", "cola", "--data_dir", "GLUE"], "--peft lora"),
        (
            ["--max_seq_length", "2", "--task_name", "cola", "--data_dir", "GLUE"],
            "leaves no room for text beside 2 special",
        ),
    ],
)
def test_command_stops_with_one_clear_line(finished, glue_folder, tmp_path, capsys, options, message):
    options = [str(glue_folder) if option == "GLUE" else option for option in options]
    assert main(command(tmp_path / "out", str(finished[0] / "model"), *options)) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


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
