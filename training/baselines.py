"""What a run has to beat: token frequencies alone, on the very positions that the model is scored on."""

from __future__ import annotations

import math

import numpy as np

from ..objectives import Documents
from .dataset import DrawCollator, EvaluationDataset

_CHUNK = 1 << 22  # tokens counted at a time
_ROWS = 256


def unigram_baseline(documents: Documents, dataset: EvaluationDataset) -> dict[str, float] | None:
    """Scores of an add-one unigram model of `documents` on the tokens that `dataset` asks for.

    Returns `loss` (nats per token), `perplexity`, `accuracy` (of always saying the most frequent token) and that
    `token`'s id; `None` for objectives that predict no tokens.
    """
    labels = predicted_tokens(dataset)
    if labels is None or not len(labels):
        return None
    vocabulary = dataset.vocabulary
    counts = np.ones(vocabulary.size, np.int64)
    for start in range(0, len(documents.tokens), _CHUNK):
        tokens = documents.tokens[start : start + _CHUNK]
        counts += np.bincount(tokens[tokens >= 0], minlength=vocabulary.size)
    separators = [i for i in (vocabulary.eos_id, vocabulary.sep_id, vocabulary.bos_id) if i is not None][:1]
    if np.isin(separators, labels).any():  # document ends are predicted too
        counts[separators] += len(documents)
    loss = float(np.mean(np.log(counts.sum()) - np.log(counts[labels])))
    token = int(counts.argmax())
    accuracy = float(np.mean(labels == token))
    return {"loss": loss, "perplexity": math.exp(loss), "accuracy": accuracy, "token": token}


def predicted_tokens(dataset: EvaluationDataset) -> np.ndarray | None:
    """int64: every token that the dataset's objective predicts in it; `None` if its batches have no `label_ids`."""
    collator = DrawCollator(dataset.objective, dataset.vocabulary)
    found = []
    for start in range(0, len(dataset), _ROWS):
        batch = collator(dataset.__getitems__(list(range(start, min(start + _ROWS, len(dataset))))))
        if "label_ids" not in batch:
            return None
        labels = batch["label_ids"].numpy()
        found.append(labels[labels >= 0])
    return np.concatenate(found)


def pair_label_loss(dataset: EvaluationDataset) -> float | None:
    """Nats per sentence pair of answering with the shares of the labels; `None` for objectives without pairs."""
    collator = DrawCollator(dataset.objective, dataset.vocabulary)
    if "pair_labels" not in dataset.objective.columns:
        return None
    rows = [list(range(start, min(start + _ROWS, len(dataset)))) for start in range(0, len(dataset), _ROWS)]
    counts = np.bincount(np.concatenate([collator(dataset.__getitems__(r))["pair_labels"].numpy() for r in rows]))
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
