"""The examples of a task: from a folder in GLUE's layout, from the Hub, or from any CSV, TSV or JSON-lines files.

glue/CoLA/train.tsv   glue/SST-2/train.tsv   glue/MNLI/dev_matched.tsv   glue/diagnostic/diagnostic.tsv   …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .glue_tasks import PROBES, Task
from .metrics import REGRESSION_METRICS
from .tables import DataError, read_columns, read_header

HUB_NAME = "nyu-mll/glue"
_AX_TEXTS = ("sentence1", "sentence2")  # of GLUE's diagnostic set, predicted with the model of MNLI


@dataclass(frozen=True)
class Examples:
    """One split of a task.

    Attributes:
        texts: for each of the task's text columns, the texts of all rows.
        labels: int64 ids, or float64 numbers of a regression; `None` where the split has none.
        index: what the leaderboard knows the rows by.
    """

    texts: tuple[list[str], ...]
    labels: np.ndarray | None
    index: list[str]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Sequence[int] | np.ndarray) -> Examples:
        """The given rows."""
        labels = None if self.labels is None else self.labels[np.asarray(rows)]
        return Examples(tuple([texts[i] for i in rows] for texts in self.texts), labels, [self.index[i] for i in rows])

    def sample(self, size: int | None) -> Examples:
        """A random sample without replacement, in the order of the file: the same for every seed of training, and
        part of every larger sample; everything where `size` is `None` or not smaller."""
        if size is None or size >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(0).permutation(len(self))[:size]))


def load_task(task: Task, data_dir: Path | None = None) -> dict[str, Examples]:
    """The task's splits: from the folder that holds `task.title`, or from the Hub where there is no folder.

    "train" and "validation" are always there. Raises `DataError` for what is missing or malformed.
    """
    splits = from_hub(task) if data_dir is None else from_folder(task, data_dir)
    return check_splits(task, splits)


def check_splits(task: Task, splits: dict[str, Examples]) -> dict[str, Examples]:
    """The splits. Raises `DataError` if one is empty, or one to train or validate on has no labels."""
    for name, examples in splits.items():
        if not len(examples):
            raise DataError(f"{task.title}: the split {name!r} is empty")
        if name.startswith(("train", "validation")) and examples.labels is None:
            raise DataError(f"{task.title}: the split {name!r} has no labels, and training and validation need them")
    return splits


def from_folder(task: Task, data_dir: Path) -> dict[str, Examples]:
    """The task's splits from `data_dir/TITLE/*.tsv`; the folder may also be called by the task's name."""
    if not data_dir.is_dir():
        raise DataError(f"there is no folder {data_dir}")
    names = {task.title.lower(), task.name, task.title.lower().replace("-", "")}
    folder = next((path for path in sorted(data_dir.iterdir()) if path.is_dir() and path.name.lower() in names), None)
    if folder is None:
        there = ", ".join(sorted(path.name for path in data_dir.iterdir() if path.is_dir())) or "none"
        raise DataError(f"{data_dir} has no folder {task.title}; it has: {there}")
    splits = {}
    for split, stem in task.splits.items():
        path = next((p for p in (folder / f"{stem}.tsv{end}" for end in ("", ".gz", ".xz")) if p.is_file()), None)
        if path is not None:
            splits[split] = _from_file(task, split, path)
        elif split in ("train", "validation"):
            raise DataError(f"{task.title} needs {folder / stem}.tsv, which is not there")
    return splits


def _from_file(task: Task, split: str, path: Path) -> Examples:
    labelled = split.startswith(("train", "validation"))
    texts = _AX_TEXTS if split == "ax" else task.texts
    columns = read_columns(
        path,
        (*texts, task.label_column if labelled else task.index_column),
        header=task.header if labelled else None,
        skip_short_rows=labelled and task.skip_short_rows,
    )
    first = columns[texts[0]]
    labels = encode_labels(task, columns[task.label_column], str(path)) if labelled else None
    index = [str(i) for i in range(len(first))] if labelled else columns[task.index_column]
    return Examples(tuple(columns[name] for name in texts), labels, index)


def encode_labels(task: Task, values: Sequence[str], where: str) -> np.ndarray:
    """Labels as ids, or as numbers for a regression.

    Raises `DataError` for one that the task does not know, as where the data is another task's.
    """
    if task.labels is None:
        try:
            numbers = np.array([float(value) for value in values], np.float64)
        except ValueError as error:
            raise DataError(
                f"{where}: {task.title} predicts a number, and column {task.label_column!r} holds words ({error})"
            ) from error
        if not np.isfinite(numbers).all():
            raise DataError(f"{where}: column {task.label_column!r} holds numbers that are not finite")
        return numbers
    ids = {label: i for i, label in enumerate(task.labels)}
    unknown = sorted({value for value in values if value not in ids})
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + ", …" * (len(unknown) > 5)
        row = next(i for i, value in enumerate(values) if value not in ids)
        raise DataError(
            f"{where}: unknown label {shown} (first in example {row + 1}); {task.title} has {', '.join(task.labels)}"
        )
    return np.array([ids[value] for value in values], np.int64)


def from_hub(task: Task, **options: Any) -> dict[str, Examples]:
    """The task's splits from the Hub; `options` go to `datasets.load_dataset`."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    if task.name in PROBES:
        raise DataError(f"{task.title} is made of the embedded corpus, not loaded: see --data_dir")
    try:
        tables = dict(load_dataset(HUB_NAME, task.name, **options))
        if task.name == "mnli":
            tables = {name.removesuffix("_matched"): table for name, table in tables.items()}
            tables["ax"] = load_dataset(HUB_NAME, "ax", **options)["test"]
    except (DatasetsError, ValueError, OSError) as error:
        raise DataError(
            f"{task.title} cannot be loaded from the Hub ({HUB_NAME}): {error}. Give a folder in GLUE's layout by "
            "--data_dir to do without"
        ) from error
    return {name: from_dataset(task, table) for name, table in tables.items()}


def from_dataset(task: Task, table: Any) -> Examples:
    """A split from a `datasets.Dataset` with the Hub's columns; labels below 0 stand for none."""
    names = task.hub_texts or task.texts
    missing = [name for name in (*names, "label") if name not in table.column_names]
    if missing:
        raise DataError(f"{task.title}: the dataset has no column {missing[0]!r}, only {', '.join(table.column_names)}")
    labels: np.ndarray | None = np.asarray(table["label"])
    assert labels is not None
    if len(labels) and (labels < 0).all():
        labels = None
    elif task.labels is None:
        labels = labels.astype(np.float64)
    else:
        labels = labels.astype(np.int64)
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(task.labels)):
            raise DataError(f"{task.title}: labels from {labels.min()} to {labels.max()}, {len(task.labels)} are known")
    index = [str(i) for i in table["idx"]] if "idx" in table.column_names else [str(i) for i in range(len(table))]
    return Examples(tuple(list(table[name]) for name in names), labels, index)


def custom_task(
    train_file: Path,
    validation_file: Path,
    test_file: Path | None = None,
    *,
    name: str = "custom",
    text_columns: Sequence[str] = (),
    label_column: str = "label",
    metrics: Sequence[str] = (),
) -> tuple[Task, dict[str, Examples]]:
    """A task of your own from .csv, .tsv (unquoted) or .jsonl files with named columns, and its splits.

    Args:
        train_file, validation_file, test_file: the files; the test file needs no labels.
        name: what the task is called.
        text_columns: column of the text, or of both texts; by default sentence (or text), or sentence1 and sentence2.
        label_column: labels; numbers with a decimal point make a regression, everything else classes, sorted.
        metrics: by default accuracy and F1, or the two correlations.

    Raises `DataError` for files, columns and labels that cannot be used; a label that the training file does not have
    is one of them.
    """
    texts = tuple(text_columns) or _guess_texts(train_file)
    columns = read_columns(train_file, (*texts, label_column))
    values = columns[label_column]
    if "" in values:
        raise DataError(
            f"{train_file}: example {values.index('') + 1} has no label in column {label_column!r}; fill it in, or "
            "leave the row out (a teacher can label such rows: --transfer_file)"
        )
    labels = None if _are_numbers(values) else tuple(sorted(set(values), key=_label_order))
    if labels is not None and len(labels) < 2:
        raise DataError(
            f"{train_file}: column {label_column!r} has {len(labels)} labels; there is nothing to tell apart"
        )
    if labels is not None and len(labels) > max(100, len(values) // 10):
        raise DataError(
            f"{train_file}: {len(labels)} different labels in column {label_column!r}; classes are expected there, or "
            "numbers with a decimal point"
        )
    if not metrics:
        metrics = REGRESSION_METRICS if labels is None else ("accuracy", "f1")
    if (labels is None) != set(metrics).issubset(REGRESSION_METRICS):
        kind = "numbers" if labels is None else "classes"
        raise DataError(f"{train_file}: {', '.join(metrics)} cannot score a task that predicts {kind}")
    task = Task(name, name, texts, labels, tuple(metrics), label_column)
    splits = {}
    for split, path in (("train", train_file), ("validation", validation_file), ("test", test_file)):
        if path is not None:
            labelled = split != "test"
            columns = read_columns(path, (*texts, label_column) if labelled else texts)
            found = encode_labels(task, columns[label_column], str(path)) if labelled else None
            first = columns[texts[0]]
            splits[split] = Examples(tuple(columns[c] for c in texts), found, [str(i) for i in range(len(first))])
    return task, check_splits(task, splits)


def _guess_texts(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    there = read_header(path)
    if not there:
        raise DataError(f"{path}: the file is empty")
    for names in (("sentence1", "sentence2"), ("premise", "hypothesis"), ("sentence",), ("text",)):
        if set(names) <= set(there):
            return names
    raise DataError(f"{path}: which column is the text? Give --text_columns; there are {', '.join(there)}")


def _are_numbers(values: Sequence[str]) -> bool:
    """Whether all are numbers, and one at least is not a whole one."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return False
    return any(not number.is_integer() for number in numbers)


def _label_order(label: str) -> tuple[int, float, str]:
    """Whole numbers by value, words by the alphabet behind them."""
    return (0, int(label), "") if label.lstrip("-").isdecimal() else (1, 0, label)
