"""Models with a head for sentence pairs: losses against the stock model, training, checkpoints."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    AlbertForPreTraining,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertForPreTraining,
    RobertaForMaskedLM,
)

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.models.pretraining import HEADS_FILE
from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.training.dataset import DrawCollator, PretrainingDataset


def fixed_batch(objective, documents, vocabulary, rows=16, length=48):
    data = PretrainingDataset(objective, documents, vocabulary, length=length, global_batch=rows, max_steps=1)
    return DrawCollator(objective, vocabulary)(data.__getitems__(list(range(rows))))


def means(objective, output, batch):
    counts = objective.counts(batch)
    return {name: output.sums[name] / counts[name] for name in objective.terms}


@pytest.mark.parametrize(
    "name, preset, main",
    [
        ("mlm+nsp", "bert-tiny", BertForPreTraining),
        ("mlm+sop", "albert-tiny", AlbertForPreTraining),
        ("mlm+nsp", "roberta-tiny", RobertaForMaskedLM),
        ("nsp", "bert-tiny", BertForPreTraining),
    ],
)
def test_training_lowers_every_loss_on_a_fixed_batch(name, preset, main, documents, wordpiece_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    objective = get_objective(name)
    torch.manual_seed(0)
    model = objective.build(backbone(preset, wordpiece_tokenizer, hidden_dropout_prob=0.0), vocabulary)
    assert type(model.main) is main
    batch = fixed_batch(objective, documents, vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = means(objective, model(**batch), batch)
    for _ in range(30):
        losses = means(objective, model(**batch), batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    last = means(objective, model(**batch), batch)
    assert all(last[term] < first[term] - 0.05 for term in objective.terms), (first, last)


def test_weights_in_half_precision(documents, byte_bpe_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(byte_bpe_tokenizer)
    objective = get_objective("mlm+nsp")
    parts = replace(backbone("roberta-tiny", byte_bpe_tokenizer), dtype=torch.bfloat16)
    sums = objective.build(parts, vocabulary)(**fixed_batch(objective, documents, vocabulary)).sums
    assert all(torch.isfinite(value) for value in sums.values())


def test_loss_is_that_of_the_stock_model(documents, wordpiece_tokenizer):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    objective = get_objective("mlm+nsp")
    torch.manual_seed(0)
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer), vocabulary).eval()
    batch = fixed_batch(objective, documents, vocabulary)
    labels = torch.full(batch["input_ids"].shape, -100)
    labels.view(-1)[batch["label_positions"]] = batch["label_ids"]
    plain = {k: batch[k] for k in ("input_ids", "token_type_ids", "attention_mask")}
    stock = model.main(**plain, labels=labels, next_sentence_label=batch["pair_labels"])
    output = model(**batch)
    assert torch.isclose(sum(means(objective, output, batch).values()), stock.loss)
    correct, count = output.metrics["nsp_accuracy"]
    assert count == len(labels)
    assert correct == (stock.seq_relationship_logits.argmax(-1) == batch["pair_labels"]).sum()


def test_export_is_a_stock_checkpoint_with_both_heads(documents, wordpiece_tokenizer, tmp_path):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    objective = get_objective("mlm+nsp")
    model = objective.build(backbone("bert-tiny", wordpiece_tokenizer), vocabulary).eval()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / HEADS_FILE).exists()
    batch = fixed_batch(objective, documents, vocabulary)
    inputs = {k: batch[k] for k in ("input_ids", "token_type_ids", "attention_mask")}
    for auto in (BertForPreTraining, AutoModelForPreTraining):
        plain, report = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(plain) is BertForPreTraining
        assert not report["missing_keys"] and not report["unexpected_keys"]
        expected = model.main(**inputs)
        found = plain.eval()(**inputs)
        assert torch.equal(found.prediction_logits, expected.prediction_logits)
        assert torch.equal(found.seq_relationship_logits, expected.seq_relationship_logits)
    plain, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]


def test_a_checkpoint_keeps_both_trained_heads(wordpiece_tokenizer, tmp_path):
    vocabulary = Vocabulary.from_tokenizer(wordpiece_tokenizer)
    torch.manual_seed(0)
    trained = backbone("bert-tiny", wordpiece_tokenizer).load(BertForPreTraining)
    with torch.no_grad():
        for parameter in trained.cls.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    trained.save_pretrained(tmp_path)
    parts = backbone(str(tmp_path), wordpiece_tokenizer)
    for name in ("mlm+nsp", "mlm+sop", "nsp"):
        model = get_objective(name).build(parts, vocabulary)
        for key, value in trained.state_dict().items():
            assert torch.equal(model.main.state_dict()[key], value), key


def test_our_head_is_saved_beside_the_model_and_goes_on(documents, byte_bpe_tokenizer, tmp_path):
    vocabulary = Vocabulary.from_tokenizer(byte_bpe_tokenizer)
    objective = get_objective("mlm+nsp")
    parts = backbone("roberta-tiny", byte_bpe_tokenizer)
    model = objective.build(parts, vocabulary).eval()
    model.save_pretrained(tmp_path)
    assert (tmp_path / HEADS_FILE).exists()
    plain, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name in ("mlm+nsp", "sop"):
        again = get_objective(name).build(backbone(str(tmp_path), byte_bpe_tokenizer), vocabulary)
        for key, value in model.heads.state_dict().items():
            assert torch.equal(again.heads.state_dict()[key], value)
    fresh = objective.build(parts, vocabulary)
    fresh.load_checkpoint(tmp_path)
    assert torch.equal(fresh.heads["pair"].classifier.weight, model.heads["pair"].classifier.weight)
