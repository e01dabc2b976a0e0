"""The command for GLUE: warm starts, several seeds, searches, comparisons, and one clear line where it stops."""

import json
from pathlib import Path

import pytest
from finetune_runs import finished_run
from glue_files import write_task

from pretrain_zoo.scripts.run_glue import main


@pytest.fixture(scope="module")
def finished(tokenizer_folder, wordpiece_tokenizer, tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("finetune") / "run", tokenizer_folder, wordpiece_tokenizer)


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
