"""Mixtures: which draw is of which component, held-out rows, languages."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from phased_runs import LENGTH, components, corpus, drawn, run_of

from pretrain_zoo.objectives import Term, get_objective
from pretrain_zoo.objectives.diffusion import stratified_ticks
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset
from pretrain_zoo.training.mixed_evaluation import MixedEvaluationDataset
from pretrain_zoo.training.mixture import Component, Phase, PhasedDataset
from pretrain_zoo.training.quotas import Weights


@pytest.fixture(scope="module")
def text():
    """(tokenizer, vocabulary, two corpora that share no document)."""
    return corpus()


def test_draws_are_of_their_component_and_visit_each_example_once_an_epoch(text):
    a, b = components(text, "mlm", "clm")
    data = run_of(text, a, b, weights=(3, 1), steps=40)
    draws = drawn(data, range(len(data))).draws
    for c, part in enumerate((a, b)):
        own = draws.take(np.flatnonzero(draws.component == c))
        size = len(part.objective.plan(part.train, text[1], length=LENGTH, seed=0, epoch=0, global_batch=8))
        assert len(own) == len(data) * (3, 1)[c] // 4
        for epoch in range(int(own.epoch.max())):  # complete ones
            assert np.array_equal(np.sort(own.example[own.epoch == epoch]), np.arange(size))
    assert draws.number.tolist() == list(range(len(data)))


def test_a_source_that_runs_out_begins_anew_in_another_order(text):
    (a,) = components(text, "mlm")
    data = run_of(text, a, weights=(1,), steps=100, rows=16)
    draws = drawn(data, range(len(data))).draws
    first, second = (draws.example[draws.epoch == epoch] for epoch in (0, 1))
    assert sorted(first) == sorted(second) and first.tolist() != second.tolist()


def test_all_draws_of_a_step_are_of_one_component_if_mixed_by_batch(text):
    data = run_of(text, *components(text, "mlm", "clm"), weights=(1, 3), steps=40, mixing="batch", micro_batches=2)
    draws = [drawn(data, range(i * 16, i * 16 + 16)).draws for i in range(40)]
    steps = np.array([d.component[0] for d in draws])
    assert all((d.component == d.component[0]).all() for d in draws)
    assert np.bincount(steps[:32]).tolist() == [8, 24]  # a block of 32 steps


@pytest.mark.parametrize("steps", [20, 100])
def test_weights_move_even_where_blocks_are_long(text, steps):
    """From 0 to 1 in a straight line, a step at a time of one component: half of the steps, and more and more."""
    parts = components(text, "mlm", "clm")
    shares = Weights((1.0, 0.0), (0.0, 1.0))
    data = PhasedDataset([Phase("only", steps, 8, parts, shares, "batch")], text[1], micro_batches=1, seed=3)
    second = np.array([drawn(data, [step * 8]).draws.component[0] for step in range(steps)])
    assert abs(second.sum() - (steps - 1) / 2) < 1 + steps / 32
    if steps == 100:
        thirds = [second[i : i + 32].sum() for i in (0, 32, 64)]
        assert np.abs(np.array(thirds) - 32 * np.array([0.155, 0.475, 0.795])).max() < 1


def test_the_same_draws_in_any_batches_and_workers(text):
    data = run_of(text, *components(text, "mlm", "clm"), steps=6)
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 - what a spawned worker gets
    collate = DrawCollator(data.objective, text[1])
    for begin in range(0, 48, 8):
        one, other = collate(drawn(data, range(begin, begin + 8))), collate(drawn(copy, range(begin, begin + 8)))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        rows = [drawn(data, [n]).draws for n in range(begin, begin + 8)]
        whole = drawn(data, range(begin, begin + 8)).draws
        assert [int(row.key[0]) for row in rows] == whole.key.tolist()


def test_components_on_one_corpus_read_it_in_orders_of_their_own(text):
    a, b = components(text, "mlm", "clm")
    data = run_of(text, a, replace(b, train=a.train), steps=20)
    draws = drawn(data, range(160)).draws
    orders = [draws.example[draws.component == c][:40].tolist() for c in (0, 1)]
    assert orders[0] != orders[1]


def test_streams_are_refused(text):
    (a,) = components(text, "recurrent_clm")
    with pytest.raises(ValueError, match="a: recurrent_clm reads its text in streams"):
        run_of(text, a, weights=(1,))


def test_held_out_rows_of_each_component_once(text):
    data = run_of(text, *components(text, "mlm", "clm"), weights=(3, 1))
    held_out = MixedEvaluationDataset(data, max_rows=10, seed=1)
    batches = [batch for group in held_out.batches(4) for batch in group]
    assert sorted(n for batch in batches for n in batch) == list(range(20))
    for batch in batches:
        assert len(set(held_out.__getitems__(batch).draws.component.tolist())) == 1
    means = {"a.mlm_loss": 4.0, "b.clm_loss": 8.0}
    assert held_out.after(2).loss_of(means, data.objective.terms, 0.5) == pytest.approx(0.75 * 4 + 0.25 * 8)


def test_components_mask_an_example_each_in_its_own_way(text):
    """Two that read one corpus: noise is keyed on the component, too."""
    a, b = components(text, "mlm", "mlm")
    data = run_of(text, a, replace(b, train=a.train), steps=400)
    draws = drawn(data, range(len(data))).draws
    keys: dict[tuple[int, int], dict[int, int]] = {}
    for component, epoch, example, key in zip(draws.component, draws.epoch, draws.example, draws.key):
        keys.setdefault((int(epoch), int(example)), {})[int(component)] = int(key)
    both = [found for found in keys.values() if len(found) == 2]
    assert len(both) > 100 and all(found[0] != found[1] for found in both)


def test_held_out_loss_has_that_of_routers(text):
    """As the loss of training, where it is not the mixture's but the model's."""
    data = run_of(text, *components(text, "clm", "clm"))
    held_out = MixedEvaluationDataset(data, max_rows=10)
    means = {"a.clm_loss": 2.0, "b.clm_loss": 4.0, "load_balancing_loss": 1.5}
    terms = data.objective.terms | {"load_balancing": Term(0.02, additive=False)}
    assert held_out.loss_of(means, terms, 0.0) == pytest.approx(3.0 + 0.02 * 1.5)


@pytest.mark.parametrize("mixed", [False, True])
def test_held_out_rows_have_evenly_spread_times(text, mixed):
    """Wherever in the corpus they are: here every 13th, by which the golden ratio hardly gets on."""
    _, vocabulary, one, two = text
    objective = get_objective("diffusion", packing="documents")
    held_out = part = EvaluationDataset(objective, one, vocabulary, length=LENGTH, seed=1, max_rows=20)
    if mixed:
        data = run_of(text, Component("a", objective, LENGTH, two, one), weights=(1,))
        held_out = MixedEvaluationDataset(data, max_rows=20, seed=1)
        (part,) = held_out.parts
    part.examples = 13 * np.arange(20)
    times = stratified_ticks(held_out.__getitems__(list(range(20))).draws) / 2**24
    assert np.abs(np.sort(times) - (np.arange(20) + 0.5) / 20).max() < 3 / 20


def test_rows_of_one_language_say_which(text):
    """XLM adds the embedding of the language to every token, of monolingual rows too."""
    tokenizer, vocabulary, one, two = text
    pairs = np.arange(len(two)).reshape(-1, 2)
    parallel = replace(two, translations=pairs, languages=np.tile(np.array([0, 1], np.int16), len(pairs)))
    mono = Component("ko", get_objective("mlm"), LENGTH, one, one, (2,))
    both = Component("tlm", get_objective("tlm"), 32, parallel, parallel, (2, 0), order=1)
    for mixing in ("example", "batch"):
        data = run_of(text, mono, both, mixing=mixing, steps=8)
        collate = DrawCollator(data.objective, vocabulary)
        seen = set()
        for step in range(8):
            batch = collate(drawn(data, range(step * 8, step * 8 + 8)))
            name = next(name for name in batch if name.startswith("components_"))
            for c, langs, places, mask in zip(
                batch[name].tolist(), batch["langs"], batch.get("position_ids", batch["langs"]), batch["attention_mask"]
            ):
                seen.add(c)
                length = int(mask.sum())
                assert set(langs[:length].tolist()) == ({2} if c == 0 else {0, 2})
                if mixing == "example" and c == 0:
                    assert places[:length].tolist() == list(range(length))
        assert seen == {0, 1}
