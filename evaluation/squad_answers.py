"""From scores of tokens to answers: the best spans of all windows of a question, against no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .squad import Windows
from .squad_data import Question

_CHUNK = 256
"""Windows searched at a time."""


@dataclass(frozen=True)
class Answer:
    """What a model answers to a question.

    Attributes:
        text: the best answer that is not empty; empty only if no span of the paragraph holds any text.
        score_difference: score of no answer minus score of `text`; the larger, the less likely there is an answer.
        n_best: the best spans, best first: text, score (logits), probability among them and no answer, start_logit and
            end_logit.
    """

    text: str
    score_difference: float
    n_best: list[dict[str, Any]]

    def decide(self, threshold: float) -> str:
        """`text`, or "" where the score difference is above the threshold."""
        return "" if self.score_difference > threshold else self.text


def best_answers(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    windows: Windows,
    questions: Sequence[Question],
    *,
    n_best_size: int = 20,
    max_answer_length: int = 30,
) -> list[Answer]:
    """The answer to each question, from the scores of its windows' tokens.

    A span that stands in two windows counts once, with its better score. The score of no answer is the smallest of the
    question's windows, as in BERT's code: a window without the answer says nothing of the others.

    Args:
        start_logits, end_logits: `[windows, length]`, rows in the order of `windows`; what lies beyond a row's own
            tokens is ignored.
        windows, questions: what the scores belong to.
        n_best_size: spans to keep per question.
        max_answer_length: tokens of an answer at most.

    Raises:
        ValueError: if the scores are not those of the windows, or not numbers.
    """
    shape = (len(windows), int(windows.lengths.max()))
    if start_logits.shape != end_logits.shape or start_logits.shape[0] != shape[0] or start_logits.shape[1] < shape[1]:
        raise ValueError(f"scores of shape {start_logits.shape}, {end_logits.shape} do not fit windows of {shape}")
    candidates: list[dict[tuple[int, int], tuple[float, float, float]]] = [{} for _ in questions]
    null = np.full(len(questions), np.inf)
    for first in range(0, len(windows), _CHUNK):
        rows = slice(first, min(first + _CHUNK, len(windows)))
        width = int(windows.lengths[rows].max())
        start, end = (logits[rows, :width].astype(np.float64) for logits in (start_logits, end_logits))
        begins, ends = (windows.padded(values, rows, width) for values in (windows.begin, windows.end))
        lines = np.arange(len(start))
        silent = start[lines, windows.cls[rows]] + end[lines, windows.cls[rows]]
        scores, firsts, lasts = best_spans(start, end, begins >= 0, n_best_size, max_answer_length)
        if np.isnan(scores).any() or np.isnan(silent).any():
            raise ValueError("the model's scores are not numbers; lower the learning rate, or use bf16 instead of fp16")
        np.minimum.at(null, windows.question[rows], silent)
        for line, place in zip(*np.nonzero(np.isfinite(scores))):
            i, j = firsts[line, place], lasts[line, place]
            span = (int(begins[line, i]), int(ends[line, j]))
            found = candidates[windows.question[first + line]]
            score = float(scores[line, place])
            if span not in found or found[span][0] < score:
                found[span] = (score, float(start[line, i]), float(end[line, j]))
    return [
        _answer(item, found, float(null[i]), n_best_size) for i, (item, found) in enumerate(zip(questions, candidates))
    ]


def best_spans(
    start: np.ndarray, end: np.ndarray, allowed: np.ndarray, n_best_size: int, max_answer_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `n_best_size` best spans of each row, best first: scores, first and last tokens, each `[rows, n]`.

    Args:
        start, end: scores `[rows, length]`.
        allowed: which tokens an answer may begin and end with, `[rows, length]`.
        n_best_size, max_answer_length: spans per row, tokens per span. Places that no span fills have score −inf.
    """
    rows, length = start.shape
    start, end = np.where(allowed, start, -np.inf), np.where(allowed, end, -np.inf)
    beyond = np.full((rows, max_answer_length - 1), -np.inf)
    following = sliding_window_view(np.concatenate([end, beyond], 1), max_answer_length, axis=1)
    scores = (start[:, :, None] + following).reshape(rows, length * max_answer_length)  # span i … i + k at [i, k]
    count = min(n_best_size, scores.shape[1])
    best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable"), 1)
    first, more = np.divmod(best, max_answer_length)
    return np.take_along_axis(scores, best, 1), first, first + more


def _answer(
    question: Question, found: dict[tuple[int, int], tuple[float, float, float]], null: float, n_best_size: int
) -> Answer:
    ranked: list[dict[str, Any]] = []
    for (begin, end), (score, start_logit, end_logit) in sorted(found.items(), key=lambda item: -item[1][0]):
        text = question.context[begin:end].strip()
        if text:
            ranked.append({"text": text, "score": score, "start_logit": start_logit, "end_logit": end_logit})
        if len(ranked) == n_best_size:
            break
    if not ranked:
        return Answer("", 0.0, [])
    odds = np.exp(np.array([entry["score"] for entry in ranked] + [null]) - max(ranked[0]["score"], null))
    for entry, probability in zip(ranked, odds / odds.sum()):
        entry["probability"] = float(probability)
    return Answer(ranked[0]["text"], null - ranked[0]["score"], ranked)
