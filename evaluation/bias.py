"""Word and sentence embedding association tests (WEAT, SEAT): which of two concepts lies nearer to which attributes.

Caliskan, Bryson and Narayanan 2017, "Semantics derived automatically from language corpora contain human-like biases"
(arXiv 1608.07187); May et al. 2019, "On measuring social biases in sentence encoders" (arXiv 1903.10561) and the tests
that come with it. For targets X and Y and attributes A and B, all as vectors,

    s(w) = mean over a of cos(w, a) − mean over b of cos(w, b)
    effect size = (mean over X of s − mean over Y of s) / standard deviation of s over X and Y together
    p-value = share of the partitions of X and Y into sets of these sizes whose sum of s over the first set is at least
              that of X

The standard deviation is the sample's (n − 1), as in May et al.'s code; Caliskan et al. do not say. Partitions with the
same sum count, as in that code, so that the test is conservative.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice
from pathlib import Path
from typing import Any

import numpy as np

_KEYS = ("targ1", "targ2", "attr1", "attr2")
_CHUNK = 20_000
"""Partitions summed up at a time."""


@dataclass(frozen=True)
class AssociationTest:
    """Texts of a test; `categories` names the four sets in the order targets, targets, attributes, attributes."""

    name: str
    categories: tuple[str, str, str, str]
    texts: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def read_test(path: str | Path) -> AssociationTest:
    """A test in the layout of sent-bias: one JSON object with targ1, targ2, attr1 and attr2, each with `category` and
    `examples`; the files end in .jsonl or .json.

    Raises `ValueError`, naming the file, if it is damaged, a set is missing, or a set holds too little.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON object ({error})") from error
    categories, texts = [], []
    for key in _KEYS:
        part: Any = content.get(key) if isinstance(content, dict) else None
        examples = part.get("examples") if isinstance(part, dict) else None
        if not isinstance(examples, list) or not all(isinstance(text, str) and text.strip() for text in examples):
            raise ValueError(f"{path}: {key!r} must hold a category and a list of examples that are not empty")
        if not examples or (key.startswith("targ") and len(examples) < 2):
            raise ValueError(f"{path}: {key!r} holds {len(examples)} examples; a target needs two, an attribute one")
        categories.append(str(part.get("category", key)))
        texts.append(tuple(examples))
    return AssociationTest(path.stem, tuple(categories), tuple(texts))  # type: ignore[arg-type]


def find_tests(paths: Sequence[str | Path]) -> list[Path]:
    """The test files that paths and folders stand for, sorted within a folder. Raises `ValueError` for none."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".json"))
            if not inside:
                raise ValueError(f"the folder {path} holds no .jsonl or .json file")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"there is no file or folder {path}")
    if not found:
        raise ValueError("no test was named")
    return found


def associations(targets: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """s of each target: mean cosine with the rows of `a` minus mean cosine with those of `b`.

    Raises `ValueError` for vectors without direction.
    """
    return _unit(targets) @ (_unit(a).mean(0) - _unit(b).mean(0))


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise ValueError("a text's vector is zero, NaN or infinite and has no direction; is the checkpoint sound?")
    return vectors / norms


def effect_size(s_x: np.ndarray, s_y: np.ndarray) -> float:
    """Effect size from the associations of X and of Y. Raises `ValueError` where all are equal."""
    both = np.concatenate([s_x, s_y])
    deviation = both.std(ddof=1)
    if deviation <= 1e-12:
        raise ValueError("all targets are associated alike: the model gives them the same vector")
    return float((s_x.mean() - s_y.mean()) / deviation)


def permutation_p_value(
    s_x: np.ndarray, s_y: np.ndarray, n_samples: int = 100_000, seed: int = 0
) -> tuple[float, bool]:
    """One-sided p-value of the permutation test, and whether all partitions were counted.

    All are, if there are at most `n_samples`. Otherwise `n_samples − 1` random ones are, and the observed one with
    them, so that the value is never 0.

    Raises `ValueError` for `n_samples` below 1.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, not {n_samples}")
    both, size = np.concatenate([s_x, s_y]), len(s_x)
    observed = s_x.sum() - 1e-12 * np.abs(both).sum()  # equal sums differ by rounding
    total = math.comb(len(both), size)
    if total <= n_samples:
        # the smaller of the two sets decides the partition
        smaller, threshold = (size, observed) if size <= len(s_y) else (len(s_y), both.sum() - observed)
        flat = chain.from_iterable(combinations(range(len(both)), smaller))
        count = 0
        while len(chosen := np.fromiter(islice(flat, _CHUNK * smaller), np.int64)):
            sums = both[chosen.reshape(-1, smaller)].sum(1)
            count += int((sums >= threshold if size <= len(s_y) else sums <= threshold).sum())
        return count / total, True
    rng = np.random.default_rng(seed)
    count, left = 1, n_samples - 1
    chunk = max(1, min(_CHUNK, 4_000_000 // len(both)))
    while left > 0:
        drawn = rng.random((min(chunk, left), len(both)), np.float32)
        chosen = np.argpartition(drawn, size - 1, axis=1)[:, :size]
        count += int((both[chosen].sum(1) >= observed).sum())
        left -= len(drawn)
    return count / n_samples, False


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for the number of tests, as May et al. do (Holm 1979): the i-th smallest of n times n − i + 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(raised, 1.0)
    return corrected.tolist()
