"""Losses of replaced-token detection and its variants: against stock heads, in half precision, by micro-batches."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from replaced_token_models import (
    CLS,
    MASK,
    OUTPUTS,
    SEP,
    batch_of,
    config,
    loss_of,
    make_vocabulary,
    model_of,
    randomized,
    rows,
)

from pretrain_zoo.models.generator_discriminator import DetectionHead
from pretrain_zoo.objectives import get_objective


@pytest.fixture(scope="module")
def vocabulary():
    return make_vocabulary()


@pytest.mark.parametrize("side", ["right", "left"])
def test_losses_are_those_of_the_stock_heads(vocabulary, side):
    objective = get_objective("rtd")
    model = randomized(model_of(objective, vocabulary))
    batch = batch_of(objective, vocabulary, rows(12), side=side)
    output = model(**batch, want=OUTPUTS)
    mask = {"attention_mask": batch["attention_mask"]}
    dense = torch.full(batch["input_ids"].shape, -100)
    dense.view(-1)[batch["label_positions"]] = batch["label_ids"]
    counts = objective.counts(batch)
    assert counts["generator"] == len(batch["label_ids"])
    assert counts["discriminator"] == batch["attention_mask"].sum() < batch["attention_mask"].numel()
    stock = model.heads["generator"](batch["input_ids"], labels=dense, **mask).loss * counts["generator"]
    torch.testing.assert_close(output.sums["generator"], stock)
    fake, labels = output.outputs["input_ids"], output.outputs["replaced"].long()
    stock = model.main(fake, labels=labels, **mask)
    torch.testing.assert_close(output.sums["discriminator"], stock.loss * counts["discriminator"])
    real = batch["attention_mask"] == 1
    said, true = (stock.logits > 0)[real], labels[real] == 1
    expected = {
        "discriminator_accuracy": ((said == true).sum(), real.sum()),
        "discriminator_precision": ((said & true).sum(), said.sum()),
        "discriminator_recall": ((said & true).sum(), true.sum()),
    }
    assert {name: output.metrics[name] for name in expected} == expected


def test_loss_on_selected_leaves_the_others_out(vocabulary):
    objective = get_objective("rtd", loss_on="selected")
    model = randomized(model_of(objective, vocabulary))
    batch = batch_of(objective, vocabulary, rows(12))
    output = model(**batch, want=OUTPUTS)
    at = batch["label_positions"]
    logits, replaced = output.outputs["logits"].flatten()[at], output.outputs["replaced"].flatten()[at]
    expected = F.softplus(torch.where(replaced, -logits, logits)).sum()
    torch.testing.assert_close(output.sums["discriminator"], expected)
    assert objective.counts(batch)["discriminator"] == len(at)
    assert output.metrics["discriminator_accuracy"][1] == len(at)


@pytest.mark.parametrize("kind", ["electra", "deberta-v2", "bert"])
def test_the_discriminator_begins_undecided(vocabulary, kind):
    objective = get_objective("rtd")
    batch = batch_of(objective, vocabulary, rows(20))
    output = model_of(objective, vocabulary, kind)(**batch)
    mean = output.sums["discriminator"] / objective.counts(batch)["discriminator"]
    assert abs(mean.item() - math.log(2)) < 0.01


def test_terms_and_published_weights():
    assert {n: t.weight for n, t in get_objective("rtd").terms.items()} == {"generator": 1, "discriminator": 50}
    assert {n: t.weight for n, t in get_objective("replace_mlm").terms.items()} == {"generator": 1, "mlm": 1}


def test_replace_mlm_is_the_stock_masked_lm_on_fake_text(vocabulary):
    objective = get_objective("replace_mlm")
    model = randomized(model_of(objective, vocabulary, "bert"))
    batch = batch_of(objective, vocabulary, rows(12))
    output = model(**batch, want=OUTPUTS)
    dense = torch.full(batch["input_ids"].shape, -100)
    dense.view(-1)[batch["label_positions"]] = batch["label_ids"]
    fake = output.outputs["input_ids"]
    assert (fake != batch["input_ids"]).any() and not (fake == MASK).all(1).any()
    stock = model.main(fake, attention_mask=batch["attention_mask"], labels=dense).loss * len(batch["label_ids"])
    torch.testing.assert_close(output.sums["mlm"], stock)


def test_all_tokens_mlm_mixes_copying_and_predicting(vocabulary):
    objective = get_objective("all_tokens_mlm")
    model = randomized(model_of(objective, vocabulary, "bert"))
    batch = batch_of(objective, vocabulary, rows(5))
    output = model(**batch, want=("logits", "copy_logits", "input_ids", "original_ids"))
    out = {name: value.detach().double().numpy() for name, value in output.outputs.items()}
    expected = right = 0.0
    for b, i in np.argwhere(batch["attention_mask"].numpy() == 1):
        softmax = np.exp(out["logits"][b, i]) / np.exp(out["logits"][b, i]).sum()
        copied = 1 / (1 + np.exp(-out["copy_logits"][b, i]))
        mixture = (1 - copied) * softmax
        mixture[int(out["input_ids"][b, i])] += copied
        expected -= np.log(mixture[int(out["original_ids"][b, i])])
        right += mixture.argmax() == out["original_ids"][b, i]
    assert output.sums["mlm"].item() == pytest.approx(expected, rel=1e-4)
    assert output.metrics["accuracy"][0] == right
    stock = model.main(output.outputs["input_ids"], attention_mask=batch["attention_mask"]).logits
    real = batch["attention_mask"] == 1
    torch.testing.assert_close(output.outputs["logits"][real], stock[real])


def test_deberta_v3_head_adds_the_first_tokens_state():
    torch.manual_seed(0)
    head = DetectionHead(config("deberta-v2"), with_first=True).eval()
    hidden, mask = torch.randn(2, 5, 32), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    first = torch.stack([hidden[0, 0], hidden[1, 2]])[:, None]
    normed = F.layer_norm(hidden + first, (32,), eps=config("deberta-v2").layer_norm_eps)
    expected = head.classifier(F.gelu(head.dense(normed)))[..., 0]
    torch.testing.assert_close(head(hidden, mask), expected)


@pytest.mark.parametrize("tie", ["shared", "gdes"])
def test_accumulation_does_not_change_the_gradient(vocabulary, tie):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary)).double()
    texts = rows(8)
    whole = batch_of(objective, vocabulary, texts)
    loss_of(objective, model, whole).backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    parts = [batch_of(objective, vocabulary, texts[at : at + 2], first=at) for at in range(0, 8, 2)]
    counts = [objective.counts(part) for part in parts]
    totals = {name: sum(c[name] for c in counts) for name in objective.terms}
    assert len({int(c["generator"]) for c in counts}) > 1 and totals["generator"] != totals["discriminator"]
    for part in parts:
        sums = model(**part).sums
        sum(term.weight * sums[name] / totals[name] for name, term in objective.terms.items()).backward()
    actual = [p.grad for p in model.parameters() if p.grad is not None]
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_bfloat16(vocabulary):
    objective = get_objective("rtd")
    batch = batch_of(objective, vocabulary, rows(6))
    model = model_of(objective, vocabulary)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch, want=("generator_logits", "logits"))
    assert output.outputs["generator_logits"].dtype == output.outputs["logits"].dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in output.sums.values())
    sums = model.to(torch.bfloat16)(**batch).sums
    assert all(torch.isfinite(value) for value in sums.values())


def test_batch_without_any_selected_token(vocabulary):
    objective = get_objective("rtd")
    batch = batch_of(objective, vocabulary, [np.array([CLS, SEP])] * 2)
    output = model_of(objective, vocabulary)(**batch)
    assert output.sums["generator"] == 0 and not output.metrics["replaced_rate"][0]
