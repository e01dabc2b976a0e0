"""Results of GLUE runs: the papers' table with the GLUE average, costs, JSON, Markdown and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..training.report import duration
from ..training.run_folder import write_json
from .glue_tasks import GLUE, TASKS

Rows = dict[str, dict[str, dict[str, Any]]]
"""Summaries (`summarize`) by row of the table (a model) and task."""


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, mean and standard deviation (of a sample; 0 of a single value)."""
    values = list(values)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"median": statistics.median(values), "mean": statistics.fmean(values), "deviation": deviation}


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs of one model on one task, over seeds: scores as median, mean and deviation, and what they cost."""
    first = runs[0]
    metrics = {
        split: {name: spread(run["metrics"][split][name] for run in runs) for name in values}
        for split, values in first["metrics"].items()
    }
    return {
        "seeds": [run["seed"] for run in runs],
        "score": spread(run["score"] for run in runs),
        "scores": [run["score"] for run in runs],
        "metrics": metrics,
        "task_metrics": [name for name in first["metrics"]["validation"] if name not in ("score", "loss")],
        "train_rows": first["train_rows"],
        "learning_rate": first["learning_rate"],
        "batch": first["batch"],
        "epochs": first["epochs"],
        "trainable_parameters": first["trainable_parameters"],
        "parameters": first["parameters"],
        "saved_bytes": first.get("saved_bytes"),
        "peak_memory_bytes": max((run.get("peak_memory_bytes") or 0) for run in runs),
        "seconds": statistics.fmean(run.get("seconds", 0.0) for run in runs),
        "device": first["device"],
    }


def glue_average(tasks: Mapping[str, Mapping[str, Any]]) -> tuple[float, int] | None:
    """Mean of the tasks' median scores and their number; `None` without any.

    As on the leaderboard the score of a task with two metrics, or two dev sets, is their mean. WNLI is left out, as in
    BERT's and ELECTRA's tables. Over fewer than eight tasks the figure compares with that of the same tasks only.
    Other tasks than GLUE's count where there are no GLUE tasks.
    """
    counted = [name for name in tasks if name in GLUE and name != "wnli"]
    if not counted and not set(tasks) & set(GLUE):
        counted = list(tasks)
    if not counted:
        return None
    return statistics.fmean(tasks[name]["score"]["median"] for name in counted), len(counted)


def cell(summary: Mapping[str, Any]) -> str:
    """Per cent, as the papers give them: 84.6/83.4 (matched and mismatched, or two metrics); ± over seeds."""
    metrics = summary["metrics"]
    if "validation_mismatched" in metrics:
        values = [metrics[split]["score"]["median"] for split in ("validation", "validation_mismatched")]
    else:
        values = [metrics["validation"][name]["median"] for name in summary["task_metrics"]]
    text = "/".join(f"{100 * value:.1f}" for value in values)
    return text + (f" ± {100 * summary['score']['deviation']:.1f}" if len(summary["seeds"]) > 1 else "")


def heading(name: str) -> str:
    """The task's title, and what its figures are."""
    if name == "mnli":
        return "MNLI-m/mm\nAcc"
    short = {"accuracy": "Acc", "f1": "F1", "matthews_correlation": "Mcc", "pearson": "Pear", "spearmanr": "Spear"}
    if name not in TASKS:
        return name
    return f"{TASKS[name].title}\n{'/'.join(short[metric] for metric in TASKS[name].metrics)}"


def grid(rows: Rows) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of scores; averages of those rows that have the most tasks."""
    present = {name for tasks in rows.values() for name in tasks}
    names = [name for name in TASKS if name in present] + sorted(present - set(TASKS))
    counts = {found[1] for tasks in rows.values() if (found := glue_average(tasks))}
    over = f" of {max(counts)}" if counts and max(counts) < 8 else ""
    lines = []
    for row, tasks in rows.items():
        average = glue_average(tasks)
        cells = [cell(tasks[name]) if name in tasks else "–" for name in names]
        comparable = average is not None and average[1] == max(counts)
        lines.append([row, *cells, f"{100 * average[0]:.1f}" if average and comparable else "–"])
    return ["", *map(heading, names), f"Average\n{over.strip()}".strip()], lines


def costs(rows: Rows) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of costs: sums and largest values over the tasks, mean over the seeds."""
    lines = []
    for row, tasks in rows.items():
        found = list(tasks.values())
        trained = max(summary["trainable_parameters"] for summary in found)
        saved = max(summary["saved_bytes"] or 0 for summary in found)
        peak = max(summary["peak_memory_bytes"] for summary in found)
        seconds = sum(summary["seconds"] for summary in found)
        shown = [f"{trained / 1e6:.3g} M", f"{saved / 1e6:.3g} MB", f"{peak / 1e6:,.0f} MB", duration(seconds)]
        lines.append([row, *shown])
    return ["", "trained", "saved", "peak memory", "time per seed"], lines


def rich_table(title: str, headings: list[str], lines: list[list[str]]) -> Table:
    """A table for the terminal."""
    table = Table(title=title, title_justify="left")
    for i, text in enumerate(headings):
        table.add_column(text, justify="right" if i else "left")
    for line in lines:
        table.add_row(*line)
    return table


def markdown_table(headings: list[str], lines: list[list[str]]) -> str:
    """The same in Markdown."""
    head = [text.replace("\n", " ") for text in headings]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def plot_scores(rows: Rows, path: Path) -> None:
    """Write a PNG: the score of every seed by task and model, medians as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    present = {name for tasks in rows.values() for name in tasks}
    names = [name for name in TASKS if name in present] + sorted(present - set(TASKS))
    figure = Figure(figsize=(max(4.0, 1.2 + 1.3 * len(names)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(rows)
    for number, (row, tasks) in enumerate(rows.items()):
        here = [i for i, name in enumerate(names) if name in tasks]
        places = [i + (number - (len(rows) - 1) / 2) * width for i in here]
        medians = [100 * tasks[names[i]]["score"]["median"] for i in here]
        axes.bar(places, medians, width * 0.9, label=row, alpha=0.7)
        for place, i in zip(places, here):
            scores = [100 * score for score in tasks[names[i]]["scores"]]
            axes.plot([place] * len(scores), scores, "k.", markersize=4)
    axes.set_xticks(range(len(names)), [heading(name) for name in names])
    axes.set_ylabel("score, per cent (dots: seeds)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def write_report(rows: Rows, folder: Path, console: Console) -> None:
    """Print the tables, and write glue.json, glue.md and glue.png to the folder."""
    seeds = {len(summary["seeds"]) for tasks in rows.values() for summary in tasks.values()}
    what = "dev sets" + (f", median of {max(seeds)} seeds ± standard deviation" if max(seeds) > 1 else "")
    scores, spent = grid(rows), costs(rows)
    console.print(rich_table(what, *scores))
    console.print(rich_table("cost", *spent))
    averages = {row: found for row, tasks in rows.items() if (found := glue_average(tasks))}
    write_json(
        folder / "glue.json",
        {"rows": rows, "average": {row: {"score": score, "tasks": n} for row, (score, n) in averages.items()}},
    )
    (folder / "glue.md").write_text(f"{what}\n\n{markdown_table(*scores)}\n{markdown_table(*spent)}", encoding="utf-8")
    plot_scores(rows, folder / "glue.png")
    console.print(f"glue.json, glue.md, glue.png: {folder}")
