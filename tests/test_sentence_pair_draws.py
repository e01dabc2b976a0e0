"""What sentence pairs draw, by count: labels, target lengths, cuts, random documents, truncation."""

import math

import numpy as np
import pytest
from pair_corpora import FIRST, make_corpus, plan_of, random_lengths, reference_pairs, texts_of

from pretrain_zoo.objectives import keyed
from pretrain_zoo.objectives.pair_plan import heads, truncate_pairs


def test_labels_are_even():
    documents, nested, vocabulary = make_corpus(random_lengths(800))
    sop = plan_of("sop", documents, vocabulary)
    labels = sop.rows(np.arange(len(sop)))["pair_labels"]
    assert abs(labels.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(labels))
    nsp = plan_of("nsp", documents, vocabulary)
    labels = nsp.rows(np.arange(len(nsp)))["pair_labels"]
    several = np.array([n > 1 for *_, n in reference_pairs(nested, 29, 3, 0, 0.1, True)])
    assert abs(labels[several].mean() - 0.5) < 5 * 0.5 / math.sqrt(several.sum())
    assert (labels[~several] == 1).all() and labels.mean() > 0.5


def test_target_lengths_are_drawn_per_document():
    room, count = 29, 4000
    documents, _, vocabulary = make_corpus([[1] * 60] * count)
    plan = plan_of("sop", documents, vocabulary, short_seq_prob=0.25)
    rows = plan.rows(np.arange(len(plan)))
    document = (np.array([ids[1] for ids in rows["input_ids"].tolist()]) - FIRST) // 60
    length = rows["input_ids"].lengths - 3
    drawn = []
    for d in range(count):
        own = length[document == d]
        assert len(set(own[:-1])) == 1  # all but what is left at the end have the same length
        drawn.append(own[0])
    drawn = np.array(drawn)
    expected = np.full(room - 1, 0.25 / (room - 1))  # 2 … room, and the full length for all others
    expected[-1] += 0.75
    observed = np.bincount(drawn, minlength=room + 1)[2:]
    assert observed.sum() == count
    assert (np.abs(observed - count * expected) < 5 * np.sqrt(count * expected * (1 - expected))).all()


def test_cuts_are_uniform():
    documents, _, vocabulary = make_corpus([[1] * 10] * 6000)
    plan = plan_of("sop", documents, vocabulary, length=13, short_seq_prob=0.0)
    cuts = np.array([len(b) if label else len(a) for a, b, label in texts_of(plan.rows(np.arange(len(plan))))])
    observed = np.bincount(cuts, minlength=10)[1:]
    assert len(observed) == 9 and (np.abs(observed - 6000 / 9) < 5 * math.sqrt(6000 / 9)).all()


def test_random_documents_and_sentences_are_uniform():
    documents, nested, vocabulary = make_corpus([[1, 1, 1, 1]] * 5)
    seen = np.zeros((5, 5, 4))
    for epoch in range(400):
        plan = plan_of("nsp", documents, vocabulary, length=6, epoch=epoch, short_seq_prob=0.0)
        for a, b, label in texts_of(plan.rows(np.arange(len(plan)))):
            if label:
                seen[(a[0] - FIRST) // 4, (b[0] - FIRST) // 4, (b[0] - FIRST) % 4] += 1
    assert (np.diagonal(seen) == 0).all()
    for d in range(5):
        others = np.delete(seen[d], d, axis=0)
        expected = others.sum() / 16
        assert (np.abs(others - expected) < 5 * math.sqrt(expected)).all()


def test_truncation_is_that_of_one_token_at_a_time():
    rng = np.random.default_rng(0)
    trials, room = 40_000, 10
    a_length, b_length = 9, 12
    key = keyed.combine(5, np.arange(trials))
    zero = np.zeros(trials, np.int64)
    a0, a1, b0, b1 = truncate_pairs(key, zero, zero + a_length, zero + 100, zero + 100 + b_length, room)
    reference = []
    for _ in range(trials):
        a, b = [0, a_length], [100, 100 + b_length]
        while a[1] - a[0] + b[1] - b[0] > room:
            longer = a if a[1] - a[0] > b[1] - b[0] else b
            if rng.random() < 0.5:
                longer[0] += 1
            else:
                longer[1] -= 1
        reference.append((*a, *b))
    reference = np.array(reference)
    assert (a1 - a0 == (reference[:, 1] - reference[:, 0])[0]).all()
    assert (b1 - b0 == (reference[:, 3] - reference[:, 2])[0]).all()
    for ours, theirs in ((a0, reference[:, 0]), (b0, reference[:, 2])):
        size = max(ours.max(), theirs.max()) + 1
        mine, other = np.bincount(ours, minlength=size), np.bincount(theirs, minlength=size)
        assert (np.abs(mine - other) < 5 * np.sqrt(mine + other + 1)).all()
    independent = np.corrcoef(a0, b0)[0, 1]
    assert abs(independent) < 5 / math.sqrt(trials)


@pytest.mark.parametrize("tosses", [0, 1, 63, 64, 65, 200])
def test_heads_are_binomial(tosses):
    count = 20_000
    found = heads(keyed.combine(1, np.arange(count)), np.full(count, tosses), 7)
    assert found.min() >= 0 and found.max() <= tosses
    assert abs(found.mean() - tosses / 2) <= 5 * math.sqrt(tosses / 4 / count)
    assert found.var() == pytest.approx(tosses / 4, rel=0.1)
