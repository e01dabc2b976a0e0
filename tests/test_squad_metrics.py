"""The official metrics of question answering, and KorQuAD's, against hand-worked cases."""

import numpy as np
import pytest

from pretrain_zoo.evaluation.squad_metrics import (
    METRICS,
    best_thresholds,
    normalize_answer,
    normalize_korean_answer,
    squad_scores,
)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The U.S. Army", "us army"),
        ("an  Apple\tand a\u00a0pear", "apple and pear"),
        ("Theatre, the theatre", "theatre theatre"),  # only whole words are articles
        ("a-b", "ab"),  # punctuation goes first, so this is no article
        ("«Ça» 3,000 €", "«ça» 3000 €"),  # ASCII punctuation only
        ("the", ""),
    ],
)
def test_normal_form(text, expected):
    assert normalize_answer(text) == expected


def test_korean_normal_form():
    assert normalize_korean_answer("《노인과 바다》(1952), A") == "노인과 바다 1952 a"


@pytest.mark.parametrize(
    "prediction, gold, exact, f1",
    [
        ("the Broncos", "Broncos", 1, 1),
        ("Denver Broncos", "Broncos", 0, 2 / 3),  # precision 1/2, recall 1
        ("red red blue", "red blue blue", 0, 2 / 3),  # two of three in common, each as often as it occurs
        ("", "Broncos", 0, 0),
        ("", "", 1, 1),
        ("the", "", 1, 1),
    ],
)
def test_exact_match_and_f1(prediction, gold, exact, f1):
    metric = METRICS["squad"]
    assert metric.exact_match(prediction, gold) == exact
    assert metric.f1(prediction, gold) == pytest.approx(f1)


def test_korquad_counts_characters():
    # ㄱ: 1989년 against 1989년에 → five common of 5 and 6 characters
    assert METRICS["korquad"].f1("1989년", "1989 년에") == pytest.approx(2 * 5 / 11)
    assert METRICS["squad"].f1("1989년", "1989 년에") == 0


def test_scores_take_the_best_gold_and_split_by_answerability():
    references = {"a": ["the red house", "house"], "b": [], "c": ["x y"], "d": []}
    predictions = {"a": "House", "b": "", "c": "x", "d": "something"}
    report = squad_scores(predictions, references)
    assert report["exact"] == pytest.approx(50) and report["total"] == 4
    assert report["f1"] == pytest.approx(100 * (1 + 1 + 2 / 3 + 0) / 4)
    assert (report["HasAns_exact"], report["HasAns_total"]) == (50, 2)
    assert report["HasAns_f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert (report["NoAns_exact"], report["NoAns_f1"], report["NoAns_total"]) == (50, 50, 2)
    assert set(squad_scores({"a": "house"}, {"a": ["house"]})) == {"exact", "f1", "total"}


def test_scores_refuse_missing_predictions():
    with pytest.raises(ValueError, match="1 of 2 questions have no prediction, the first is b"):
        squad_scores({"a": ""}, {"a": [], "b": []})
    with pytest.raises(ValueError, match="no questions"):
        squad_scores({}, {})


def test_best_threshold_is_the_best_of_all_decisions():
    """Against trying each threshold, ties among the differences included."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        names = [str(i) for i in range(12)]
        references = {name: [["x"], ["x y"], []][rng.integers(3)] for name in names}
        answers = {name: ["x", "y", "x y"][rng.integers(3)] for name in names}
        differences = {name: float(rng.integers(-3, 4)) for name in names}
        found = best_thresholds(answers, differences, references)

        def score(threshold, key, answers=answers, differences=differences, references=references):
            decided = {n: "" if differences[n] > threshold else answers[n] for n in answers}
            return squad_scores(decided, references)[key]

        for key in ("exact", "f1"):
            best = max(score(threshold, key) for threshold in [-4, *range(-3, 4)])
            assert found[f"best_{key}"] == pytest.approx(best)
            assert score(found[f"best_{key}_thresh"], key) == pytest.approx(best)


def test_evaluate_loads_the_metric_by_path(tmp_path, monkeypatch):
    import evaluate

    import pretrain_zoo.evaluation.squad_metric as module

    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    metric = evaluate.load(module.__file__, cache_dir=str(tmp_path))
    result = metric.compute(
        predictions=[{"id": "1", "prediction_text": "Denver Broncos"}],
        references=[{"id": "1", "answers": {"text": ["The Broncos"], "answer_start": [0]}}],
    )
    assert result["exact"] == 0 and result["f1"] == pytest.approx(100 * 2 / 3)
