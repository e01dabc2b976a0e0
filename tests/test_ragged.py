"""Ragged batches against lists of lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain_zoo.objectives.ragged import Ragged, concatenate, constant, join, row_sums, slices

ROWS = st.lists(st.lists(st.integers(-9, 9), max_size=6), max_size=6)


def ragged(rows) -> Ragged:
    return Ragged.from_rows(rows, np.int64)


@given(ROWS)
def test_rows_positions_offsets(rows):
    batch = ragged(rows)
    assert batch.tolist() == rows and len(batch) == len(rows)
    assert batch.rows.tolist() == [b for b, row in enumerate(rows) for _ in row]
    assert batch.positions.tolist() == [i for row in rows for i in range(len(row))]
    assert batch.offsets.tolist() == [sum(map(len, rows[:b])) for b in range(len(rows) + 1)]
    assert [batch.row(b).tolist() for b in range(len(rows))] == rows


@given(ROWS)
def test_from_arrays_and_lists_alike(rows):
    arrays = Ragged.from_rows([np.array(row, np.int32) for row in rows], np.int64)
    assert arrays.tolist() == rows and arrays.values.dtype == np.int64
    assert Ragged.from_rows([np.array(row, np.int32) for row in rows] or [[]]).tolist() == (rows or [[]])


@given(ROWS, st.data())
def test_take_and_keep(rows, data):
    batch = ragged(rows)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6) if rows else st.just([]))
    assert batch.take(np.array(index, np.int64)).tolist() == [rows[i] for i in index]
    assert batch.keep(batch.values > 0).tolist() == [[v for v in row if v > 0] for row in rows]
    assert row_sums(batch.values, batch.offsets).tolist() == [sum(row) for row in rows]


@given(ROWS, st.integers(0, 3), st.sampled_from(["right", "left"]))
def test_pad(rows, extra, side):
    length = max(map(len, rows), default=0) + extra
    fill = [[0] * (length - len(row)) for row in rows]
    expected = [row + f if side == "right" else f + row for row, f in zip(rows, fill)]
    padded = ragged(rows).pad(0, length, side)
    assert padded.shape == (len(rows), length) and padded.tolist() == expected
    index = ragged(rows).padded_index(length, side)
    assert padded.reshape(-1)[index].tolist() == [v for row in rows for v in row]


def test_pad_by_hand():
    assert ragged([[1, 2], [], [3]]).pad(9, 3).tolist() == [[1, 2, 9], [9, 9, 9], [3, 9, 9]]
    assert ragged([[1, 2], [], [3]]).pad(9, 2, "left").tolist() == [[1, 2], [9, 9], [9, 3]]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=6))
def test_slices(parts):
    starts, lengths = (np.array(x, np.int64) for x in (zip(*parts) if parts else ([], [])))
    assert slices(starts, lengths).tolist() == [s + i for s, n in parts for i in range(n)]


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 9), max_size=4)] * 3), min_size=1, max_size=5))
def test_join_and_concatenate(rows):
    parts = [ragged([row[i] for row in rows]) for i in range(3)]
    assert join(parts).tolist() == [[*a, *b, *c] for a, b, c in rows]
    assert concatenate(parts).tolist() == [row[i] for i in range(3) for row in rows]


def test_constant():
    assert constant([7, 8], 3).tolist() == [[7, 8]] * 3
    assert constant((), 2).tolist() == [[], []]
    assert constant(True, 2, bool).values.dtype == bool


def test_with_values_keeps_rows():
    batch = ragged([[1, 2], [3]])
    assert batch.rows.tolist() == [0, 0, 1]
    other = batch.with_values(np.array([4.0, 5.0, 6.0]))
    assert other.tolist() == [[4.0, 5.0], [6.0]] and other.rows is batch.rows
    assert batch.tolist() == [[1, 2], [3]]


def test_rows_must_be_sequences():
    with pytest.raises(TypeError):
        Ragged.from_rows([1, 2])
