"""A stream of distinct ids; rows, batches and a small XLNet of permutation LM; the paper's rule of who sees whom."""

import numpy as np
import pytest
import torch

from pretrain_zoo.objectives import Draws
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.objectives.documents import from_lists


def make_stream(vocabulary):
    """A corpus of distinct ordinary ids in documents of three sentences of 20 tokens."""
    ids = vocabulary.random_pool
    sentence = lambda n: ids[(np.arange(20) + 20 * n) % len(ids)].tolist()  # noqa: E731
    return from_lists([[sentence(3 * d + s) for s in range(3)] for d in range(80)])


def rows_of(objective, stream, vocabulary, length=64, batch=4, epoch=0):
    plan = objective.plan(stream, vocabulary, length=length, seed=5, epoch=epoch, global_batch=batch)
    return plan, plan.rows(np.arange(len(plan)))


def corrupted(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


def visible_by_hand(ranks, targets, parts):
    """The rule of the paper's code, pair by pair; true where i may attend j."""
    length = len(ranks)
    allowed = np.zeros((length, length), bool)
    for i in range(length):
        for j in range(length):
            if parts[i] != parts[j]:
                allowed[i, j] = parts[i] > parts[j]
                continue
            own = ranks[i] if targets[i] else ranks[i] + 1
            functional_or_target = ranks[j] >= 0
            allowed[i, j] = not (functional_or_target and own <= ranks[j])
    return allowed


def tiny_model(objective, vocabulary, layers=2):
    transformers = pytest.importorskip("transformers")
    from pretrain_zoo.models.presets import Backbone

    config = transformers.XLNetConfig(
        vocab_size=vocabulary.size, d_model=16, n_layer=layers, n_head=2, d_inner=32, dropout=0.0, pad_token_id=0
    )
    torch.manual_seed(0)
    return objective.build(Backbone(config), vocabulary).double().eval()


def batch_of(objective, plan, index, vocabulary):
    columns = corrupted(objective, plan.rows(np.array(index)), vocabulary)
    batch = to_tensors(pad_columns(columns, objective.columns, vocabulary))
    batch["stream_starts"] = torch.zeros(len(index), dtype=torch.bool)
    return batch
