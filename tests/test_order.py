"""The order of a run: each epoch visits each example once, in an order of its own, found from the draw's number."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pretrain_zoo.objectives import Ragged, keyed
from pretrain_zoo.objectives.source import EpochSource, shuffled

SIZES = [7, 5, 9, 6]


@dataclass
class Plan:
    """Example `i` of epoch `e` is the row `[100 e + i]`, and its token that often."""

    size: int
    epoch: int = 0
    order: str = "shuffled"

    def __len__(self):
        return self.size

    def rows(self, index):
        index = np.asarray(index)
        return {"input_ids": Ragged(np.repeat(100 * self.epoch + index, index), index), "index": index}


@dataclass
class Plans:
    """Gives plans and counts how often each was asked for."""

    sizes: list[int]
    order: str = "shuffled"
    asked: list[int] = field(default_factory=list)

    def __call__(self, epoch: int) -> Any:
        self.asked.append(epoch)
        return Plan(self.sizes[epoch % len(self.sizes)], epoch, self.order)


def source(plans, **settings) -> EpochSource:
    return EpochSource(plans, **{"seed": 3, "global_batch": 4, **settings})


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 63, 64, 65, 1000, 4097])
def test_shuffle_is_a_permutation(size):
    everything = np.full(size, size)
    one, other = (shuffled(np.arange(size), everything, np.full(size, key, np.uint64)) for key in (1, 2))
    assert np.array_equal(np.sort(one), np.arange(size))
    if size > 60:
        assert (one != other).mean() > 0.9
        assert abs(np.corrcoef(one, np.arange(size))[0, 1]) < 5 / size**0.5
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / size**0.5


@pytest.mark.parametrize("size", [3, 5, 12, 70])
def test_shuffle_is_uniform_over_keys(size):
    keys = keyed.combine(11, np.arange(40_000))
    where = np.stack([shuffled(np.full(len(keys), i), np.full(len(keys), size), keys) for i in (0, size - 1)])
    expected = len(keys) / size
    for row in where:
        counts = np.bincount(row, minlength=size)
        assert abs(counts - expected).max() < 5 * (expected * (1 - 1 / size)) ** 0.5
    pairs = np.bincount(where[0] * size + where[1], minlength=size**2)
    expected = len(keys) / (size * (size - 1))
    freedom = size * (size - 1) - 1
    statistic = ((pairs[pairs > 0] - expected) ** 2 / expected).sum() + expected * (
        size * (size - 1) - (pairs > 0).sum()
    )
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_shuffle_of_a_billion_takes_no_table():
    found = shuffled(np.arange(1000), np.full(1000, 10**9), np.full(1000, 5, np.uint64))
    assert len(set(found.tolist())) == 1000 and found.max() < 10**9
    assert abs(found.mean() / 5e8 - 1) < 5 / (3 * 1000) ** 0.5


@pytest.mark.parametrize("replans", [False, True])
def test_each_epoch_visits_each_example_once_in_its_own_order(replans):
    sizes = SIZES if replans else [50]
    order = source(Plans(sizes), replans=replans)
    ends = np.cumsum([sizes[e % len(sizes)] for e in range(4)])
    epoch, example = order.locate(np.arange(ends[-1]))
    orders = []
    for e, (begin, end) in enumerate(zip([0, *ends[:-1]], ends)):
        assert (epoch[begin:end] == e).all()
        assert np.array_equal(np.sort(example[begin:end]), np.arange(end - begin))
        orders.append(tuple(example[begin:end]))
    assert len(set(orders)) == len(orders)
    assert (np.diff(example[: ends[0]]) != 1).any()


def test_order_depends_on_the_seed_and_the_number_alone():
    numbers = np.arange(60)
    whole = source(Plans(SIZES), replans=True).locate(numbers)
    late = source(Plans(SIZES), replans=True)
    backwards = np.array([late.locate(np.array([n])) for n in numbers[::-1]])[::-1, :, 0].T
    assert np.array_equal(np.stack(whole), backwards)
    other = source(Plans(SIZES), replans=True, seed=4).locate(numbers)
    assert not np.array_equal(whole[1], other[1])


def test_rows_of_two_epochs_come_in_the_order_of_their_draws():
    order = source(Plans(SIZES), replans=True)
    numbers = np.array([8, 3, 11, 0, 6, 7])  # epochs 1, 0, 1, 0, 0, 1
    draws = order.draws(numbers, np.zeros(6))
    rows = order.rows(draws)
    assert rows["index"].tolist() == draws.example.tolist()
    assert draws.epoch.tolist() == [1, 0, 1, 0, 0, 1]
    tokens = [row.tolist() for row in np.split(rows["input_ids"].values, rows["input_ids"].offsets[1:-1])]
    assert tokens == [[100 * e + i] * i for e, i in zip(draws.epoch, draws.example)]


def test_state_spares_planning_earlier_epochs():
    first = Plans(SIZES)
    state = source(first, replans=True).state(80)
    assert state[:4] == SIZES and sum(state) > 80
    second = Plans(SIZES)
    resumed = source(second, replans=True)
    resumed.restore(state)
    expected = source(Plans(SIZES), replans=True).locate(np.array([80, 81]))
    draws = resumed.draws(np.array([80, 81]), np.zeros(2))
    resumed.rows(draws)
    assert np.array_equal(np.stack([draws.epoch, draws.example]), np.stack(expected))
    assert set(second.asked) == {0, *expected[0].tolist()}
    assert source(Plans([7])).state(80) == []


@pytest.mark.parametrize("replans", [False, True])
def test_streams_are_read_in_sequence_side_by_side(replans):
    order = source(Plans([14], "streams"), replans=replans)  # 4 streams of 3 segments; two are left over
    epoch, example = order.locate(np.arange(24))
    assert example[:12].reshape(3, 4).T.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert np.array_equal(example[12:], example[:12])
    assert epoch.tolist() == [0] * 12 + [1] * 12


def test_order_travels_to_spawned_workers():
    order = source(Plans(SIZES), replans=True)
    again = pickle.loads(pickle.dumps(order))  # noqa: S301 - our own
    assert np.array_equal(order.locate(np.arange(20)), again.locate(np.arange(20)))


def test_unusable_plans_are_refused():
    with pytest.raises(ValueError, match="no example at this length"):
        source(Plans([0]))
    with pytest.raises(ValueError, match="3 segments for 4 parallel streams"):
        source(Plans([3], "streams"))
    late = source(Plans([5, 0]), replans=True)
    with pytest.raises(ValueError, match="no example at this length"):
        late.locate(np.array([5]))
