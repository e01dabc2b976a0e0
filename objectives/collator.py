"""From columns to padded batches, and objectives as collators for anyone's `Trainer` or `DataLoader`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from . import keyed
from .base import Column, Columns, Draws, Objective
from .ragged import Ragged
from .registry import get_objective
from .vocabulary import Vocabulary

INTERNAL = ("word_starts", "sentence_starts", "special_tokens_mask")
"""Columns that describe the text for the noise; no model takes them."""
ATTEMPTS = 100
"""How often a batch is drawn that comes out without a label."""


def pad_columns(
    columns: Columns,
    spec: Mapping[str, Column],
    vocabulary: Vocabulary,
    *,
    pad_to_multiple_of: int | None = None,
    padding_side: str = "right",
    dense_labels: bool = False,
    dense_shift: int = 0,
    min_lengths: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Columns as arrays: `[B, L]` per token, `[B]` per row, `[N]` flat. Adds `attention_mask` for the input axis.

    Args:
        spec: how to treat each column; columns not listed are per token of the input, padded with 0 (`input_ids`: with
            the pad token), or per row where they are plain arrays.
        dense_labels: scatter `label_ids` to `label_positions`, moved right by `dense_shift`, as `labels`, `[B, L]`,
            −100 elsewhere.
        min_lengths: least padded length by axis.

    Raises `ValueError` when rows differ in length and the tokenizer has no pad token.
    """
    axis_of = {name: spec[name].axis if name in spec else "input" for name in columns}
    ragged = {name: c for name, c in columns.items() if isinstance(c, Ragged) and name not in INTERNAL}
    lengths: dict[str, int] = {}
    lead: dict[str, Ragged] = {}
    for name, column in ragged.items():
        axis = axis_of[name]
        if axis in ("row", "flat") or axis in lead:
            continue
        lead[axis] = column
        longest = int(column.lengths.max(initial=0))
        longest = max(longest, (min_lengths or {}).get(axis, 0))
        multiple = pad_to_multiple_of or 1
        lengths[axis] = -(-longest // multiple) * multiple
    batch: dict[str, np.ndarray] = {}
    shifts: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        if name in INTERNAL:
            continue
        if not isinstance(column, Ragged):
            batch[name] = np.asarray(column)
            continue
        axis, rule = axis_of[name], spec.get(name, Column())
        values = column.values
        if axis == "flat":
            if rule.index:
                if rule.index not in shifts:
                    rows = lead[rule.index]
                    shift = np.arange(len(rows)) * lengths[rule.index]
                    shifts[rule.index] = shift + (lengths[rule.index] - rows.lengths if padding_side == "left" else 0)
                values = values + np.repeat(shifts[rule.index], column.lengths)
            batch[name] = values.astype(np.int64, copy=False) if values.dtype.kind in "biu" else values
            continue
        pad = rule.pad
        if name in ("input_ids", "decoder_input_ids"):
            pad = _pad_id(vocabulary, (column.lengths != lengths[axis]).any())
        padded = column.pad(pad, lengths[axis], padding_side)
        batch[name] = padded.astype(np.int64, copy=False) if padded.dtype.kind in "biu" else padded
    if "input" in lead and "attention_mask" not in batch and "input_ids" in batch:
        batch["attention_mask"] = _attention_mask(lead["input"], lengths["input"], padding_side)
    if dense_labels and "label_positions" in batch:
        axis = spec["label_positions"].index or "input"
        labels = np.full((len(lead[axis]), lengths[axis]), -100, np.int64)
        labels.reshape(-1)[batch.pop("label_positions") + dense_shift] = batch.pop("label_ids")
        batch["labels"] = labels
    return batch


def _pad_id(vocabulary: Vocabulary, needed: bool) -> int:
    if needed:
        vocabulary.require("pad")
    return 0 if vocabulary.pad_id is None else vocabulary.pad_id


def _attention_mask(rows: Ragged, length: int, padding_side: str) -> np.ndarray:
    if (rows.lengths == length).all():
        return np.ones((len(rows), length), np.int64)
    mask = np.arange(length) < rows.lengths[:, None]
    return (mask[:, ::-1] if padding_side == "left" else mask).astype(np.int64)


def to_tensors(batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Arrays as tensors that share their memory (copied where an array is read-only)."""
    return {k: torch.from_numpy(v if v.flags.writeable else v.copy()) for k, v in batch.items()}


def tensor_kind(return_tensors: str) -> str:
    """What it says, "pt" or "np". Raises `ValueError` for anything else."""
    if return_tensors not in ("pt", "np"):
        raise ValueError(f"return_tensors must be 'pt' or 'np', not {return_tensors!r}")
    return return_tensors


class ObjectiveCollator:
    """An objective as a collator: features in, a corrupted and padded batch out.

    Args:
        objective: an `Objective` or the name of one.
        tokenizer: the Hugging Face tokenizer that made the features.
        pad_to_multiple_of: pad every axis to a multiple of this (tensor cores want 8).
        return_tensors: "pt" or "np".
        seed: fixes the noise of the n-th call (in each data worker; workers that a `DataLoader` starts anew count from
            the start again, which `persistent_workers=True` avoids). `None` draws it from torch's global generator, as
            collators of Hugging Face do, so that `torch.manual_seed` governs it and workers differ.
        sparse_labels: hand over `label_positions` (indices into the flattened `[B, L]`) and `label_ids` instead of
            dense `labels`.
        settings: of the objective, when given by name.

    Features that hold an integer column `example_id` get noise that depends on seed, epoch (column `epoch`, 0 without
    it) and example only: the same whatever the batch they come in. Otherwise, a batch in which no token happens to be
    selected is drawn again, since the mean loss of stock models over no label is NaN. A schedule of the objective
    stays at its start: a collator alone knows no progress.

    Raises `ValueError` for a tokenizer that the objective cannot work with.

    >>> collator = ObjectiveCollator("mlm", tokenizer, mlm_probability=0.3)  # doctest: +SKIP
    >>> DataLoader(dataset, collate_fn=collator)                             # doctest: +SKIP
    """

    def __init__(
        self,
        objective: Objective | str,
        tokenizer: Any,
        *,
        pad_to_multiple_of: int | None = None,
        return_tensors: str = "pt",
        seed: int | None = None,
        sparse_labels: bool = False,
        **settings: Any,
    ):
        if settings and not isinstance(objective, str):
            raise ValueError(f"settings ({', '.join(settings)}) go with an objective's name; this is an objective")
        self.objective = get_objective(objective, **settings) if isinstance(objective, str) else objective
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(tokenizer)
        self.objective.check(self.vocabulary)
        self.pad_to_multiple_of = pad_to_multiple_of
        self.return_tensors = tensor_kind(return_tensors)
        self.seed = seed
        self.sparse_labels = sparse_labels
        self._calls = 0

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> Any:
        """The batch: a `BatchEncoding` of tensors (or arrays). Raises `ValueError` for unusable features."""
        from transformers import BatchEncoding

        kind = tensor_kind(return_tensors or self.return_tensors)
        features = list(features)
        rows, draws = self._rows(features)
        columns = self.objective.corrupt(rows, draws, self.vocabulary)
        for attempt in range(1, ATTEMPTS):
            if self._fixed(features) or "label_ids" not in columns or len(columns["label_ids"].values):
                break
            again = replace(draws, key=keyed.combine(draws.key, attempt))
            columns = self.objective.corrupt(rows, again, self.vocabulary)
        given = rows.get("attention_mask")
        if given is not None and "input_ids" in columns and "attention_mask" not in columns:
            fits = np.array_equal(given.lengths, columns["input_ids"].lengths)
            columns |= {"attention_mask": given} if fits else {}
        batch = pad_columns(
            columns,
            self.objective.columns,
            self.vocabulary,
            pad_to_multiple_of=self.pad_to_multiple_of,
            padding_side=self.vocabulary.padding_side,
            dense_labels=not self.sparse_labels,
            dense_shift=self.objective.dense_shift,
        )
        if not self.sparse_labels:
            names = self.objective.stock_names
            batch = {names.get(k, k) or k: v for k, v in batch.items() if names.get(k, k) is not None}
        return BatchEncoding(batch if kind == "np" else to_tensors(batch))

    def _rows(self, features: list[Mapping]) -> tuple[Columns, Draws]:
        """Rows from features, and their draws."""
        rows = self.objective.from_features(features, self.vocabulary)
        return rows, self._draws(rows, len(features))

    def _draws(self, rows: Columns, count: int) -> Draws:
        """Keys from the features if they carry them, else from the call."""
        example, epoch = rows.pop("example_id", None), rows.pop("epoch", 0)
        if example is not None:
            return Draws.of(self.seed or 0, example, epoch, example)
        self._refuse_static()
        return Draws.of(int(self._call_key()[0]), np.arange(count), 0, np.arange(count))

    def _refuse_static(self) -> None:
        """Refuse settings that repeat an example's noise where nothing tells which example it is."""
        parts = getattr(self.objective, "parts", (self.objective,))
        if any(getattr(part, "dupe_factor", None) is not None for part in parts):
            raise ValueError(
                "dupe_factor repeats the noise of an example, so the collator has to know which one it sees: "
                "give features an integer column 'example_id' (and 'epoch'), or leave dupe_factor out"
            )

    @staticmethod
    def _fixed(features: list[Mapping]) -> bool:
        """Whether the features carry what their noise is keyed on."""
        return hasattr(features[0], "keys") and "example_id" in features[0]

    def _call_key(self) -> np.ndarray:
        """uint64 `[1]`: what the noise of this call is keyed on, from the seed and the call, else from torch."""
        if self.seed is None:
            return torch.randint(-(2**63), 2**63 - 1, (1,)).numpy().view(np.uint64)
        worker = torch.utils.data.get_worker_info()
        self._calls += 1
        return keyed.combine(self.seed, 0 if worker is None else worker.id + 1, self._calls - 1)
