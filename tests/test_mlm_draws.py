"""What masks depend on: seed, epoch, copies and progress, but not on the batch."""

import numpy as np
import pytest
from masked_rows import SELECTIONS, corrupt, draws_of, make_rows, random_rows, within

from pretrain_zoo.objectives import get_objective


@pytest.fixture(scope="module")
def rows(documents, vocabulary):
    return make_rows(documents, vocabulary)


@pytest.mark.parametrize(("name", "selection"), SELECTIONS)
def test_noise_does_not_depend_on_the_batch(name, selection, rows, vocabulary):
    objective, draws = get_objective(name, selection=selection), draws_of(rows)
    whole = objective.corrupt(rows, draws, vocabulary)
    rng = np.random.default_rng(0)
    for index in (np.array([3]), np.array([7, 0, 5]), rng.permutation(len(draws))):
        part = {name: column.take(index) for name, column in rows.items()}
        out = objective.corrupt(part, draws.take(index), vocabulary)
        for column in ("input_ids", "label_positions", "label_ids"):
            assert out[column].tolist() == whole[column].take(index).tolist()


@pytest.mark.parametrize(("name", "selection"), SELECTIONS)
def test_epochs_and_seeds_give_unrelated_masks(name, selection, vocabulary):
    """The overlap of two independent masks is p² of all tokens."""
    rows = random_rows(vocabulary, 400, 128)
    objective = get_objective(name, selection=selection, mlm_probability=0.3)
    _, _, base = corrupt(objective, rows, vocabulary)
    _, _, again = corrupt(objective, rows, vocabulary)
    assert np.array_equal(base, again)
    for draw in ({"epoch": 1}, {"seed": 1}):
        _, _, other = corrupt(objective, rows, vocabulary, **draw)
        maskable = 400 * 126
        share = base.sum() / maskable * (other.sum() / maskable)
        assert abs((base & other).sum() - maskable * share) < 5 * np.sqrt(maskable * share * (1 - share)) * (
            2 if name == "ngram_mlm" else 1  # neighbours go together
        )


@pytest.mark.parametrize("copies", [1, 3])
def test_static_masks_repeat(copies, rows, vocabulary):
    objective = get_objective("mlm", dupe_factor=copies)
    masks = [corrupt(objective, rows, vocabulary, epoch=epoch)[1].tolist() for epoch in range(2 * copies + 1)]
    assert masks[:copies] == masks[copies : 2 * copies]
    assert masks[0] == masks[2 * copies]
    assert len({str(mask) for mask in masks}) == copies


@pytest.mark.parametrize("selection", ["independent", "exact"])
@pytest.mark.parametrize("name", ["mlm", "whole_word_mlm"])
def test_schedules(name, selection, vocabulary):
    rows = random_rows(vocabulary, 300, 128)
    settings = {"mlm_probability": 0.3, "final_mlm_probability": 0.1, "selection": selection}
    for shape, progress, expected in (
        ("linear", 0.0, 0.3),
        ("linear", 0.5, 0.2),
        ("linear", 0.9, 0.12),
        ("cosine", 0.25, 0.3 - 0.2 * (1 - np.sqrt(0.5)) / 2),
        ("cosine", 0.5, 0.2),
    ):
        objective = get_objective(name, mlm_schedule=shape, **settings)
        _, _, selected = corrupt(objective, rows, vocabulary, progress=progress)
        if selection == "exact":
            assert selected.sum() == 300 * round(expected * 128)
        else:
            assert within(selected.sum(), 300 * 126, expected)
    per_row = np.where(np.arange(300) < 150, 0.0, 0.999)  # rows of one batch may lie at different points of a run
    _, _, selected = corrupt(get_objective(name, **settings), rows, vocabulary, progress=per_row)
    early, late = selected[: 150 * 128].sum(), selected[150 * 128 :].sum()
    assert 2.5 < early / late < 3.5
