"""What a run has to beat: token frequencies alone, on the very positions that the model is scored on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from ..objectives import Documents
from .dataset import DrawCollator, EvaluationDataset

_CHUNK = 1 << 22  # tokens counted at a time
_ROWS = 256


def unigram_baseline(documents: Documents, dataset: EvaluationDataset) -> dict[str, float] | None:
    """Scores of an add-one unigram model of `documents` on the tokens that `dataset` asks for.

    Special tokens that the documents do not hold (ends, sentinels) are answered as a class, by their share among the
    tokens asked for; which of them it is, is given away, since their order is fixed. Tokens count by the weights that
    the objective gives them.

    Returns `loss` (nats per token), `perplexity`, `accuracy` (of always saying the most frequent token) and that
    `token`'s id; `None` for objectives that predict no tokens.
    """
    found = predicted_tokens(dataset)
    if found is None or not len(found[0]):
        return None
    labels, weights = found
    vocabulary = dataset.vocabulary
    counts = np.zeros(vocabulary.size, np.int64)
    for start in range(0, len(documents.tokens), _CHUNK):
        tokens = documents.tokens[start : start + _CHUNK]
        counts += np.bincount(tokens[tokens >= 0], minlength=vocabulary.size)
    special = np.zeros(vocabulary.size, bool)
    special[list(vocabulary.special.values())] = True
    added = (special & (counts == 0))[labels]
    share = float(added.mean())
    counts += 1
    likely = counts / counts.sum() * (1 - share)
    likely[special & (counts == 1)] = share
    loss = float(-(np.log(likely[labels]) * weights).sum())
    asked = np.where(special & (counts == 1), np.bincount(labels, minlength=vocabulary.size) / len(labels), likely)
    token = int(asked.argmax())
    accuracy = float(np.mean(labels == token))
    return {"loss": loss, "perplexity": math.exp(loss), "accuracy": accuracy, "token": token}


def predicted_tokens(dataset: EvaluationDataset) -> tuple[np.ndarray, np.ndarray] | None:
    """Every token that the dataset's objective predicts in it, int64, and its weight in the loss.

    Weights are 1 / number of tokens unless the objective has others. `None` if its batches have no `label_ids`.
    """
    objective = dataset.objective
    found, weights, count = [], [], 0.0
    for batch in _batches(dataset):
        if "label_ids" not in batch:
            return None
        labels = batch["label_ids"]
        weight = objective.label_weights(batch)
        real = labels >= 0
        found.append(labels[real].numpy())
        weights.append(torch.ones_like(labels[real], dtype=torch.float64) if weight is None else weight[real])
        count += float(real.sum() if weight is None else objective.counts(batch)[objective.name])
    return np.concatenate(found), torch.cat(weights).double().numpy() / max(count, 1)


def pair_label_loss(dataset: EvaluationDataset) -> float | None:
    """Nats per sentence pair of answering with the shares of the labels; `None` for objectives without pairs."""
    if "pair_labels" not in dataset.objective.columns:
        return None
    counts = np.bincount(np.concatenate([batch["pair_labels"].numpy() for batch in _batches(dataset)]))
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _batches(dataset: EvaluationDataset) -> Iterator[dict[str, torch.Tensor]]:
    """The whole dataset, corrupted, some rows at a time."""
    collator = DrawCollator(dataset.objective, dataset.vocabulary)
    for start in range(0, len(dataset), _ROWS):
        yield collator(dataset.__getitems__(list(range(start, min(start + _ROWS, len(dataset))))))
