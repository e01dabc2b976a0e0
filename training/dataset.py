"""The run's dataset: one row per draw, indexed by the draw's number, so that resuming is setting a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ..objectives import Columns, Documents, Draws, Objective, Vocabulary
from ..objectives.collator import pad_columns, to_tensors


@dataclass
class DrawnRows:
    """Uncorrupted rows of a batch with their draws; what `PretrainingDataset` hands to `DrawCollator`."""

    rows: Columns
    draws: Draws


class PretrainingDataset(Dataset):
    """Every draw of a training run, in order: row `n` is the `n`-th example that the run trains on.

    Read it in sequence (`train_sampling_strategy="sequential"`): the order of examples, shuffled by epoch, is part of
    the dataset. Batches come whole from `__getitems__`.

    Args:
        objective, documents, vocabulary: what is trained, on what.
        length: tokens per example, special tokens included.
        global_batch: rows per optimizer step over all processes and accumulation steps.
        max_steps: optimizer steps of the run.
        seed: of order and noise.
    """

    def __init__(
        self,
        objective: Objective,
        documents: Documents,
        vocabulary: Vocabulary,
        *,
        length: int,
        global_batch: int,
        max_steps: int,
        seed: int = 0,
    ):
        self.objective, self.vocabulary = objective, vocabulary
        self.global_batch, self.max_steps, self.seed = global_batch, max_steps, seed
        self.length = length
        self.source = objective.source(documents, vocabulary, length=length, seed=seed, global_batch=global_batch)
        self.identity = {
            "objective": repr(objective),
            "corpus": documents.fingerprint,
            "length": length,
            "global_batch": global_batch,
            "seed": seed,
        }

    def __len__(self) -> int:
        return self.max_steps * self.global_batch

    def __getitems__(self, numbers: list[int]) -> DrawnRows:
        index = np.asarray(numbers, np.int64)
        draws = self.source.draws(index, index // self.global_batch / self.max_steps)
        return DrawnRows(self.source.rows(draws), draws)

    def __getitem__(self, number: int) -> DrawnRows:
        return self.__getitems__([number])


class EvaluationDataset(Dataset):
    """Every example of held-out documents once, with noise that never changes.

    Args:
        max_rows: only that many examples, spread over the corpus.
        others: as for `PretrainingDataset`.
    """

    def __init__(
        self,
        objective: Objective,
        documents: Documents,
        vocabulary: Vocabulary,
        *,
        length: int,
        seed: int = 0,
        max_rows: int | None = None,
        global_batch: int = 1,
    ):
        self.objective, self.vocabulary, self.seed = objective, vocabulary, seed
        self.plan = objective.plan(documents, vocabulary, length=length, seed=seed, epoch=0, global_batch=global_batch)
        count = len(self.plan)
        if not count:
            raise ValueError("the held-out documents give no example at this length; hold out more text")
        rows = count if max_rows is None else min(max_rows, count)
        self.examples = np.arange(rows) * count // rows

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, numbers: list[int]) -> DrawnRows:
        example = self.examples[np.asarray(numbers, np.int64)]
        draws = Draws.of(self.seed, example, 0, example)
        return DrawnRows(self.plan.rows(example), draws)

    def __getitem__(self, number: int) -> DrawnRows:
        return self.__getitems__([number])


class DrawCollator:
    """Corrupts and pads the rows that the datasets above hand over; labels stay sparse.

    Args:
        objective, vocabulary: as the dataset's.
        pad_to_multiple_of: pad every axis to a multiple of this.
        fixed_length: pad the input axis to this length always (for `torch.compile`).
    """

    def __init__(
        self,
        objective: Objective,
        vocabulary: Vocabulary,
        *,
        pad_to_multiple_of: int | None = None,
        fixed_length: int | None = None,
    ):
        self.objective, self.vocabulary = objective, vocabulary
        self.pad_to_multiple_of = pad_to_multiple_of
        self.min_lengths = {"input": fixed_length} if fixed_length else {}

    def __call__(self, batch: DrawnRows) -> dict[str, torch.Tensor]:
        """The corrupted batch as tensors."""
        columns = self.objective.corrupt(batch.rows, batch.draws, self.vocabulary)
        return to_tensors(
            pad_columns(
                columns,
                self.objective.columns,
                self.vocabulary,
                pad_to_multiple_of=self.pad_to_multiple_of,
                min_lengths=self.min_lengths,
            )
        )
