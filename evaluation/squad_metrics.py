"""Exact match and F1 of extractive answers: SQuAD 1.1, SQuAD 2.0 and KorQuAD 1.0.

Rajpurkar et al. 2016, "SQuAD" (arXiv 1606.05250); Rajpurkar, Jia and Liang 2018, "Know what you don't know" (arXiv
1806.03822), with their evaluation scripts; Lim, Kim and Lee 2019, "KorQuAD 1.0" (arXiv 1909.07005), whose F1 counts
characters. Scores are in per cent, as in the papers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUOTES_TO_SPACES = str.maketrans(dict.fromkeys("'\"《》<>〈〉()‘’", " "))


def normalize_answer(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no English articles, single spaces.

    >>> normalize_answer("The  U.S., a  nation")
    'us nation'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def normalize_korean_answer(text: str) -> str:
    """KorQuAD's normal form: quotes and brackets are spaces, lower case, no ASCII punctuation, single spaces.

    >>> normalize_korean_answer("《바다》 (1998)")
    '바다 1998'
    """
    return " ".join(text.translate(_QUOTES_TO_SPACES).lower().translate(_NO_PUNCTUATION).split())


@dataclass(frozen=True)
class AnswerMetric:
    """How two answers are compared.

    Attributes:
        normalize: the normal form, in which answers must be equal for an exact match.
        units: what F1 counts in a normal form: words, or characters without spaces.
    """

    normalize: Callable[[str], str]
    units: Callable[[str], Sequence[str]]

    def exact_match(self, prediction: str, gold: str) -> float:
        """1 if the normal forms are equal, else 0."""
        return float(self.normalize(prediction) == self.normalize(gold))

    def f1(self, prediction: str, gold: str) -> float:
        """Harmonic mean of precision and recall over units, each as often as it occurs.

        Where one of the two has no units (no answer, or "the"), 1 if both have none, else 0, as in SQuAD 2.0's script.
        """
        predicted, expected = self.units(self.normalize(prediction)), self.units(self.normalize(gold))
        if not predicted or not expected:
            return float(len(predicted) == len(expected))
        common = (Counter(predicted) & Counter(expected)).total()
        return 2 * common / (len(predicted) + len(expected))

    def scores(self, prediction: str, golds: Sequence[str]) -> tuple[float, float]:
        """Exact match and F1, each the best over the gold answers; none means that there is no answer.

        Gold answers whose normal form is empty are left out, as in SQuAD 2.0's script.
        """
        golds = [gold for gold in golds if self.normalize(gold)] or [""]
        return max(self.exact_match(prediction, gold) for gold in golds), max(self.f1(prediction, g) for g in golds)


METRICS = {
    "squad": AnswerMetric(normalize_answer, str.split),
    "korquad": AnswerMetric(normalize_korean_answer, lambda text: text.replace(" ", "")),
}
"""By name; "squad" is for 1.1 and 2.0 alike."""


def squad_scores(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], metric: str = "squad"
) -> dict[str, float]:
    """Official scores of a data set, in per cent, under the names of SQuAD 2.0's script.

    Args:
        predictions: question id → answer; "" for none.
        references: question id → gold answers; none for a question that cannot be answered.
        metric: a name in `METRICS`.

    Returns: `exact`, `f1` and `total`; if some questions cannot be answered, also `HasAns_…` and `NoAns_…`.

    Raises:
        ValueError: without questions, or where predictions for some of them are missing.
    """
    if not references:
        raise ValueError("there are no questions to score")
    missing = [name for name in references if name not in predictions]
    if missing:
        raise ValueError(f"{len(missing)} of {len(references)} questions have no prediction, the first is {missing[0]}")
    scored = np.array([METRICS[metric].scores(predictions[name], golds) for name, golds in references.items()])
    answerable = np.array([bool(golds) for golds in references.values()])
    parts = {"": np.ones_like(answerable)}
    if not answerable.all():
        parts |= {"HasAns_": answerable, "NoAns_": ~answerable}
    report: dict[str, float] = {}
    for prefix, rows in parts.items():
        if rows.any():
            exact, f1 = 100 * scored[rows].mean(0)
            report |= {f"{prefix}exact": float(exact), f"{prefix}f1": float(f1), f"{prefix}total": int(rows.sum())}
    return report


def best_thresholds(
    answers: Mapping[str, str],
    score_differences: Mapping[str, float],
    references: Mapping[str, Sequence[str]],
    metric: str = "squad",
) -> dict[str, float]:
    """The thresholds on "no answer" that give the best exact match and the best F1, and these scores in per cent.

    A question is answered if its score difference is at most the threshold. Unlike the official script, only thresholds
    between distinct differences are tried, so that the scores are reached even where differences are equal, and the
    threshold at which no question is answered lies below the smallest difference instead of at 0.

    Args:
        answers: question id → best answer that is not empty.
        score_differences: question id → score of no answer minus score of that answer.
        references, metric: as in `squad_scores`.
    """
    names = list(references)
    differences = np.array([score_differences[name] for name in names])
    order = np.argsort(differences, kind="stable")
    differences = differences[order]
    answered = np.array([METRICS[metric].scores(answers[name], references[name]) for name in names])[order]
    silent = np.array([METRICS[metric].scores("", references[name]) for name in names])[order]
    totals = silent.sum(0) + np.concatenate([np.zeros((1, 2)), np.cumsum(answered - silent, axis=0)])
    # totals[i]: the i smallest differences are answered; a tie is answered as a whole
    allowed = np.concatenate([[True], differences[1:] > differences[:-1], [True]])
    thresholds = np.concatenate([[np.nextafter(differences[0], -np.inf)], differences])
    report: dict[str, float] = {}
    for column, name in enumerate(("exact", "f1")):
        best = int(np.argmax(np.where(allowed, totals[:, column], -1)))
        report[f"best_{name}"] = float(100 * totals[best, column] / len(names))
        report[f"best_{name}_thresh"] = float(thresholds[best])
    return report
