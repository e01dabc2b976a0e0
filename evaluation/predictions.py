"""Predictions as files in the layout of GLUE's leaderboard (gluebenchmark.com/faq): index, tab, label in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .glue_tasks import Task

_SUFFIXES = {"test_mismatched": "-mm", "test": ""}


def submission_name(task: Task, split: str) -> str:
    """Name of the file: CoLA.tsv, MNLI-m.tsv, MNLI-mm.tsv, AX.tsv …"""
    if split == "ax":
        return "AX.tsv"
    suffix = "-m" if split == "test" and "test_mismatched" in task.splits else _SUFFIXES[split]
    return f"{task.title}{suffix}.tsv"


def prediction_texts(task: Task, predictions: np.ndarray) -> list[str]:
    """Labels as they stand in the task's files; scores of STS-B cut to its range, 0 to 5, three decimals."""
    if task.labels is not None:
        return [task.labels[i] for i in predictions]
    if task.name == "stsb":
        predictions = np.clip(predictions, 0.0, 5.0)
    return [f"{value:.3f}" for value in predictions]


def write_predictions(path: Path, task: Task, index: list[str], predictions: np.ndarray) -> None:
    """Write the file. Line breaks are those of Unix, as the leaderboard wants them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(index, prediction_texts(task, predictions), strict=True)
    lines = ["index\tprediction", *(f"{number}\t{text}" for number, text in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
