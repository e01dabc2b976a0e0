"""Scores against the number of labelled examples: sampling, the sweep's summary and its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from .glue_report import spread
from .glue_tasks import Task
from .metrics import compute_metrics
from .task_data import Examples

ALL = -1
"""As a number of examples: all of them."""


def parse_sizes(text: str) -> list[int]:
    """Numbers of examples per class from "0,4,16,all", ascending, `ALL` last. Raises `ValueError` for others."""
    sizes = set()
    for part in (part.strip() for part in text.split(",")):
        if part != "all" and not part.isdecimal():
            raise ValueError(f"--k must be numbers of examples per class, and all: 0,4,16,all; not {text!r}")
        sizes.add(ALL if part == "all" else int(part))
    return sorted(sizes - {ALL}) + [ALL] * (ALL in sizes)


def classes_of(task: Task, labels: np.ndarray) -> np.ndarray:
    """Classes to draw the same number of examples from: the labels; of a regression, below and above its middle."""
    if task.labels is not None:
        return labels
    return (labels > (labels.min() + labels.max()) / 2).astype(np.int64)


def draw(task: Task, examples: Examples, k: int, seed: int) -> Examples:
    """`k` examples of each class in random order (`ALL`: everything). The draws of one seed contain one another.

    Raises `ValueError` if a class has fewer, or there are no labels.
    """
    if k == ALL:
        return examples
    if examples.labels is None:
        raise ValueError(f"{task.title}: examples without labels cannot be drawn by class")
    classes = classes_of(task, examples.labels)
    rows = []
    for i in range(len(task.labels) if task.labels is not None else 2):
        own = np.flatnonzero(classes == i)
        if len(own) < k:
            name = task.labels[i] if task.labels is not None else ("low", "high")[i]
            raise ValueError(f"{task.title} has {len(own)} examples of the class {name}, and --k asks for {k}")
        rows.append(np.random.default_rng([seed, i]).permutation(own)[:k])
    # one of each class in turn, so that examples that are left out for their length leave the classes balanced
    turns = np.stack(rows, 1) if k else np.empty((0, 1), np.int64)
    rng = np.random.default_rng([seed, len(rows)])
    return examples.take(np.concatenate([rng.permutation(turn) for turn in turns]) if k else np.empty(0, np.int64))


def shots_of(task: Task, examples: Examples, words: Mapping[str, str]) -> list[tuple[tuple[str, ...], str]]:
    """Examples as texts and label, to stand before a prompt; of a regression, the label of the nearer end."""
    assert examples.labels is not None
    if task.labels is not None:
        labels = [task.labels[i] for i in examples.labels]
    else:
        ends = {name: float(name) for name in words}
        labels = [min(ends, key=lambda name: abs(ends[name] - value)) for value in examples.labels]
    return list(zip(zip(*examples.texts), labels))


def point(k: int, examples_per_class: float, scores: Sequence[float]) -> dict[str, Any]:
    """A point of a curve: mean, sample standard deviation, median, lowest and highest score, and all of them."""
    ends = {"lowest": min(scores), "highest": max(scores)}
    return {"k": k, "examples_per_class": examples_per_class, **spread(scores), **ends, "scores": list(scores)}


def guess(task: Task, train: Examples, validation: Examples) -> float:
    """Score of always predicting the most frequent label, or the mean number, of the training set."""
    assert train.labels is not None and validation.labels is not None
    value = train.labels.mean() if task.labels is None else np.bincount(train.labels).argmax()
    return compute_metrics(task.metrics, np.full(len(validation), value), validation.labels)["score"]


def results_table(results: Mapping[str, Any]) -> Table:
    """A row for each method and number of examples."""
    metrics = "/".join(results["metrics"])
    table = Table(title=f"{results['title']}, {Path(results['model']).name}: {metrics}", title_justify="left")
    for heading in ("method", "examples per class", "mean", "deviation", "median", "lowest", "highest", "seeds"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method, points in results["curves"].items():
        for own in points:
            figures = [f"{100 * own[name]:.1f}" for name in ("mean", "deviation", "median", "lowest", "highest")]
            table.add_row(method, _size_name(own["k"]), *figures, str(len(own["scores"])))
        table.add_section()
    table.add_row("always the same", "", f"{100 * results['guess']:.1f}", *[""] * 5)
    return table


def _size_name(k: int) -> str:
    return "all" if k == ALL else str(k)


def plot_curves(results: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: mean score over the number of examples per class, a band of one deviation, and every seed's score.

    A method that learns nothing from examples is a dashed line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second to import
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    ticks: dict[float, str] = {}
    for number, (method, points) in enumerate(results["curves"].items()):
        color = f"C{number}"
        places = [float(own["examples_per_class"]) for own in points]
        ticks |= {place: _size_name(own["k"]) for place, own in zip(places, points)}
        mean, deviation = (100 * np.array([own[name] for own in points]) for name in ("mean", "deviation"))
        if places == [0.0]:
            axes.axhline(mean[0], color=color, linestyle="--", label=method)
            continue
        axes.plot(places, mean, "o-", color=color, label=method, markersize=4)
        axes.fill_between(places, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)
        for place, own in zip(places, points):
            axes.plot([place] * len(own["scores"]), 100 * np.array(own["scores"]), ".", color=color, alpha=0.4)
    axes.axhline(100 * results["guess"], color="gray", linestyle=":", label="always the same")
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xticks(sorted(ticks), [ticks[place] for place in sorted(ticks)])
    axes.minorticks_off()
    axes.set(xlabel="labelled examples per class", ylabel=f"{results['title']}: {'/'.join(results['metrics'])}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    canvas.savefig(path, dpi=150)
