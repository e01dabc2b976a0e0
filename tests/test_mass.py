"""MASS: fragments, where they lie, what the decoder reads at which position, what it can and cannot see."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import BartConfig, BartForConditionalGeneration

from pretrain_zoo.objectives import DataCollatorForMASS, Draws, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.documents import from_lists

BOS, PAD, EOS, MASK, FIRST, SIZE = 0, 1, 2, 4, 10, 2000


@pytest.fixture(scope="module")
def vocabulary():
    maskable = np.arange(SIZE) >= FIRST
    ids = {"mask_id": MASK, "pad_id": PAD, "bos_id": BOS, "eos_id": EOS}
    return Vocabulary(SIZE, maskable, np.flatnonzero(maskable), prefix=(BOS,), suffix=(EOS,), **ids)


def make_rows(lengths, seed=0, framed=True):
    rng = np.random.default_rng(seed)
    rows = [FIRST + rng.permutation(SIZE - FIRST)[:n] for n in lengths]
    return {"input_ids": Ragged.from_rows([np.concatenate([[BOS], r, [EOS]]) if framed else r for r in rows], np.int64)}


def corrupt(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    framed=st.booleans(),
    ratio=st.floats(0.01, 1),
    original=st.booleans(),
    seed=st.integers(0, 1000),
)
@example(lengths=[1, 0, 2], framed=False, ratio=1.0, original=True, seed=0)
def test_any_rows(vocabulary, lengths, framed, ratio, original, seed):
    objective = get_objective(
        "mass", mass_ratio=ratio, original_positions=original, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    rows = make_rows(lengths, seed, framed)
    out = corrupt(objective, rows, vocabulary, seed)
    names = ("input_ids", "decoder_input_ids", "decoder_attention_mask", "label_positions", "label_ids")
    for n, source, inputs, read, real, positions, labels in zip(
        lengths, rows["input_ids"].tolist(), *(out[name].tolist() for name in names), strict=True
    ):
        room = n if framed else max(n - 1, 0)
        size = min(max(round(n * ratio), min(1, room)), room)
        assert len(labels) == inputs.count(MASK) == size
        if not size:
            assert inputs == source and read == []
            continue
        start = inputs.index(MASK)
        assert start >= 1
        assert inputs == source[:start] + [MASK] * size + source[start + size :]
        assert labels == source[start : start + size]
        fragment = source[start - 1 : start - 1 + size]
        ahead = start - 1 if original else 0
        assert read == [PAD] * ahead + fragment
        assert real == [0] * ahead + [1] * size
        assert positions == list(range(ahead, ahead + size))


def test_where_fragments_lie_and_how_long_they_are(vocabulary):
    count, n = 20_000, 21
    rows = make_rows([n]) | {}
    rows = {"input_ids": Ragged(np.tile(rows["input_ids"].values, count), np.full(count, n + 2))}
    out = corrupt(get_objective("mass", mask_replace_prob=1.0, random_replace_prob=0.0), rows, vocabulary)
    size = round(n * 0.5)  # 10.5, half to even
    assert size == 10
    start = (out["input_ids"].values.reshape(count, n + 2) == MASK).argmax(1) - 1
    places = n - size + 1
    edge = 0.2 + 0.6 / places
    for place, p in [(0, edge), (places - 1, edge)] + [(i, 0.6 / places) for i in range(1, places - 1)]:
        assert abs((start == place).mean() - p) < 5 * math.sqrt(p * (1 - p) / count), place


def test_mask_random_keep(vocabulary):
    rows = make_rows([400] * 100)
    out = corrupt(get_objective("mass"), rows, vocabulary)
    before, after = rows["input_ids"].values, out["input_ids"].values
    inside = np.zeros(len(before), bool)
    flat = np.repeat(rows["input_ids"].offsets[:-1], out["label_positions"].lengths) + out["label_positions"].values + 1
    inside[flat] = True
    n = inside.sum()
    assert n == 200 * 100
    assert np.array_equal(before[~inside], after[~inside])
    masked, kept = (after == MASK)[inside].mean(), (after == before)[inside].mean()
    assert abs(masked - 0.8) < 5 * math.sqrt(0.16 / n)
    assert abs(kept - 0.1) < 5 * math.sqrt(0.09 / n) + 1 / SIZE
    assert vocabulary.maskable[after[inside & (after != MASK)]].all()


def test_plan_leaves_short_rows_out(vocabulary):
    documents = from_lists([[[20, 21]], [[30, 31, 32, 33, 34, 35]], [[40, 41, 42, 43, 44]], [[50, 51, 52, 53]]])
    plan = get_objective("mass").plan(documents, vocabulary, length=32, seed=0, epoch=0, global_batch=1)
    assert [row[1] for row in plan.rows(np.arange(len(plan)))["input_ids"].tolist()] == [30, 40]


def bart(**more):
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=SIZE, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=PAD, bos_token_id=BOS,
            eos_token_id=EOS, decoder_start_token_id=BOS, max_position_embeddings=64, **more,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_decoder_predicts_from_the_fragment_alone_at_its_own_positions(vocabulary, attention):
    torch.manual_seed(0)
    model = bart(attn_implementation=attention, init_std=0.5)
    rows = make_rows([20, 9], seed=3)
    objective = get_objective("mass", edge_prob=0.0)
    out = corrupt(objective, rows, vocabulary, seed=2)
    i = 0
    read, real, labels = (
        torch.tensor([out[name].tolist()[i]])
        for name in ("decoder_input_ids", "decoder_attention_mask", "label_positions")
    )
    ahead = int(labels[0, 0])
    assert ahead > 0
    hidden = torch.randn(1, 7, 16)
    embedded = model.get_input_embeddings()(read).detach().requires_grad_()
    result = model.model.decoder(
        inputs_embeds=embedded, attention_mask=real, encoder_hidden_states=hidden, use_cache=False
    ).last_hidden_state
    assert torch.isfinite(result).all()
    direction = torch.randn(16)  # a plain sum behind LayerNorm has no gradient
    (result[0, -1] @ direction).backward()
    leaks = embedded.grad[0].abs().sum(-1)
    assert (leaks[:ahead] == 0).all()
    assert (leaks[ahead:] > 0).all()
    embedded.grad = None
    result = model.model.decoder(
        inputs_embeds=embedded, attention_mask=real, encoder_hidden_states=hidden, use_cache=False
    )
    (result.last_hidden_state[0, ahead] @ direction).backward()
    assert (embedded.grad[0].abs().sum(-1) > 0).nonzero().flatten().tolist() == [ahead]  # no look ahead
    # the same as the fragment alone with the text's positions
    positions = model.model.decoder.embed_positions.weight[2:]
    shifted = embedded.detach()[:, ahead:] + (positions[ahead : ahead + labels.shape[1]] - positions[: labels.shape[1]])
    alone = model.model.decoder(inputs_embeds=shifted, encoder_hidden_states=hidden, use_cache=False).last_hidden_state
    torch.testing.assert_close(alone, result.last_hidden_state[:, ahead:].detach(), atol=1e-5, rtol=1e-5)


def test_collator_feeds_a_stock_bart(byte_bpe_tokenizer, texts):
    features = [byte_bpe_tokenizer(text) for text in texts[:8]]
    batch = DataCollatorForMASS(byte_bpe_tokenizer, seed=0)(features)
    assert set(batch) == {"input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "labels"}
    assert ((batch["labels"] != -100) == (batch["decoder_attention_mask"] == 1)).all()
    for read, labels, feature in zip(batch["decoder_input_ids"], batch["labels"], features, strict=True):
        at = (labels != -100).nonzero().flatten()
        assert labels[at].tolist() == feature["input_ids"][int(at[0]) + 1 : int(at[-1]) + 2]
        assert read[at].tolist() == feature["input_ids"][int(at[0]) : int(at[-1]) + 1]  # at the text's own positions
    model = bart()
    model.resize_token_embeddings(len(byte_bpe_tokenizer), mean_resizing=False)
    model.model.decoder.embed_positions = type(model.model.decoder.embed_positions)(2000, 16)
    model.model.encoder.embed_positions = type(model.model.encoder.embed_positions)(2000, 16)
    assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize(("name", "value"), [("mass_ratio", 0), ("edge_prob", 0.6), ("mask_replace_prob", 1.2)])
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        get_objective("mass", **{name: value})
    with pytest.raises(ValueError, match=name):
        replace(get_objective("mass"), **{name: value})
