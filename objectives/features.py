"""Rows from the features that people hand to a collator: what a tokenizer returns, one mapping per example."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from .base import Columns
from .pieces import sentence_starts_from_ids, word_starts_from_ids
from .ragged import Ragged
from .vocabulary import Vocabulary
from .words import word_starts_from_word_ids

_DTYPES = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float32}
"""Type of a column by the kind of its values."""
_NOTHING = np.zeros(0, bool)
"""Stands for empty rows, whose type (often float64) says nothing about the column's."""


def columns_from_features(features: list[Mapping], vocabulary: Vocabulary, wanted: tuple[str, ...] = ()) -> Columns:
    """`input_ids` and whatever else the features hold, as columns.

    Lists, arrays and tensors are accepted. Columns with one value per token become `Ragged`; numbers become arrays with
    a value per row; both of int64, float32 or bool. `word_ids` (as the encoding of a fast tokenizer gives it, `None`
    for special tokens) becomes `word_starts`; without either, when `word_starts` is wanted, the pieces themselves tell
    (see `pieces`), and so for `sentence_starts`. Rows that hold padding but come without an `attention_mask` get one
    (unless padding is a token that text may hold, too, see `Vocabulary.pad_tells`).

    Raises `ValueError` for no features, missing `input_ids`, rows that are not one-dimensional, columns that only some
    features have, ids that the tokenizer does not have, and columns that are neither numbers nor as long as
    `input_ids`.
    """
    if not features:
        raise ValueError("the batch has no features; does the dataset have rows, and does a filter drop them all?")
    first = features[0]
    if not isinstance(first, Mapping) and not hasattr(first, "keys"):
        raw = [{"input_ids": feature} for feature in features]  # bare lists of ids, as Hugging Face accepts
        return columns_from_features(raw, vocabulary, wanted)
    if "input_ids" not in first:
        raise ValueError(f"features need a column 'input_ids'; they have: {', '.join(map(str, first))}")
    names = list(first.keys())
    for feature in features:
        if len(feature) > len(names):
            _column(first, next(name for name in feature if name not in first))
    columns: Columns = {}
    ids = _ragged([_column(f, "input_ids") for f in features], "input_ids")
    if ids.values.dtype != np.int64:
        raise ValueError(f"input_ids must hold integers, not {ids.values.dtype} values")
    if ids.values.size and (ids.values.min() < 0 or ids.values.max() >= vocabulary.size):
        raise ValueError(
            f"input_ids hold {int(ids.values.min())} … {int(ids.values.max())}, but the tokenizer's ids are "
            f"0 … {vocabulary.size - 1}; were the features made with another tokenizer?"
        )
    columns["input_ids"] = ids
    for name in names:
        if name in ("input_ids", "labels", "offset_mapping"):
            continue  # labels are made anew; offsets are in characters
        values = [_column(f, name) for f in features]
        if np.ndim(values[0]) == 0:
            columns[name] = _scalars(values, name)
            continue
        if name == "word_ids":
            values = [[-1 if word is None else word for word in row] for row in values]
        column = _ragged(values, name)
        if not np.array_equal(column.lengths, ids.lengths):
            raise ValueError(f"column {name!r} must have one value per token of input_ids; drop it or fix it")
        if name == "word_ids":
            starts = word_starts_from_word_ids(column.values, column.rows)
            name, column = "word_starts", column.with_values(starts)
        columns[name] = column
    if "attention_mask" not in columns and vocabulary.pad_tells:
        text = ids.values != vocabulary.pad_id
        if not text.all():
            columns["attention_mask"] = ids.with_values(text.astype(np.int64))
    if "word_starts" in wanted and "word_starts" not in columns:
        columns["word_starts"] = ids.with_values(word_starts_from_ids(ids, vocabulary.piece_flags))
    if "sentence_starts" in wanted and "sentence_starts" not in columns:
        columns["sentence_starts"] = ids.with_values(sentence_starts_from_ids(ids, vocabulary.piece_flags))
    return columns


def _column(feature: Mapping, name: str) -> Any:
    if name not in feature:
        raise ValueError(f"column {name!r} is missing in some features but not in all; give it to all or to none")
    value = feature[name]
    return value.numpy() if not isinstance(value, (np.ndarray, list)) and hasattr(value, "numpy") else value


def _ragged(rows: list, name: str) -> Ragged:
    try:
        if isinstance(rows[0], np.ndarray):
            if rows[0].ndim != 1:
                raise ValueError("rows have more than one dimension, or none")
            batch = Ragged.from_rows([row if len(row) else _NOTHING for row in rows])
            kind = batch.values.dtype.kind if len(batch.values) else "i"
            return Ragged(batch.values.astype(_DTYPES[kind], copy=False), batch.lengths)
        kind = np.asarray(next(chain.from_iterable(rows), 0)).dtype.kind
        return Ragged.from_rows(rows, _DTYPES[kind])
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"column {name!r} must hold one list of numbers per example: {error}") from None


def _scalars(values: list, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in _DTYPES:
        raise ValueError(
            f"column {name!r} holds {type(values[0]).__name__} values, which cannot become a tensor; "
            f"remove it (dataset.remove_columns({name!r}))"
        )
    return array.astype(_DTYPES[array.dtype.kind])
