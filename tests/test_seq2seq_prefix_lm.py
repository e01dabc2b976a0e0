"""Prefix LM of an encoder-decoder: where texts are cut, that the parts make the text, lengths, and stock models."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import text
from transformers import T5Config, T5ForConditionalGeneration

from pretrain_zoo.objectives import DataCollatorForSeq2SeqPrefixLM, Draws, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.documents import from_lists

BEGIN, END, PAD = 1, 2, 3


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    maskable = np.arange(60) > 4
    special = {"prefix": (BEGIN,), "suffix": (END,), "eos_id": END, "pad_id": PAD, "bos_id": BEGIN}
    return Vocabulary(size=60, maskable=maskable, random_pool=np.flatnonzero(maskable), **special)


def corrupt(rows, vocabulary, seed=0):
    number = np.arange(len(rows["input_ids"]))
    return get_objective("seq2seq_prefix_lm").corrupt(rows, Draws.of(seed, number, 0, number), vocabulary)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=6), framed=st.booleans(), seed=st.integers(0, 500))
def test_both_parts_make_the_text(vocabulary, lengths, framed, seed):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(5, 60, n).tolist() for n in lengths]
    rows = {"input_ids": Ragged.from_rows([[BEGIN] * framed + t + [END] * framed for t in texts], np.int64)}
    out = corrupt(rows, vocabulary, seed)
    names = ("input_ids", "decoder_input_ids", "label_positions", "label_ids")
    for t, inputs, read, positions, labels in zip(texts, *(out[n].tolist() for n in names), strict=True):
        assert inputs[0] == BEGIN and inputs[-1] == labels[-1] == END
        assert inputs[1:-1] + labels[:-1] == t
        assert len(inputs) > 2 or not t
        assert len(labels) > 1 or len(t) < 2
        assert read == [PAD, *labels[:-1]] and positions == list(range(len(labels)))


def test_every_cut_is_equally_likely(vocabulary):
    count, n = 20_000, 6
    rows = {"input_ids": Ragged(np.tile(np.arange(10, 16), count), np.full(count, n))}
    cuts = np.bincount(corrupt(rows, vocabulary)["input_ids"].lengths - 2, minlength=n + 1)
    assert cuts[0] == cuts[n] == 0
    assert np.abs(cuts[1:n] - count / 5).max() < 5 * (count * 0.16) ** 0.5


@pytest.mark.parametrize("packing", ["blocks", "full_sentences", "documents"])
def test_parts_fit_the_length_and_no_token_is_lost(packing, vocabulary):
    rng = np.random.default_rng(0)
    documents = from_lists([[rng.integers(5, 60, size).tolist()] for size in (40, 3, 17, 30, 1, 9)])
    objective = get_objective("seq2seq_prefix_lm", packing=packing)
    plan = objective.plan(documents, vocabulary, length=12, seed=0, epoch=0, global_batch=1)
    out = corrupt(plan.rows(np.arange(len(plan))), vocabulary)
    assert out["input_ids"].lengths.max() <= 12 and out["label_ids"].lengths.max() <= 12
    if packing == "blocks":
        parts = zip(out["input_ids"].tolist(), out["label_ids"].tolist(), strict=True)
        whole = sum((a[1:-1] + b[:-1] for a, b in parts), [])
        assert whole == documents.tokens[documents.tokens >= 0].tolist()


def test_collator_feeds_a_stock_t5():
    tokenizer = text()[0]
    features = [tokenizer(t) for t in ("the miller mends a clock", "nobody forgot")]
    batch = DataCollatorForSeq2SeqPrefixLM(tokenizer, seed=0)(features)
    config = T5Config(vocab_size=len(tokenizer), d_model=32, d_ff=64, d_kv=16, num_layers=1, num_heads=2)
    config.decoder_start_token_id = config.pad_token_id = tokenizer.pad_token_id
    assert T5ForConditionalGeneration(config)(**batch).loss.isfinite()
    for feature, inputs, labels in zip(features, batch["input_ids"], batch["labels"], strict=True):
        special = set(tokenizer.all_special_ids)
        parts = [i for i in inputs.tolist() + labels.tolist() if i >= 0 and i not in special]
        assert parts == [i for i in feature["input_ids"] if i not in special]


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="unknown packing"):
        get_objective("seq2seq_prefix_lm", packing="sentences")
