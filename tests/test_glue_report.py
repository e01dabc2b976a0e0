"""Grids of settings to search, and the table of GLUE as the papers print it."""

import statistics

import pytest

from pretrain_zoo.evaluation.glue_report import cell, glue_average, grid, spread, summarize
from pretrain_zoo.evaluation.search import GRIDS, combination_name, parse_grid


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
