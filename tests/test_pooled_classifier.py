"""Pooling of hidden states for classification: by hand, trained, saved, and as stock classes read it."""

import inspect

import numpy as np
import pytest
import torch
from small_models import (
    CLASSES,
    batch,
    load,
    logits,
    targets,
    train,
)
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
)

from pretrain_zoo.models.pooled_classifier import pool
from pretrain_zoo.models.task_models import (
    load_saved,
    save_task_model,
)


def pooled_by_hand(hidden, mask, pooling):
    rows = []
    for states, seen in zip(hidden.numpy(), mask.numpy().astype(bool)):
        states = states[seen]
        rows.append({"cls": states[0], "last": states[-1], "mean": states.mean(0), "max": states.max(0)}[pooling])
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["cls", "last", "mean", "max"])
def test_pool(pooling, side):
    hidden, lengths = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[5], [1], [3]])
    mask = (torch.arange(5) < lengths).long()
    mask = mask.flip(1) if side == "left" else mask
    torch.testing.assert_close(pool(hidden, mask, pooling), pooled_by_hand(hidden, mask, pooling))
    torch.testing.assert_close(pool(hidden[:1], None, pooling), pooled_by_hand(hidden[:1], mask[:1], pooling))


@pytest.mark.parametrize(
    ("family", "pooling"),
    [("bert", "mean"), ("roberta", "max"), ("deberta-v3", "last"), ("distilbert", "mean"), ("modernbert", "last")]
    + [("gpt2", "mean"), ("llama", "max"), ("xlnet", "mean"), ("xlm", "mean"), ("albert", "max"), ("mpnet", "mean")],
)
def test_own_pooling(family, pooling, checkpoints, texts, tmp_path):
    tokenizer, model = load(checkpoints(family), pooling=pooling)
    columns = batch(tokenizer, model, texts[:4])
    losses, changed = train(model, columns, targets(CLASSES, 4))
    assert losses[-1] < losses[0]
    save_task_model(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    after = logits(model, columns)
    assert torch.equal(logits(load_saved(tmp_path), columns), after)
    _, again = load(tmp_path)  # goes on with the pooling it was saved with, and its head
    assert torch.equal(logits(again, columns), after)
    backbone = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        accepted = inspect.signature(backbone.forward).parameters
        hidden = backbone(**{name: value for name, value in columns.items() if name in accepted})[0]
        expected = model.classifier(pooled_by_hand(hidden, columns["attention_mask"], pooling))
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "pooling"), [("modernbert", "mean"), ("modernbert", "cls"), ("gpt2", "last"), ("bart", "last")]
)
def test_stock_pooling_is_kept_stock(family, pooling, checkpoints, texts, tmp_path):
    tokenizer, model = load(checkpoints(family), pooling=pooling)
    columns = batch(tokenizer, model, texts[:4])
    save_task_model(model, tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(stock) is type(model) and torch.equal(logits(stock, columns), logits(model, columns))
    if family == "modernbert":
        assert model.config.classifier_pooling == pooling


def test_poolings_that_do_not_go(checkpoints):
    with pytest.raises(ValueError, match="bart is read out at its decoder's end token"):
        load(checkpoints("bart"), pooling="mean")
    with pytest.raises(ValueError, match="--pooling must be one of cls, mean, max, last"):
        load(checkpoints("bert"), pooling="middle")
