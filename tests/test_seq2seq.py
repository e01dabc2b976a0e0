"""Encoder-decoders: shared pieces, and models trained by these objectives against the stock models' own losses."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from pretrain_zoo.models.presets import Backbone, backbone
from pretrain_zoo.objectives import Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.seq2seq import put_text, shift_right, text_of, without_padding
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset, PretrainingDataset
from pretrain_zoo.training.encode import encode

OBJECTIVES = {
    "span_corruption": {},
    "ul2": {},
    "denoising": {},
    "mass": {},
    "gsg": {},
    "seq2seq_prefix_lm": {},
}
TINY = {
    "bart-tiny": {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0},
    "t5-tiny": {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_decoder_layers": 2, "dropout_rate": 0.0},
}


@pytest.fixture(scope="module")
def tokenizer(byte_bpe_tokenizer):
    tokenizer = copy.deepcopy(byte_bpe_tokenizer)
    tokenizer.add_tokens([f"<extra_id_{i}>" for i in range(20)] + ["[R]", "[S]", "[X]"], special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return Vocabulary.from_tokenizer(tokenizer)


@pytest.fixture(scope="module")
def corpus(tokenizer, texts):
    return encode(tokenizer.backend_tokenizer, texts)


def batch_of(objective, corpus, vocabulary, rows=6):
    dataset = PretrainingDataset(objective, corpus, vocabulary, length=48, global_batch=rows, max_steps=4)
    return DrawCollator(objective, vocabulary)(dataset.__getitems__(list(range(rows))))


def dense(batch):
    """The batch as a stock model takes it."""
    batch = dict(batch)
    labels = torch.full(batch["decoder_input_ids"].shape, -100)
    labels.view(-1)[batch.pop("label_positions")] = batch.pop("label_ids")
    return batch | {"labels": labels}


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradients_are_the_stock_models_and_training_lowers_the_loss(
    name, preset, tokenizer, vocabulary, corpus
):
    torch.manual_seed(0)
    objective = get_objective(name, **OBJECTIVES[name])
    model = objective.build(backbone(preset, tokenizer, max_length=48, **TINY[preset]), vocabulary)
    batch = batch_of(objective, corpus, vocabulary)
    output = model(**batch)
    count = objective.counts(batch)[name]
    assert count == len(batch["label_ids"]) > 20
    loss = output.sums[name] / count
    stock = model.main(**dense(batch)).loss
    torch.testing.assert_close(loss, stock)
    ours = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(stock, list(model.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        (model(**batch).sums[name] / count).backward()
        optimizer.step()
    assert model(**batch).sums[name] / count < loss


@pytest.mark.parametrize(("name", "preset"), [("span_corruption", "t5-tiny"), ("denoising", "bart-tiny")])
def test_checkpoints_load_and_generate_from_the_start_token(name, preset, tokenizer, vocabulary, corpus, tmp_path):
    objective = get_objective(name)
    model = objective.build(backbone(preset, tokenizer, max_length=48, **TINY[preset]), vocabulary)
    model.save_pretrained(tmp_path)
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    start = vocabulary.pad_id if name == "span_corruption" else vocabulary.eos_id
    assert plain.config.decoder_start_token_id == plain.generation_config.decoder_start_token_id == start
    batch = batch_of(objective, corpus, vocabulary)
    assert batch["decoder_input_ids"][:, 0].tolist() == [start] * 6
    torch.testing.assert_close(plain(**dense(batch)).loss, model.eval().main(**dense(batch)).loss)
    out = plain.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=4)
    assert (out[:, 0] == start).all()


def test_a_t5_config_from_scratch_learns_where_to_begin(vocabulary, corpus):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(
        vocab_size=vocabulary.size, pad_token_id=vocabulary.pad_id, eos_token_id=vocabulary.eos_id, **sizes
    )
    objective = get_objective("span_corruption")
    model = objective.build(Backbone(config), vocabulary)
    assert model.main.config.decoder_start_token_id == vocabulary.pad_id
    assert getattr(config, "decoder_start_token_id", None) is None
    batch = dense(batch_of(objective, corpus, vocabulary))
    del batch["decoder_input_ids"]
    assert torch.isfinite(model.main(**batch).loss)


def test_a_checkpoint_that_knows_no_start_learns_it_for_generation_too(tokenizer, vocabulary, tmp_path):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    ids = {"pad_token_id": vocabulary.pad_id, "eos_token_id": vocabulary.eos_id}
    T5ForConditionalGeneration(T5Config(vocab_size=vocabulary.size, **ids, **sizes)).save_pretrained(tmp_path)
    main = get_objective("span_corruption").build(backbone(str(tmp_path), tokenizer), vocabulary).main
    assert main.config.decoder_start_token_id == main.generation_config.decoder_start_token_id == vocabulary.pad_id


def test_a_checkpoint_that_begins_otherwise_is_refused_with_the_fix(tokenizer, vocabulary, tmp_path):
    spans = get_objective("span_corruption")
    spans.build(backbone("t5-tiny", tokenizer, **TINY["t5-tiny"]), vocabulary).save_pretrained(tmp_path)
    trained = backbone(str(tmp_path), tokenizer)
    with pytest.raises(ValueError, match="give decoder_start_token_id=1"):
        get_objective("denoising").build(trained, vocabulary)
    other = get_objective("denoising", decoder_start_token_id=1)
    assert other.build(trained, vocabulary).main.config.decoder_start_token_id == 1


def test_encoders_are_refused(tokenizer, vocabulary):
    for name in OBJECTIVES:
        with pytest.raises(ValueError, match="encoder-decoder, and bert is none"):
            get_objective(name).build(backbone("bert-tiny", tokenizer), vocabulary)


def test_evaluation_sees_every_example_once_with_the_same_noise(vocabulary, corpus):
    objective = get_objective("denoising")
    dataset = EvaluationDataset(objective, corpus, vocabulary, length=48)
    collator = DrawCollator(objective, vocabulary)
    whole = collator(dataset.__getitems__(list(range(8))))
    halves = [collator(dataset.__getitems__(list(range(i, i + 4)))) for i in (0, 4)]
    assert torch.equal(whole["label_ids"], torch.cat([half["label_ids"] for half in halves]))


def test_shift_and_text():
    rows = Ragged.from_rows([[0, 5, 6, 2], [5, 6], [0, 2], [], [0, 5], [7, 2], [2]], np.int64)
    assert shift_right(rows, 9).tolist() == [[9, 0, 5, 6], [9, 5], [9, 0], [], [9, 0], [9, 7], [9]]
    vocabulary = dataclasses.replace(_empty(), prefix=(0,), suffix=(2,))
    begin, length = text_of(rows, vocabulary)
    found = [rows.values[b : b + n].tolist() for b, n in zip(begin, length, strict=True)]
    assert found == [[5, 6], [5, 6], [], [], [5], [7], []]
    text = Ragged(np.full(7, 8), np.ones(7, np.int64))
    assert put_text(rows, begin, length, text).tolist() == [[0, 8, 2], [8], [0, 8, 2], [8], [0, 8], [8, 2], [8, 2]]
    double = dataclasses.replace(_empty(), prefix=(0, 5), suffix=(6, 2))
    begin, length = text_of(rows, double)
    assert (begin - rows.offsets[:-1]).tolist() == [2, 0, 0, 0, 2, 0, 0]
    assert length.tolist() == [0, 2, 2, 0, 0, 2, 1]


def test_padding_is_told_by_the_mask_or_the_padding_token():
    ids = Ragged.from_rows([[5, 6, 1, 1], [5, 1, 7, 8]])
    vocabulary = dataclasses.replace(_empty(), pad_id=1)
    assert without_padding({"input_ids": ids}, vocabulary)["input_ids"].tolist() == [[5, 6], [5, 7, 8]]
    mask = Ragged.from_rows([[1, 1, 1, 0], [1, 1, 1, 1]])
    columns = without_padding({"input_ids": ids, "attention_mask": mask, "row": np.arange(2)}, vocabulary)
    assert columns["input_ids"].tolist() == [[5, 6, 1], [5, 1, 7, 8]]
    assert set(columns) == {"input_ids", "row"}
    doubled = dataclasses.replace(vocabulary, eos_id=1)
    assert without_padding({"input_ids": ids}, doubled)["input_ids"].tolist() == ids.tolist()
    for name in ("eos_id", "sep_id", "unk_id"):  # padding that text may hold tells nothing
        shared = dataclasses.replace(vocabulary, **{name: 1})
        rows = get_objective("mass").from_features([{"input_ids": row} for row in ids.tolist()], shared)
        assert rows["input_ids"].tolist() == ids.tolist()


def _empty():
    return Vocabulary(10, np.ones(10, bool), np.arange(10))
