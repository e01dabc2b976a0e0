"""Shares of a mixture's components, and quotas in blocks of draws."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain_zoo.training.quotas import Quotas, Weights


def test_temperature_by_hand():
    """q ∝ p^α: sizes 800, 150, 50 at α = ½ give √800, √150, √50 over their sum."""
    roots = np.sqrt([800, 150, 50])
    weights = Weights((1, 1, 1), (1, 1, 1), (800, 150, 50), ("mlm",) * 3, (0.5, 0.5))
    np.testing.assert_allclose(weights.at(np.array([0.0, 0.7])), [roots / roots.sum()] * 2)
    np.testing.assert_allclose(
        Weights((1, 1), (1, 1), (900, 100), ("mlm",) * 2, (1.0, 0.0)).at(np.array([0.0, 0.5, 1.0])),
        [[0.9, 0.1], [0.75, 0.25], [0.5, 0.5]],  # 30 : 10 half way
    )


def test_sizes_spread_the_weight_of_one_objective_only():
    """Three parts of mlm to one of tlm: sizes 16 : 4 at α = ½ give mlm's 3 parts as 2 : 1, and leave tlm's."""
    weights = Weights((1, 2, 1), (1, 2, 1), (16, 1, 999), ("mlm", "mlm", "tlm"), (0.5, 0.5))
    np.testing.assert_allclose(weights.at(np.zeros(1)), [[0.5, 0.25, 0.25]])  # 1·4 : 2·1 of three quarters


def test_weights_move_in_a_straight_line():
    weights = Weights((1.0, 0.0), (0.0, 1.0))
    np.testing.assert_allclose(weights.at(np.array([0.0, 0.25, 1.0])), [[1, 0], [0.75, 0.25], [0, 1]])


@pytest.mark.parametrize("bad", [((0.0, 0.0), (1.0, 1.0)), ((1.0,), (0.0,)), ((-1.0, 2.0), (1.0, 1.0))])
def test_weights_that_are_all_zero_or_negative_are_refused(bad):
    with pytest.raises(ValueError, match="must not all be 0|0 or more"):
        Weights(*bad)


def test_every_block_holds_whole_quotas_exactly():
    quotas = Quotas(np.tile([0.5, 0.3, 0.2], (6, 1)), 20, np.array([7], np.uint64))
    component, before = quotas.locate(np.arange(120))
    for block in component.reshape(6, 20):
        assert np.bincount(block).tolist() == [10, 6, 4]
    assert len({tuple(block) for block in component.reshape(6, 20).tolist()}) == 6  # each shuffled anew
    for c in range(3):
        assert np.sort(before[component == c]).tolist() == list(range((component == c).sum()))


def test_broken_quotas_are_rounded_and_even_out():
    shares = np.array([0.07, 0.31, 0.62])
    quotas = Quotas(np.tile(shares, (500, 1)), 8, np.array([1], np.uint64))
    component, before = quotas.locate(np.arange(4000))
    counts = np.stack([np.bincount(block, minlength=3) for block in component.reshape(500, 8)])
    assert (counts >= np.floor(8 * shares)).all() and (counts <= np.ceil(8 * shares)).all()
    np.testing.assert_allclose(np.cumsum(counts, 0), np.outer(np.arange(1, 501) * 8, shares), atol=5)
    for c in range(3):
        assert np.array_equal(np.sort(before[component == c]), np.arange((component == c).sum()))
    for units in (0, 1, 8, 13, 4000):
        assert quotas.used(units).tolist() == np.bincount(component[:units], minlength=3).tolist()


def test_shares_that_move_are_followed_block_by_block():
    shares = np.stack([np.linspace(1, 0, 10), np.linspace(0, 1, 10)], 1)
    component, _ = Quotas(shares, 9, np.array([1], np.uint64)).locate(np.arange(90))
    assert component.reshape(10, 9).sum(1).tolist() == list(range(10))  # 9 · i / 9


def test_a_location_depends_on_its_number_alone():
    quotas = Quotas(np.tile([0.4, 0.6], (9, 1)), 10, np.array([5], np.uint64))
    whole = quotas.locate(np.arange(90))
    some = np.array([88, 3, 41, 3])
    for all_of, found in zip(whole, quotas.locate(some)):
        assert np.array_equal(all_of[some], found)


def test_the_last_block_is_as_long_as_what_is_left():
    """Thirteen units in blocks of five, halves: each block within one of its half, and nothing counted beyond."""
    quotas = Quotas(np.full((3, 2), 0.5), 5, np.array([2], np.uint64), 13)
    component, before = quotas.locate(np.arange(13))
    for begin, size in ((0, 5), (5, 5), (10, 3)):
        assert abs(component[begin : begin + size].sum() - size / 2) < 1
    for c in (0, 1):
        assert sorted(before[component == c].tolist()) == list(range((component == c).sum()))
    assert quotas.used(13).tolist() == np.bincount(component).tolist()
