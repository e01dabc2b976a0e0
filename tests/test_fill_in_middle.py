"""Fill in the middle: the text back from its parts, rates, orders, ends of documents, collator."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from pretrain_zoo.objectives import DataCollatorForFillInMiddle, Draws, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.documents import from_lists

END, PRE, SUF, MID, FIRST, SIZE = 0, 1, 2, 3, 10, 500
NAMES = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"]


@pytest.fixture(scope="module")
def vocabulary():
    maskable = np.arange(SIZE) >= FIRST
    special = dict(zip(NAMES, (PRE, SUF, MID), strict=True))
    return Vocabulary(SIZE, maskable, np.flatnonzero(maskable), eos_id=END, special=special)


def corrupt(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


def restored(row):
    """(text, order, lengths of prefix and middle) of a rearranged row."""
    assert row[-1] == END
    assert [row.count(token) for token in (PRE, SUF, MID)] == [1, 1, 1]
    assert row[0] == PRE
    a, b = row.index(SUF), row.index(MID)
    suffix, rest = row[a + 1 : b], row[b + 1 : -1]
    if a > 1:  # the prefix is in its place
        return row[1:a] + rest + suffix, "psm"
    return rest + suffix, "spm or empty"


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    closed=st.booleans(),
    seed=st.integers(0, 500),
)
def test_parts_make_the_text(vocabulary, lengths, rate, closed, seed):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(FIRST, SIZE, n).tolist() for n in lengths]
    rows = {"input_ids": Ragged.from_rows([t + [END] * closed for t in texts], np.int64)}
    out = corrupt(get_objective("fim", fim_rate=rate), rows, vocabulary, seed)
    for text, row, positions, labels in zip(
        texts, *(out[n].tolist() for n in ("input_ids", "label_positions", "label_ids")), strict=True
    ):
        if PRE in row:
            assert rate > 0
            assert restored(row)[0] == text
        else:
            assert rate < 1
            assert row == text + [END] * closed
        assert positions == list(range(max(len(row) - 1, 0)))
        assert labels == row[1:]


def test_rates_orders_and_cuts(vocabulary):
    count, n = 30_000, 4
    rows = {"input_ids": Ragged(np.tile([10, 11, 12, 13], count), np.full(count, n))}
    out = corrupt(get_objective("fim", fim_rate=0.7, fim_spm_rate=0.3), rows, vocabulary)["input_ids"].tolist()
    moved = [row for row in out if PRE in row]
    assert abs(len(moved) / count - 0.7) < 5 * math.sqrt(0.21 / count)
    late = [row for row in moved if row[1] == SUF]  # also those with an empty prefix
    empty = 1 - (1 - 1 / (n + 1)) ** 2  # one of two cuts at the beginning
    p = 0.3 + 0.7 * empty
    assert abs(len(late) / len(moved) - p) < 5 * math.sqrt(p * (1 - p) / len(moved))
    suffixes = np.array([row.index(MID) - row.index(SUF) - 1 for row in moved])
    for size in range(n + 1):  # the later of two uniform cuts stands n − size from the beginning
        at = n - size
        p = ((at + 1) ** 2 - at**2) / (n + 1) ** 2
        assert abs((suffixes == size).mean() - p) < 5 * math.sqrt(p * (1 - p) / len(moved))


def test_plan_fits_and_ends_documents(vocabulary):
    rng = np.random.default_rng(0)
    texts = [rng.integers(FIRST, SIZE, n).tolist() for n in (5, 28, 29, 100)]
    documents = from_lists([[text] for text in texts])
    objective = get_objective("fim", fim_rate=1.0)
    plan = objective.plan(documents, vocabulary, length=32, seed=0, epoch=0, global_batch=1)
    rows = plan.rows(np.arange(len(plan)))
    pieces = [t[i : i + 28] + [END] * (i + 28 >= len(t)) for t in texts for i in range(0, len(t), 28)]
    assert sorted(rows["input_ids"].tolist()) == sorted(pieces)
    out = corrupt(objective, rows, vocabulary)
    assert out["input_ids"].lengths.max() == 32


def test_collator_feeds_a_stock_gpt2(byte_bpe_tokenizer, texts):
    import copy

    tokenizer = copy.deepcopy(byte_bpe_tokenizer)
    with pytest.raises(ValueError, match="lacks <fim_prefix>, <fim_suffix>, <fim_middle>"):
        DataCollatorForFillInMiddle(tokenizer)
    tokenizer.add_tokens(NAMES, special_tokens=True)
    encoded = tokenizer(texts[:6], add_special_tokens=False, padding=True)
    batch = DataCollatorForFillInMiddle(tokenizer, fim_rate=1.0, seed=0)(
        [{name: encoded[name][i] for name in ("input_ids", "attention_mask")} for i in range(6)]
    )
    real = batch["attention_mask"] == 1
    assert torch.equal(batch["labels"][:, 1:][real[:, 1:]], batch["input_ids"][:, 1:][real[:, 1:]])
    assert (batch["labels"][~real] == -100).all()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)).eval()
    assert torch.isfinite(model(**batch).loss)


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="fim_rate"):
        get_objective("fim", fim_rate=2)
    with pytest.raises(ValueError, match="packing"):
        get_objective("fim", packing="blocks")
