"""Gap sentences: ROUGE by counting, selection, masks, order of targets, collator."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PegasusConfig, PegasusForConditionalGeneration

from pretrain_zoo.objectives import DataCollatorForGapSentences, Draws, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.objectives.gap_sentences import rouge1

PAD, END, MASK, SENTENCE, FIRST, SIZE = 0, 1, 3, 2, 10, 60


@pytest.fixture(scope="module")
def vocabulary():
    maskable = np.arange(SIZE) >= FIRST
    special = {"<mask_1>": SENTENCE}
    return Vocabulary(SIZE, maskable, np.flatnonzero(maskable), MASK, PAD, eos_id=END, suffix=(END,), special=special)


def make_rows(documents):
    """Rows of documents given as lists of sentences, the end token behind."""
    ids = [[t for sentence in d for t in sentence] + [END] for d in documents]
    starts = [[i == 0 for s in d for i in range(len(s))] + [True] for d in documents]
    return {"input_ids": Ragged.from_rows(ids, np.int64), "sentence_starts": Ragged.from_rows(starts, bool)}


def corrupt(objective, rows, vocabulary, seed=0):
    count = len(rows["input_ids"])
    return objective.corrupt(rows, Draws.of(seed, np.arange(count), 0, np.arange(count)), vocabulary)


def f1(sentence, rest):
    overlap = sum((Counter(sentence) & Counter(rest)).values())
    if not overlap:
        return 0.0
    precision, recall = overlap / len(sentence), overlap / len(rest)
    return 2 * precision * recall / (precision + recall)


sentences = st.lists(st.lists(st.integers(FIRST, FIRST + 12), min_size=1, max_size=8), min_size=0, max_size=7)


@settings(max_examples=60, deadline=None)
@given(documents=st.lists(sentences, min_size=1, max_size=5), seed=st.integers(0, 500))
def test_scores_masks_and_targets_by_counting(vocabulary, documents, seed):
    rows = make_rows(documents)
    flat = [s for d in documents for s in d]
    text = Ragged.from_rows([[t for s in d for t in s] for d in documents], np.int64)
    size = np.array([len(s) for s in flat], np.int64)
    scores = rouge1(text, np.cumsum(size) - size, size)
    expected = [f1(s, [t for j, o in enumerate(d) if j != i for t in o]) for d in documents for i, s in enumerate(d)]
    assert np.allclose(scores, expected)

    objective = get_objective("gsg", gap_sentence_ratio=0.5, min_share=1.0, score_noise=0.0, mask_replace_prob=1.0)
    out = corrupt(objective, rows, vocabulary, seed)
    begin = 0
    for d, inputs, targets in zip(documents, out["input_ids"].tolist(), out["label_ids"].tolist(), strict=True):
        mine, begin = np.array(expected[begin : begin + len(d)]), begin + len(d)
        count = min(max(1, len(d) // 2), len(d))
        taken = sorted(np.argsort(-mine.round(12), kind="stable")[:count].tolist())
        assert targets == [t for i in taken for t in d[i]] + [END]
        assert inputs == [t for i, s in enumerate(d) for t in ([SENTENCE] if i in taken else s)] + [END]


def test_shares_and_intact_sentences(vocabulary):
    rng = np.random.default_rng(0)
    count, number = 2000, 20
    documents = [[rng.integers(FIRST, SIZE, 4).tolist() for _ in range(number)] for _ in range(count)]
    rows = make_rows(documents)
    out = corrupt(get_objective("gsg"), rows, vocabulary)
    taken = np.array([(len(t) - 1) // 4 for t in out["label_ids"].tolist()])
    expected = np.floor(0.45 * number * (0.33 + 0.67 * (np.arange(10_000) + 0.5) / 10_000))
    assert abs(taken.mean() - expected.mean()) < 5 * expected.std() / math.sqrt(count)
    assert set(taken) == set(expected.astype(int))
    masks = (out["input_ids"].values == SENTENCE).sum()
    assert abs(masks / taken.sum() - 0.9) < 5 * math.sqrt(0.09 / taken.sum())
    for source, inputs, read, target in zip(
        *(c.tolist() for c in (rows["input_ids"], out["input_ids"], out["decoder_input_ids"], out["label_ids"])),
        strict=True,
    ):
        rest = iter(source)
        assert all(token in rest for token in inputs if token != SENTENCE)
        assert read == [PAD, *target[:-1]]


def test_noise_changes_what_is_taken(vocabulary):
    documents = [[[10, 11, 12, 13], [10, 11, 12, 14], [10, 11, 20, 21], [30, 31, 32, 33]]] * 400
    firm = corrupt(get_objective("gsg", gap_sentence_ratio=0.25, score_noise=0.0), make_rows(documents), vocabulary)
    noisy = corrupt(get_objective("gsg", gap_sentence_ratio=0.25, score_noise=0.2), make_rows(documents), vocabulary)
    assert {tuple(t) for t in firm["label_ids"].tolist()} == {(10, 11, 12, 13, END)}
    seen = Counter(tuple(t) for t in noisy["label_ids"].tolist())
    assert set(seen) == {(10, 11, 12, 13, END), (10, 11, 12, 14, END)}  # the third is too far behind


@pytest.mark.parametrize("suffix", [(), (END,)])
def test_inputs_and_targets_fit_the_length(suffix, vocabulary):
    """Also where every sentence is taken, and the tokenizer puts no end token behind a text."""
    bare = replace(vocabulary, suffix=suffix)
    documents = from_lists([[[20 + i] * 4 for i in range(30)]])
    objective = get_objective("gsg", gap_sentence_ratio=1.0, min_share=1.0, mask_replace_prob=0.0)
    plan = objective.plan(documents, bare, length=12, seed=0, epoch=0, global_batch=1)
    out = corrupt(objective, plan.rows(np.arange(len(plan))), bare)
    assert out["input_ids"].lengths.max() <= 12 and out["label_ids"].lengths.max() <= 12
    assert sum(len(row) - 1 for row in out["label_ids"].tolist()) == 120


def test_collator_feeds_a_stock_pegasus(byte_bpe_tokenizer, texts):
    features = [byte_bpe_tokenizer(text) for text in texts[:6]]
    batch = DataCollatorForGapSentences(byte_bpe_tokenizer, seed=0)(features)
    assert (batch["input_ids"] == byte_bpe_tokenizer.mask_token_id).any()  # it has no <mask_1>
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = PegasusConfig(
        vocab_size=len(byte_bpe_tokenizer), **size, **heads, pad_token_id=1, decoder_start_token_id=1
    )
    assert torch.isfinite(PegasusForConditionalGeneration(config).eval()(**batch).loss)


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="gap_sentence_ratio"):
        get_objective("gsg", gap_sentence_ratio=1.2)
