"""Generator and discriminator of every family: training, checkpoints, export as stock models."""

import math

import numpy as np
import pytest
import torch
from replaced_token_models import (
    CLS,
    OUTPUTS,
    SEP,
    SIZE,
    batch_of,
    config,
    loss_of,
    make_vocabulary,
    model_of,
    randomized,
    rows,
)
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, ElectraForPreTraining

from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.models.tied_embeddings import DeltaEmbedding
from pretrain_zoo.objectives import get_objective

FAMILIES = ["electra", "bert", "roberta", "albert", "distilbert", "deberta", "deberta-v2", "xlm-roberta", "mpnet"]
FAMILIES += ["modernbert", "xlm"]


@pytest.fixture(scope="module")
def vocabulary():
    return make_vocabulary()


# training


@pytest.mark.parametrize("name", ["rtd", "replace_mlm", "all_tokens_mlm"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_step_lowers_the_loss(vocabulary, kind, name):
    objective = get_objective(name)
    model = model_of(objective, vocabulary, kind)
    batch = batch_of(objective, vocabulary, rows())
    batch["sampling_bits"].zero_()  # token 0 always: the text stays while the generator learns
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3 if name == "rtd" else 1e-2)
    before = loss_of(objective, model, batch)
    before.backward()
    optimizer.step()
    assert loss_of(objective, model, batch) < before
    untrained = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not untrained


def test_the_discriminator_learns_which_tokens_are_foreign(vocabulary):
    objective = get_objective("rtd", temperature=100.0)  # samples stay uniform
    model = model_of(objective, vocabulary).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    random = np.random.default_rng(0)
    text = lambda: [np.r_[CLS, random.integers(5, 21, 20), SEP] for _ in range(16)]  # noqa: E731 - 16 of 61 tokens
    for step in range(60):
        loss_of(objective, model, batch_of(objective, vocabulary, text(), first=16 * step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    metrics = model.eval()(**batch_of(objective, vocabulary, [t for _ in range(20) for t in text()])).metrics
    hits, replaced = metrics["discriminator_recall"]
    share = (SIZE - 16) / (SIZE - 1)
    assert abs(hits / replaced - share) < 5 * math.sqrt(share * (1 - share) / replaced)
    assert hits / metrics["discriminator_precision"][1] > 0.99


# checkpoints


def assert_same_state(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("tie", ["shared", "gdes", "none"])
@pytest.mark.parametrize("kind", ["electra", "deberta-v2", "bert"])
def test_checkpoints_restore_exactly_and_are_plain(vocabulary, tmp_path, kind, tie):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary, kind))
    model.save_pretrained(tmp_path)
    other = randomized(model_of(objective, vocabulary, kind, seed=5), seed=6)
    other.load_checkpoint(tmp_path)
    assert_same_state(model, other)
    batch = batch_of(objective, vocabulary, rows())
    out, again = (m(**batch, want=OUTPUTS).outputs for m in (model, other))
    assert all(torch.equal(out[name], again[name]) for name in OUTPUTS)
    plain = (AutoModelForPreTraining if kind == "electra" else AutoModel).from_pretrained(tmp_path).eval()
    inputs = {"input_ids": out["input_ids"], "attention_mask": batch["attention_mask"]}
    hidden = plain.base_model(**inputs).last_hidden_state
    torch.testing.assert_close(hidden, model.main.base_model(**inputs).last_hidden_state, rtol=1e-5, atol=1e-5)
    if kind == "electra":
        assert type(plain) is ElectraForPreTraining
        torch.testing.assert_close(plain(**inputs).logits, out["logits"], rtol=1e-5, atol=1e-5)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    loss_of(objective, other, batch).backward()
    optimizer.step()
    assert any(not torch.equal(v, model.state_dict()[n]) for n, v in other.state_dict().items())
    if tie == "shared":
        assert other.get_input_embeddings().weight is other.heads["generator"].get_input_embeddings().weight


@pytest.mark.parametrize("tie", ["shared", "gdes"])
@pytest.mark.parametrize("kind", ["electra", "deberta-v2"])
def test_both_networks_are_exported_as_stock_models(vocabulary, tmp_path, kind, tie):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary, kind))
    batch = batch_of(objective, vocabulary, rows())
    out = model(**batch, want=(*OUTPUTS, "hidden_states")).outputs
    models = objective.export(model)
    assert set(models) == {"", "generator"}
    for name, plain in models.items():
        assert not [m for m in plain.modules() if isinstance(m, DeltaEmbedding)]
        plain.save_pretrained(tmp_path / (name or "main"))
    mask = batch["attention_mask"]
    generator, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "generator", output_loading_info=True)
    assert not any(report.values())
    logits = generator.eval()(batch["input_ids"], attention_mask=mask).logits.flatten(0, 1)[batch["label_positions"]]
    torch.testing.assert_close(logits, out["generator_logits"], rtol=1e-4, atol=1e-4)
    main = AutoModel.from_pretrained(tmp_path / "main").eval()
    hidden = main(out["input_ids"], attention_mask=mask).last_hidden_state
    torch.testing.assert_close(hidden, out["hidden_states"][-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tie", ["shared", "gdes"])
def test_training_goes_on_from_exported_checkpoints(vocabulary, tmp_path, tie):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary))
    for name, plain in objective.export(model).items():
        plain.save_pretrained(tmp_path / (name or "main"))
    backbone = Backbone(AutoConfig.from_pretrained(tmp_path / "main"), str(tmp_path / "main"))
    goes_on = get_objective("rtd", tie=tie, generator_checkpoint=str(tmp_path / "generator"))
    other = goes_on.build(backbone, vocabulary).eval()
    batch = batch_of(objective, vocabulary, rows())
    for ours, theirs in zip(model(**batch).sums.values(), other(**batch).sums.values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="generator_checkpoint"):
        goes_on.build(Backbone(config()), vocabulary)


@pytest.mark.parametrize(("kind", "tie"), [("electra", "shared"), ("bert", "none"), ("deberta-v2", "gdes")])
def test_a_new_run_goes_on_from_the_folder_of_an_earlier_one(kind, tie, vocabulary, tmp_path):
    objective = get_objective("rtd", tie=tie)
    model = randomized(model_of(objective, vocabulary, kind))
    model.save_pretrained(tmp_path)
    again = objective.build(Backbone(config(kind), checkpoint=str(tmp_path)), vocabulary)
    expected = model.state_dict()
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
