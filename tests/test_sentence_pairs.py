"""Sentence pairs: packing against a sequential loop, labels and contiguity, layout, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from pair_corpora import (
    CLS,
    FIRST,
    SEP,
    make_corpus,
    make_vocabulary,
    plan_of,
    random_lengths,
    reference_pairs,
    texts_of,
)

from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.objectives.documents import from_lists
from pretrain_zoo.training.dataset import PretrainingDataset


@pytest.mark.parametrize("name", ["nsp", "sop"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_plan_is_what_a_sequential_loop_gives(name, epoch):
    documents, nested, vocabulary = make_corpus(random_lengths())
    plan = plan_of(name, documents, vocabulary, epoch=epoch, short_seq_prob=0.4)
    room = 32 - 3
    expected = reference_pairs(nested, room, 3, epoch, 0.4, name == "nsp")
    found = texts_of(plan.rows(np.arange(len(plan))))
    assert len(found) == len(expected)
    truncated = 0
    for (a, b, label), (full_a, full_b, full_label, _) in zip(found, expected, strict=True):
        assert label == full_label
        if len(full_a) + len(full_b) <= room:
            assert (a, b) == (full_a, full_b)
            continue
        truncated += 1
        lengths = [len(full_a), len(full_b)]
        while sum(lengths) > room:
            lengths[0 if lengths[0] > lengths[1] else 1] -= 1
        assert [len(a), len(b)] == lengths
        assert any(full_a[i : i + len(a)] == a for i in range(len(full_a)))
        assert any(full_b[i : i + len(b)] == b for i in range(len(full_b)))
    assert truncated > 10


def test_many_blocks_give_the_same_plan(monkeypatch):
    documents, _, vocabulary = make_corpus(random_lengths(200))
    whole = plan_of("nsp", documents, vocabulary).firsts
    monkeypatch.setattr("pretrain_zoo.objectives.pair_plan._BLOCK", 7)
    assert np.array_equal(plan_of("nsp", documents, vocabulary).firsts, whole)


def test_real_pairs_are_contiguous_and_random_texts_come_from_other_documents():
    documents, nested, vocabulary = make_corpus(random_lengths(60))
    owner = {token: d for d, document in enumerate(nested) for sentence in document for token in sentence}
    plan = plan_of("nsp", documents, vocabulary, length=400)  # room for whole documents: nothing is truncated
    for a, b, label in texts_of(plan.rows(np.arange(len(plan)))):
        assert a == list(range(a[0], a[0] + len(a))) and b == list(range(b[0], b[0] + len(b)))
        if label == 0:
            assert b[0] == a[-1] + 1
        assert (owner[a[0]] == owner[b[0]]) == (label == 0)


def test_unswapped_pairs_are_contiguous_text_of_one_document():
    documents, nested, vocabulary = make_corpus(random_lengths(60))
    owner = {token: d for d, document in enumerate(nested) for sentence in document for token in sentence}
    plan = plan_of("sop", documents, vocabulary, length=200, short_seq_prob=0.0)
    for a, b, label in texts_of(plan.rows(np.arange(len(plan)))):
        text = b + a if label else a + b
        assert text == list(range(text[0], text[0] + len(text)))
        assert len({owner[token] for token in text}) == 1
    assert len(plan) == sum(len(document) > 1 for document in nested)  # single sentences are dropped


def test_no_sentence_is_lost():
    lengths = [[1] * n for n in np.random.default_rng(1).integers(1, 80, 50)]
    documents, nested, vocabulary = make_corpus(lengths)
    for seed in range(3):
        plan = plan_of("nsp", documents, vocabulary, length=23, seed=seed)
        used = [a if label else a + b for a, b, label in texts_of(plan.rows(np.arange(len(plan))))]
        assert sorted(sum(used, [])) == sorted(token for document in nested for (token,) in document)


def test_pairs_depend_on_seed_and_epoch_but_not_on_the_batch():
    documents, _, vocabulary = make_corpus(random_lengths(60))
    plan, again = (plan_of("nsp", documents, vocabulary) for _ in range(2))
    rows = plan.rows(np.arange(len(plan)))
    assert texts_of(rows) == texts_of(again.rows(np.arange(len(again))))
    shuffled = np.random.default_rng(0).permutation(len(plan))
    assert texts_of(again.rows(shuffled)) == [texts_of(rows)[i] for i in shuffled]
    for other in (plan_of("nsp", documents, vocabulary, epoch=1), plan_of("nsp", documents, vocabulary, seed=4)):
        assert texts_of(rows) != texts_of(other.rows(np.arange(len(other))))


def test_a_run_takes_every_pair_of_each_epoch_once():
    documents, _, vocabulary = make_corpus(random_lengths(40))
    plans = [plan_of("nsp", documents, vocabulary, epoch=e) for e in range(2)]
    total = sum(map(len, plans))
    data = PretrainingDataset(
        get_objective("nsp"), documents, vocabulary, length=32, global_batch=total, max_steps=1, seed=3
    )
    rows = data.__getitems__(list(range(total))).rows
    expected = [pair for plan in plans for pair in texts_of(plan.rows(np.arange(len(plan))))]
    assert sorted(texts_of(rows)) == sorted(expected)


def test_empty_documents_are_passed_over():
    documents = from_lists([[], [[10, 11], [12]], [], [[13], [14, 15]], []])
    plan = plan_of("nsp", documents, make_vocabulary(16), length=16, short_seq_prob=0.0)
    for a, b, _ in texts_of(plan.rows(np.arange(len(plan)))):
        assert a and b and min(a + b) >= FIRST


def test_layout_follows_the_tokenizer(byte_bpe_tokenizer, wordpiece_tokenizer):
    for tokenizer in (byte_bpe_tokenizer, wordpiece_tokenizer):
        vocabulary = Vocabulary.from_tokenizer(tokenizer)
        first, second = "the miller mends", " his umbrella"
        a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (first, second))
        plan = plan_of("sop", from_lists([[a, b]]), vocabulary, length=64, seed=0, short_seq_prob=0.0)
        rows = plan.rows(np.arange(1))
        texts = (second, first) if rows["pair_labels"][0] else (first, second)
        expected = tokenizer(*texts)
        assert rows["input_ids"].tolist() == [expected["input_ids"]]
        assert ("token_type_ids" in rows) == ("token_type_ids" in expected)
        if "token_type_ids" in rows:
            assert rows["token_type_ids"].tolist() == [expected["token_type_ids"]]


def test_word_starts_come_with_the_pairs():
    documents, _, vocabulary = make_corpus(random_lengths(60))
    starts = np.random.default_rng(0).random(len(documents.tokens)) < 0.6
    expected = dict(zip(documents.tokens.tolist(), starts.tolist(), strict=True)) | {CLS: True, SEP: True}
    plan = get_objective("ngram_mlm+sop").plan(
        replace(documents, word_starts=starts), vocabulary, length=48, seed=0, epoch=0, global_batch=1
    )
    rows = plan.rows(np.arange(len(plan)))
    assert rows["word_starts"].values.tolist() == [expected[token] for token in rows["input_ids"].values.tolist()]


def test_what_cannot_work_is_refused():
    documents, _, vocabulary = make_corpus([[3, 4, 5]])
    with pytest.raises(ValueError, match="held-out part, has 1; separate documents"):
        plan_of("nsp", documents, vocabulary)
    assert len(plan_of("sop", documents, vocabulary))
    with pytest.raises(ValueError, match="no room for two texts"):
        plan_of("sop", documents, vocabulary, length=4)
    with pytest.raises(ValueError, match="short_seq_prob"):
        get_objective("nsp", short_seq_prob=1.5)
    bare = Vocabulary(size=20, maskable=vocabulary.maskable, random_pool=vocabulary.random_pool, pad_id=0)
    with pytest.raises(ValueError, match="no special token before a pair"):
        get_objective("nsp").check(bare)
