"""Tasks as text (T5): a prefix says which task it is, and the answer is written out.

    cola sentence: The cat sat on mat.                                →  unacceptable
    stsb sentence1: A cat sits. sentence2: A cat is sitting.          →  4.8
    mnli hypothesis: A cat sits. premise: A cat is on the mat.        →  neutral
    translate English to German: The cat sat.                         →  Die Katze saß.

Raffel et al. 2019, "Exploring the limits of transfer learning with a unified text-to-text transformer", arXiv
1910.10683, sections 2.4 and 3.5.2, appendix D, and the released preprocessors (`glue`, `stsb`, `translate`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .chrf import chrf
from .glue_tasks import Task
from .metrics import compute_metrics
from .task_data import Examples

LIMIT = 2**19
"""Artificial limit of a task's size in mixing: the paper's best."""


@dataclass(frozen=True)
class Format:
    """How a GLUE task is written as text.

    Attributes:
        features: name of each text in the input, and which of the task's texts it is.
        labels: a word for each label id; `None` for a number from 0 to 5, written to the nearest fifth.
    """

    features: tuple[tuple[str, int], ...]
    labels: tuple[str, ...] | None


_ONE, _TWO = (("sentence", 0),), (("sentence1", 0), ("sentence2", 1))
_ENTAILMENT = ("entailment", "not_entailment")
FORMATS = {
    "cola": Format(_ONE, ("unacceptable", "acceptable")),
    "sst2": Format(_ONE, ("negative", "positive")),
    "mrpc": Format(_TWO, ("not_equivalent", "equivalent")),
    "qqp": Format((("question1", 0), ("question2", 1)), ("not_duplicate", "duplicate")),
    "stsb": Format(_TWO, None),
    "mnli": Format((("hypothesis", 1), ("premise", 0)), ("entailment", "neutral", "contradiction")),
    "qnli": Format((("question", 0), ("sentence", 1)), _ENTAILMENT),
    "rte": Format(_TWO, _ENTAILMENT),
}
"""T5's words for the tasks of GLUE. WNLI is not among them: T5 makes another task of it."""


def write_input(name: str, texts: Sequence[str]) -> str:
    """The input of one example of a GLUE task, its texts in the order of `Task.texts`.

    >>> write_input("mnli", ["A cat is on the mat.", "A cat sits."])
    'mnli hypothesis: A cat sits. premise: A cat is on the mat.'
    """
    return " ".join([name, *(f"{feature}: {texts[place]}" for feature, place in FORMATS[name].features)])


def write_target(name: str, label: float) -> str:
    """The answer of one example: the label's word, or the number to the nearest fifth.

    >>> write_target("cola", 1), write_target("stsb", 3.75)
    ('acceptable', '3.8')
    """
    labels = FORMATS[name].labels
    return f"{np.rint(label * 5) / 5:.1f}" if labels is None else labels[int(label)]


def read_target(name: str, text: str) -> float | None:
    """The label id, or number, that an answer says; `None` for one that is no answer to the task.

    White space does not count, since some tokenizers put it around punctuation.

    >>> read_target("cola", "acceptable"), read_target("cola", "entailment"), read_target("stsb", "3. 8")
    (1, None, 3.8)
    """
    labels, text = FORMATS[name].labels, "".join(text.split())
    if labels is not None:
        return labels.index(text) if text in labels else None
    number = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else -1.0
    return number if 0 <= number <= 5 else None


def score_answers(task: Task, answers: Sequence[str], labels: np.ndarray) -> dict[str, float]:
    """The task's metrics and their mean, "score", over written answers, and "invalid", the share that are no answers.

    Those count as wrong: as another label than the right one, or, in a regression, as −1 (the released code's choice).
    """
    found = [read_target(task.name, answer) for answer in answers]
    labels = np.asarray(labels)
    wrong = (labels + 1) % task.num_labels if task.labels is not None else np.full(len(labels), -1.0)
    read = np.array([other if value is None else value for value, other in zip(found, wrong, strict=True)])
    metrics = compute_metrics(task.metrics, read.astype(labels.dtype), labels)
    return metrics | {"invalid": sum(value is None for value in found) / len(found)}


def score_translations(references: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """chrF of translations, as "score" too, and "invalid", the share that are empty."""
    value = chrf(answers, references)
    return {"chrf": value, "score": value, "invalid": sum(not a.strip() for a in answers) / len(answers)}


@dataclass(frozen=True)
class TextTask:
    """A task written out.

    Attributes:
        name: what it is called.
        inputs, targets: texts by split, "train" and "validation".
        score: metrics of answers to the validation inputs.
    """

    name: str
    inputs: Mapping[str, list[str]]
    targets: Mapping[str, list[str]]
    score: Callable[[Sequence[str]], dict[str, float]]


def glue_text_task(task: Task, splits: Mapping[str, Examples]) -> TextTask:
    """A task of GLUE, from its splits as `task_data.load_task` gives them. Raises `ValueError` for WNLI and probes."""
    if task.name not in FORMATS:
        raise ValueError(f"{task.title} is not written as text; known: {', '.join(FORMATS)}")
    inputs, targets = {}, {}
    for split in ("train", "validation"):
        examples = splits[split]
        assert examples.labels is not None
        inputs[split] = [write_input(task.name, texts) for texts in zip(*examples.texts, strict=True)]
        targets[split] = [write_target(task.name, label) for label in examples.labels.tolist()]
    labels = splits["validation"].labels
    assert labels is not None
    return TextTask(task.name, inputs, targets, partial(score_answers, task, labels=labels))


def translation_task(languages: tuple[str, str], texts: Mapping[str, tuple[list[str], list[str]]]) -> TextTask:
    """Translation between two languages, by their English names, from parallel texts by split."""
    source, target = languages
    inputs = {split: [f"translate {source} to {target}: {text}" for text in pair[0]] for split, pair in texts.items()}
    targets = {split: list(pair[1]) for split, pair in texts.items()}
    score = partial(score_translations, targets["validation"])
    return TextTask(f"{source} to {target}", inputs, targets, score)


def mixing_rates(sizes: Sequence[int], limit: int = LIMIT, temperature: float = 1.0) -> np.ndarray:
    """Share of each task in the examples of a run, float64, in proportion to min(size, limit)^(1 / temperature).

    A temperature of 1 is examples-proportional mixing; the higher it is, the more even the shares. The paper's
    temperature of 2 goes with a limit of 2^21. Raises `ValueError` for sizes, a limit or a temperature out of range.

    >>> mixing_rates([100, 400, 10_000], limit=500).round(2).tolist()
    [0.1, 0.4, 0.5]
    """
    if min(sizes, default=0) < 1 or limit < 1:
        raise ValueError(f"sizes {list(sizes)} and limit {limit} must be 1 or more")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    weights = np.minimum(np.asarray(sizes, np.float64), limit) ** (1 / temperature)
    return weights / weights.sum()


class MixedTasks(Dataset):
    """The examples of a run in their order: each is of a task drawn by its rate, of which each epoch is shuffled anew.

    A longer run begins with the examples of a shorter one.

    Args:
        tasks: encoded examples, a sequence for each task.
        rates: share of each task.
        draws: examples in all, steps × global batch.
        seed: of the order.
    """

    def __init__(self, tasks: Sequence[Sequence[Any]], rates: np.ndarray, draws: int, seed: int):
        self.tasks = tasks
        edges = np.cumsum(rates)[:-1]
        self.task = np.searchsorted(edges, np.random.default_rng([seed, 0]).random(draws), "right").astype(np.int16)
        self.example = np.empty(draws, np.int64)
        for number, examples in enumerate(tasks, 1):
            places = np.flatnonzero(self.task == number - 1)
            for epoch, start in enumerate(range(0, len(places), len(examples))):
                now = places[start : start + len(examples)]
                order = np.random.default_rng([seed, number, epoch]).permutation(len(examples))
                self.example[now] = order[: len(now)]

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, index: int) -> Any:
        return self.tasks[self.task[index]][self.example[index]]
