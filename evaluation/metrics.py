"""The official metrics of GLUE, over scikit-learn and scipy, defined where those are not.

`glue_metric.py` beside this file offers them as an `evaluate` module, which loads by path, with no network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Share of predictions that are right."""
    return float((predictions == references).mean())


def f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """F1 of label 1 for labels 0 and 1, the mean over labels (macro) for more; 0 where nothing was found."""
    from sklearn.metrics import f1_score

    labels = np.union1d(predictions, references)
    average = "binary" if np.isin(labels, (0, 1)).all() else "macro"
    return float(f1_score(references, predictions, average=average, zero_division=0.0))


def matthews_correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """Matthews' correlation; 0 where predictions or references are all the same."""
    from sklearn.metrics import matthews_corrcoef

    if len(np.unique(predictions)) < 2 or len(np.unique(references)) < 2:
        return 0.0
    return float(matthews_corrcoef(references, predictions))


def pearson(predictions: np.ndarray, references: np.ndarray) -> float:
    """Pearson's correlation; 0 where predictions or references are all the same."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, references)


def spearmanr(predictions: np.ndarray, references: np.ndarray) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where predictions or references are all the same."""
    from scipy.stats import spearmanr as rank_correlation

    return _correlation(rank_correlation, predictions, references)


def _correlation(function: Callable, predictions: np.ndarray, references: np.ndarray) -> float:
    predictions, references = predictions.astype(np.float64), references.astype(np.float64)
    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0  # scipy returns NaN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are all but the same
        value = float(function(predictions, references).statistic)
    return value if np.isfinite(value) else 0.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    function.__name__: function for function in (accuracy, f1, matthews_correlation, pearson, spearmanr)
}
"""Metrics by the names that `evaluate`'s GLUE metric returns them under."""
REGRESSION_METRICS = ("pearson", "spearmanr")


def compute_metrics(names: Sequence[str], predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """The metrics `names` of predicted against true labels (or numbers), each in [−1, 1], and "score", their mean.

    Raises `ValueError` for an unknown metric, no examples, arrays of unlike shape, or values that are not finite.
    """
    found, true = np.asarray(predictions), np.asarray(references)
    if found.shape != true.shape or found.ndim != 1:
        raise ValueError(f"predictions {found.shape} and references {true.shape} must be two lists of one length")
    if not len(found):
        raise ValueError("there are no predictions to score")
    if not (np.isfinite(found).all() and np.isfinite(true).all()):
        raise ValueError("predictions or references hold NaN or infinite values")
    for name in names:
        if name not in METRICS:
            raise ValueError(f"there is no metric {name!r}; known: {', '.join(METRICS)}")
    values = {name: METRICS[name](found, true) for name in names}
    return values | {"score": float(np.mean(list(values.values())))}
