"""Answers to questions from scores of windows: best spans, no answer, limits of length."""

import math

import numpy as np
import pytest
from squad_questions import paragraph

from pretrain_zoo.evaluation.squad import make_windows
from pretrain_zoo.evaluation.squad_answers import best_answers, best_spans
from pretrain_zoo.evaluation.squad_data import Question


def test_best_spans_are_those_of_all_spans():
    rng = np.random.default_rng(1)
    start, end = rng.normal(size=(2, 5, 14))
    allowed = rng.random((5, 14)) < 0.7
    scores, first, last = best_spans(start, end, allowed, 9, 4)
    for row in range(5):
        every = [
            (start[row, i] + end[row, j], i, j)
            for i in range(14)
            for j in range(i, min(i + 4, 14))
            if allowed[row, i] and allowed[row, j]
        ]
        expected = sorted(every, reverse=True)[:9]
        found = list(zip(scores[row], first[row], last[row]))
        assert [(i, j) for _, i, j in found] == [(i, j) for _, i, j in expected]
        assert np.allclose(scores[row], [score for score, _, _ in expected])


def test_best_spans_of_short_rows():
    scores, _, _ = best_spans(np.zeros((1, 3)), np.zeros((1, 3)), np.array([[False, True, False]]), 20, 30)
    assert np.isfinite(scores).sum() == 1


def make_answers(tokenizer, threshold_boost=0.0):
    text, words, starts = paragraph(80, 3)
    answer = text[starts[50] : starts[52] + len(words[52])]
    questions = [Question("a", "Who?", text, (answer,), (int(starts[50]),)), Question("b", "Who?", "the bell", (), ())]
    windows = make_windows(questions, tokenizer, max_seq_length=40, doc_stride=12, max_query_length=16)
    start, end = np.full((2, len(windows), 64), -5.0)
    width = np.arange(64) >= windows.lengths[:, None]
    start[width] = end[width] = 100.0  # padding must not count
    rows = np.arange(len(windows))
    start[rows, windows.start_positions] = 3.0
    end[rows, windows.end_positions] = 3.0
    start[rows, windows.cls] += threshold_boost
    return questions, windows, start, end


def test_answers_come_from_the_window_that_holds_them(wordpiece_tokenizer):
    questions, windows, start, end = make_answers(wordpiece_tokenizer)
    holding = windows.start_positions != windows.cls
    assert 1 <= holding[windows.question == 0].sum() < (windows.question == 0).sum()
    first, second = best_answers(start, end, windows, questions)
    assert first.text == questions[0].answers[0]
    # no answer scores −10 in the window that holds the answer, 6 in the others: the smallest counts
    assert first.score_difference == pytest.approx(-10 - 6)
    assert first.decide(0.0) == first.text and first.decide(-17) == ""
    assert second.score_difference == pytest.approx(6 + 10)
    assert second.decide(0.0) == "" and second.decide(16.0) == second.text != ""
    texts = [entry["text"] for entry in first.n_best]
    assert len(texts) == 20 and texts[0] == first.text
    total = sum(math.exp(entry["score"]) for entry in first.n_best) + math.exp(-10)
    for entry in first.n_best:
        assert entry["probability"] == pytest.approx(math.exp(entry["score"]) / total)
        assert entry["score"] == pytest.approx(entry["start_logit"] + entry["end_logit"])


def test_answers_are_limited_in_length(wordpiece_tokenizer):
    questions, windows, start, end = make_answers(wordpiece_tokenizer)
    single = {q.context[i:j] for q in questions for i, j in zip(windows.begin, windows.end) if 0 <= i < j}
    for answer in best_answers(start, end, windows, questions, max_answer_length=1, n_best_size=3):
        assert 1 <= len(answer.n_best) <= 3
        assert {entry["text"] for entry in answer.n_best} <= single


def test_scores_that_do_not_fit_are_refused(wordpiece_tokenizer):
    questions, windows, start, end = make_answers(wordpiece_tokenizer)
    with pytest.raises(ValueError, match="do not fit"):
        best_answers(start[:1], end[:1], windows, questions)
    start[0, windows.cls[0]] = np.nan
    with pytest.raises(ValueError, match="not numbers"):
        best_answers(start, end, windows, questions)
