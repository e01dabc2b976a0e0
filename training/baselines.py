"""What a run has to beat: token frequencies alone, on the very positions that the model is scored on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from ..objectives import Documents
from ..objectives.sentence_pairs import SentencePairs
from .dataset import DrawCollator, EvaluationDataset
from .mixed_evaluation import MixedEvaluationDataset

_CHUNK = 1 << 22  # tokens counted at a time
_ROWS = 256


def unigram_baseline(
    documents: Documents, dataset: EvaluationDataset, rows: range | None = None
) -> dict[str, float] | None:
    """Scores of an add-one unigram model of `documents` on the tokens that `dataset` asks for.

    Of a dataset of several components, `rows` are those of one: all of one objective.

    Special tokens that the documents do not hold (ends, sentinels) are answered as a class, by their share among the
    tokens asked for; which of them it is, is given away, since their order is fixed. Tokens count by the weights that
    the objective gives them.

    Returns `loss` (nats per token), `perplexity`, `accuracy` (of always saying the most frequent token) and that
    `token`'s id; `None` for objectives that predict no tokens.
    """
    found = predicted_tokens(dataset, rows)
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


def component_baselines(dataset: MixedEvaluationDataset) -> dict[str, float]:
    """Trivial losses and accuracies of each component of a mixed run's last phase, by the names of its metrics.

    `en.mlm_loss` and `en.accuracy` are those of the token frequencies of the component's own corpus, `en.nsp_loss` is
    that of the shares of the labels. Terms of objectives that have several, unless put together from objectives of one
    each, are left out.
    """
    found: dict[str, float] = {}
    for component, rows in dataset.after(dataset.run.max_steps).shown():
        tokens = None
        for objective in getattr(component.objective, "parts", (component.objective,)):
            pair = pair_label_loss(dataset, rows) if isinstance(objective, SentencePairs) else None
            if pair is not None:
                found[f"{component.name}.{objective.name}_loss"] = pair
            elif objective.perplexity_term is not None:
                tokens = tokens or unigram_baseline(component.train, dataset, rows)
                if tokens is not None:
                    found[f"{component.name}.{objective.perplexity_term}_loss"] = tokens["loss"]
                    found[f"{component.name}.accuracy"] = tokens["accuracy"]
    return found


def predicted_tokens(dataset: EvaluationDataset, rows: range | None = None) -> tuple[np.ndarray, np.ndarray] | None:
    """Every token that the dataset's objective predicts in it (or in these rows), int64, and its weight in the loss.

    Weights are 1 / number of tokens unless the objective has others. `None` if its batches have no `label_ids`.
    """
    objective = dataset.objective
    found, weights, count = [], [], 0.0
    for batch in _batches(dataset, rows):
        if "label_ids" not in batch:
            return None
        labels = batch["label_ids"]
        weight = objective.label_weights(batch)
        real = labels >= 0
        found.append(labels[real].numpy())
        weights.append(torch.ones_like(labels[real], dtype=torch.float64) if weight is None else weight[real])
        count += float(real.sum() if weight is None else next(iter(objective.counts(batch).values())))
    return np.concatenate(found), torch.cat(weights).double().numpy() / max(count, 1)


def pair_label_loss(dataset: EvaluationDataset, rows: range | None = None) -> float | None:
    """Nats per sentence pair of answering with the shares of the labels; `None` for objectives without pairs."""
    if "pair_labels" not in dataset.objective.columns:
        return None
    counts = np.bincount(np.concatenate([batch["pair_labels"].numpy() for batch in _batches(dataset, rows)]))
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _batches(dataset: EvaluationDataset, rows: range | None) -> Iterator[dict[str, torch.Tensor]]:
    """The dataset's rows, or these of them, corrupted, some at a time."""
    collator = DrawCollator(dataset.objective, dataset.vocabulary)
    rows = range(len(dataset)) if rows is None else rows
    for start in range(0, len(rows), _ROWS):
        yield collator(dataset.__getitems__(list(rows[start : start + _ROWS])))
