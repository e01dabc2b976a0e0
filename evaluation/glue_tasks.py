"""The nine GLUE tasks (Wang et al. 2018, arXiv 1804.07461): their columns, labels, official metrics and files.

Layouts are those of GLUE's own download: tab-separated without quotes, CoLA's without a header, labels as words or
digits. The probe tasks of `probes.py` are written in the same layouts.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from .tables import DataError

_PLAIN = {"train": "train", "validation": "dev", "test": "test"}
_MNLI = {"train": "train", "validation": "dev_matched", "validation_mismatched": "dev_mismatched"}
_MNLI |= {"test": "test_matched", "test_mismatched": "test_mismatched", "ax": "../diagnostic/diagnostic"}


@dataclass(frozen=True)
class Task:
    """A classification or regression task over one text or two.

    Attributes:
        name: name on the command line, and of the configuration on the Hub.
        title: heading in tables, name of the folder and of the leaderboard's file.
        texts: columns of the text, or of the two texts.
        labels: what stands in the label column, in the order of the ids; `None` for a number to be predicted.
        metrics: official metrics; the task's score is their mean.
        label_column: column of the label.
        splits: file of each split, without .tsv.
        header: columns of training and validation files that have no header line.
        hub_texts: columns of the text in the Hub's copy, where they differ.
        index_column: what test files number their rows in.
        skip_short_rows: the published training file has damaged rows, which are left out.
    """

    name: str
    title: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...] = ("accuracy",)
    label_column: str = "label"
    splits: Mapping[str, str] = field(default_factory=lambda: _PLAIN)
    header: tuple[str, ...] | None = None
    hub_texts: tuple[str, ...] | None = None
    index_column: str = "index"
    skip_short_rows: bool = False

    @property
    def is_regression(self) -> bool:
        """Whether a number is predicted."""
        return self.labels is None

    @property
    def num_labels(self) -> int:
        """Outputs of the head."""
        return 1 if self.labels is None else len(self.labels)


_PAIR, _BINARY, _ENTAILMENT = ("sentence1", "sentence2"), ("0", "1"), ("entailment", "not_entailment")
_THREE_WAY = ("entailment", "neutral", "contradiction")
_COLA_HEADER = ("source", "label", "mark", "sentence")

GLUE = {
    task.name: task
    for task in (
        Task("mnli", "MNLI", _PAIR, _THREE_WAY, label_column="gold_label", splits=_MNLI,
             hub_texts=("premise", "hypothesis")),
        Task("qqp", "QQP", ("question1", "question2"), _BINARY, ("f1", "accuracy"), "is_duplicate",
             index_column="id", skip_short_rows=True),
        Task("qnli", "QNLI", ("question", "sentence"), _ENTAILMENT),
        Task("sst2", "SST-2", ("sentence",), _BINARY),
        Task("cola", "CoLA", ("sentence",), _BINARY, ("matthews_correlation",), header=_COLA_HEADER),
        Task("stsb", "STS-B", _PAIR, None, ("pearson", "spearmanr"), "score"),
        Task("mrpc", "MRPC", ("#1 String", "#2 String"), _BINARY, ("f1", "accuracy"), "Quality", hub_texts=_PAIR),
        Task("rte", "RTE", _PAIR, _ENTAILMENT),
        Task("wnli", "WNLI", _PAIR, _BINARY),
    )
}  # fmt: skip
"""The nine tasks by name, in the order of the papers' tables."""

PROBES = {
    task.name: task
    for task in (
        Task("topic", "Topic", ("sentence",), ("files", "network", "concurrency", "learning")),
        Task("word_order", "WordOrder", ("sentence",), _BINARY, ("matthews_correlation",), header=_COLA_HEADER),
        Task("sentence_pair", "SentencePair", _PAIR, ("in_order", "swapped")),
    )
}
"""Tasks that `probes.py` makes of the embedded corpus."""

TASKS = GLUE | PROBES


def get_tasks(names: str) -> list[Task]:
    """Tasks of a comma-separated list; "all" stands for the nine of GLUE, "probes" for the offline ones.

    Raises `DataError` for an unknown name, with the nearest.
    """
    found: dict[str, Task] = {}
    for name in names.split(","):
        groups = {"all": GLUE, "probes": PROBES}
        key = name.strip().lower().replace("-", "").replace(" ", "")
        known = {task.replace("_", ""): task for task in TASKS}
        if key in groups:
            found |= groups[key]
        elif key.replace("_", "") in known:
            task = known[key.replace("_", "")]
            found[task] = TASKS[task]
        else:
            near = difflib.get_close_matches(key, TASKS, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: all, probes, {', '.join(TASKS)}"
            raise DataError(f"there is no task {name.strip()!r}; {hint}")
    return list(found.values())
