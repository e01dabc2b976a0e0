"""GLUE's metrics against computations of their own, where they are undefined, and as a module of `evaluate`."""

from pathlib import Path

import numpy as np
import pytest

import pretrain_zoo.evaluation.metrics as metrics_module
from pretrain_zoo.evaluation.metrics import compute_metrics

rng = np.random.default_rng(0)
LABELS = rng.integers(0, 2, 60)
PREDICTIONS = np.where(rng.random(60) < 0.7, LABELS, 1 - LABELS)
NUMBERS = np.round(rng.normal(3, 1, 50), 1)  # with ties
GUESSES = np.round(NUMBERS + rng.normal(0, 1, 50), 1)


def counts(predictions, references):
    pairs = list(zip(predictions, references, strict=True))
    return [sum(pair == wanted for pair in pairs) for wanted in ((1, 1), (1, 0), (0, 1), (0, 0))]


def ranks(values):
    """Mean rank of equal values, by counting."""
    return np.array([np.mean([np.sum(values < v) + 1 + i for i in range(np.sum(values == v))]) for v in values])


def correlation(x, y):
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def test_metrics_equal_their_definitions():
    hits, false, missed, rest = counts(PREDICTIONS, LABELS)
    product = (hits + false) * (hits + missed) * (rest + false) * (rest + missed)
    matthews = (hits * rest - false * missed) / product**0.5
    found = compute_metrics(("accuracy", "f1", "matthews_correlation"), PREDICTIONS, LABELS)
    expected = {"accuracy": (hits + rest) / 60, "f1": 2 * hits / (2 * hits + false + missed)}
    expected |= {"matthews_correlation": matthews}
    assert found == pytest.approx(expected | {"score": np.mean(list(expected.values()))})
    found = compute_metrics(("pearson", "spearmanr"), GUESSES, NUMBERS)
    assert found["pearson"] == pytest.approx(correlation(GUESSES, NUMBERS))
    assert found["spearmanr"] == pytest.approx(correlation(ranks(GUESSES), ranks(NUMBERS)))


def test_f1_of_three_labels_is_their_mean():
    references, predictions = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
    # label 0: 1 of 2 found, 1 of 2 right: 1/2; label 1: 2 of 2, 2 of 3: 4/5; label 2: 1 of 2, 1 of 1: 2/3
    assert compute_metrics(("f1",), predictions, references)["f1"] == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)


@pytest.mark.parametrize("name", ["matthews_correlation", "pearson", "spearmanr"])
@pytest.mark.parametrize("predictions, references", [([1, 1, 1], [0, 1, 0]), ([0, 1, 0], [1, 1, 1]), ([1], [0])])
def test_correlations_with_a_constant_are_zero(name, predictions, references):
    assert compute_metrics((name,), predictions, references) == {name: 0.0, "score": 0.0}


def test_correlation_survives_values_that_are_all_but_constant():
    nearly = np.full(10, 1.0)
    nearly[0] += 1e-16
    assert compute_metrics(("pearson", "spearmanr"), nearly, np.arange(10.0))["pearson"] == 0.0


def test_f1_without_any_positive_is_zero():
    assert compute_metrics(("f1",), [0, 0], [0, 0])["f1"] == 0.0
    assert compute_metrics(("f1",), [0, 0], [1, 0])["f1"] == 0.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((("accuracy",), [], []), "no predictions"),
        ((("accuracy",), [1, 0], [1]), "one length"),
        ((("pearson",), [np.nan, 1.0], [1.0, 2.0]), "NaN"),
        ((("bleu",), [1], [1]), "known: accuracy"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics(*arguments)


def test_module_of_evaluate_gives_the_same(tmp_path, monkeypatch):
    import evaluate

    path = str(Path(metrics_module.__file__).with_name("glue_metric.py"))
    load = {"keep_in_memory": True, "cache_dir": str(tmp_path)}
    mrpc = evaluate.load(path, "mrpc", **load)
    assert mrpc.compute(predictions=PREDICTIONS, references=LABELS) == pytest.approx(
        compute_metrics(("f1", "accuracy"), PREDICTIONS, LABELS)
    )
    stsb = evaluate.load(path, "stsb", **load)
    expected = compute_metrics(("pearson", "spearmanr"), GUESSES, NUMBERS)
    assert stsb.compute(predictions=GUESSES, references=NUMBERS) == pytest.approx(expected)
    listed = evaluate.load(path, "accuracy,matthews_correlation", **load)
    assert set(listed.compute(predictions=[1, 0], references=[1, 1])) == {"accuracy", "matthews_correlation", "score"}
    with pytest.raises(ValueError, match="neither a task"):
        evaluate.load(path, "xyz", **load)
