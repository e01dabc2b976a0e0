"""The enhanced mask decoder against the stock layer called by hand, and its positions."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, DebertaConfig, DebertaV2Config

from pretrain_zoo.models.presets import Backbone
from pretrain_zoo.objectives import Draws, Ragged, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors

SIZES = {
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def make(vocabulary, **settings):
    config = DebertaV2Config(vocab_size=vocabulary.size, **SIZES)
    torch.manual_seed(0)
    objective = get_objective("emd_mlm", **settings)
    return objective, objective.build(Backbone(config), vocabulary).eval()


def batch_for(objective, vocabulary, lengths=(30, 22)):
    rng = np.random.default_rng(0)
    ids = [
        np.concatenate([vocabulary.prefix, rng.choice(vocabulary.random_pool, n), vocabulary.suffix]) for n in lengths
    ]
    rows = Ragged.from_rows(ids, np.int64)
    count = np.arange(len(lengths))
    columns = {"input_ids": rows, "word_starts": rows.with_values(np.ones(len(rows.values), bool))}
    out = objective.corrupt(columns, Draws.of(0, count, 0, count), vocabulary)
    return to_tensors(pad_columns(out, objective.columns, vocabulary))


def stock_parts(model, batch):
    main = model.main
    with torch.no_grad():
        out = main.deberta(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
    return out.hidden_states[-2], out.hidden_states[-1]


def test_one_step_without_positions_is_the_stock_encoder(vocabulary):
    objective, model = make(vocabulary, decoder_steps=1)
    batch = batch_for(objective, vocabulary)
    model.absolute_positions.weight.data.zero_()
    _, last = stock_parts(model, batch)
    hidden = model.run(batch)["hidden"]
    assert torch.equal(hidden, last)


def test_two_steps_equal_the_layer_called_by_hand(vocabulary):
    objective, model = make(vocabulary)
    batch = batch_for(objective, vocabulary)
    before, _ = stock_parts(model, batch)
    encoder, layer = model.main.deberta.encoder, model.main.deberta.encoder.layer[-1]
    queries = before + model.absolute_positions.weight[: before.shape[1]]
    for _ in range(2):
        queries = layer(
            before,
            encoder.get_attention_mask(batch["attention_mask"]),
            query_states=queries,
            relative_pos=encoder.get_rel_pos(before),
            rel_embeddings=encoder.get_rel_embedding(),
        )[0]
    rows = queries.flatten(0, 1)[batch["label_positions"]]
    torch.testing.assert_close(model.run(batch)["logits"], model.main.cls(rows[None])[0], rtol=0, atol=1e-5)


def test_logits_depend_on_the_table_of_positions_which_learns(vocabulary):
    objective, model = make(vocabulary)
    batch = batch_for(objective, vocabulary)
    before = model.run(batch)["logits"]
    model(**batch).sums["emd_mlm"].backward()
    assert model.absolute_positions.weight.grad.abs().sum() > 0
    model.absolute_positions.weight.data.mul_(-1)
    assert (model.run(batch)["logits"] - before).abs().max() > 1e-4


def test_checkpoint_is_stock_and_comes_back(tmp_path, vocabulary):
    objective, model = make(vocabulary)
    batch = batch_for(objective, vocabulary)
    model.save_pretrained(tmp_path)
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path)
    ids = batch["input_ids"], batch["attention_mask"]
    torch.testing.assert_close(stock(*ids).logits, model.main(*ids).logits)
    _, other = make(vocabulary)
    other.absolute_positions.weight.data.zero_()
    other.load_checkpoint(tmp_path)
    torch.testing.assert_close(other.run(batch)["logits"], model.run(batch)["logits"])


def test_a_later_run_goes_on_with_the_table_of_positions(tmp_path, vocabulary):
    objective, model = make(vocabulary)
    model.save_pretrained(tmp_path)
    later = objective.build(Backbone(model.main.config, checkpoint=str(tmp_path)), vocabulary)
    torch.testing.assert_close(later.absolute_positions.weight, model.absolute_positions.weight, rtol=0, atol=0)


def test_masking_rate_is_flat_over_positions(vocabulary):
    objective = get_objective("emd_mlm")
    rows = Ragged.from_rows([np.resize(vocabulary.random_pool, 200)] * 2000)
    count = np.arange(2000)
    columns = {"input_ids": rows, "word_starts": rows.with_values(np.ones(len(rows.values), bool))}
    out = objective.corrupt(columns, Draws.of(0, count, 0, count), vocabulary)
    share = np.bincount(out["label_positions"].values // 20, minlength=10) / (2000 * 20)
    assert np.abs(share - 0.15).max() < 0.012  # the released sampler leaves .013 to .022 in the last decile


def test_other_families_are_refused(vocabulary):
    for config in (BertConfig, DebertaConfig):
        with pytest.raises(ValueError, match="deberta-v2"):
            get_objective("emd_mlm").build(Backbone(config(vocab_size=vocabulary.size)), vocabulary)
