"""The run's dataset: one row per draw, indexed by the draw's number, so that resuming is setting a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..objectives import Documents, Draws, Objective, Term, Vocabulary
from ..objectives.collator import pad_columns, to_tensors
from .languages import with_languages


@dataclass
class DrawnRows:
    """Uncorrupted rows of a batch (as the objective's `corrupt` takes them) with their draws, for `DrawCollator`."""

    rows: Any
    draws: Draws


class PretrainingDataset(Dataset):
    """Every draw of a training run, in order: row `n` is the `n`-th example that the run trains on.

    Read it in sequence: the order of examples, shuffled by epoch, is part of the dataset. Batches come whole from
    `__getitems__`, which PyTorch's `DataLoader` calls.

    Args:
        objective, documents, vocabulary: what is trained, on what.
        length: tokens per example, special tokens included.
        global_batch: rows per optimizer step over all processes and accumulation steps.
        max_steps: optimizer steps of the run.
        seed: of order and noise.
        languages: see `with_languages`.

    Attributes:
        identity: what decides which draws the run makes; equal for equal draws.
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
        languages: Sequence[int] = (),
    ):
        self.languages = languages
        self.objective, self.vocabulary, self.length = objective, vocabulary, length
        self.global_batch, self.max_steps = global_batch, max_steps
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
        return DrawnRows(with_languages(self.source.rows(draws), self.languages), draws)

    def __getitem__(self, number: int) -> DrawnRows:
        return self.__getitems__([number])

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint made after `step` steps keeps, for `restore`; values of a JSON file."""
        return {"identity": self.identity, "source": self.source.state(step * self.global_batch)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint's state. Raises `ValueError`, naming the differences, if its run draws other data."""
        self.check_identity(state["identity"])
        self.source.restore(state["source"])

    def check_identity(self, saved: dict[str, Any]) -> None:
        """Raise `ValueError`, naming the differences, for the identity of a run that draws other data."""
        changed = [f"{k}: {saved.get(k)} there, {v} here" for k, v in self.identity.items() if saved.get(k) != v]
        if changed:
            raise ValueError(
                f"the checkpoint's run draws other data than this one ({'; '.join(changed)}). "
                "Use its settings, or start a new run in another output_dir"
            )


class EvaluationDataset(Dataset):
    """Every example of held-out documents once, with noise that never changes.

    Args:
        max_rows: only that many examples, spread over the corpus (of parallel streams: the first of each).
        global_batch: number of streams, for objectives that read parallel streams.
        others: as for `PretrainingDataset`.

    Raises `ValueError` if the documents give no example.
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
        languages: Sequence[int] = (),
    ):
        self.languages = languages
        self.objective, self.vocabulary, self.seed = objective, vocabulary, seed
        self.plan = objective.plan(documents, vocabulary, length=length, seed=seed, epoch=0, global_batch=global_batch)
        count = len(self.plan)
        if not count:
            raise ValueError("the held-out documents give no example at this length; hold out more text")
        rows = count if max_rows is None else min(max_rows, count)
        if self.plan.order == "streams":
            per_stream = count // global_batch
            first = np.arange(max(rows // global_batch, 1))
            self.examples = (np.arange(global_batch)[:, None] * per_stream + first).reshape(-1)
            self.streams = global_batch
        else:
            self.examples = np.arange(rows) * count // rows
            self.streams = 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, numbers: list[int]) -> DrawnRows:
        index = np.asarray(numbers, np.int64)
        example = self.examples[index]
        draws = Draws.of(self.seed, index, 0, example)
        return DrawnRows(with_languages(self.plan.rows(example), self.languages), draws)

    def __getitem__(self, number: int) -> DrawnRows:
        return self.__getitems__([number])

    def after(self, step: int) -> EvaluationDataset:
        """What to evaluate after `step` steps of training: always the same here."""
        return self

    def loss_of(self, means: dict[str, float], terms: Mapping[str, Term], progress: float) -> float:
        """The loss, from the mean of each term, `<term>_loss`."""
        return float(sum(term.weight_at(progress) * means.get(f"{name}_loss", 0.0) for name, term in terms.items()))

    def batches(self, size: int) -> list[list[list[int]]]:
        """Row numbers in batches of at most `size`, in groups: the batches of a group continue each other's streams."""
        rows = np.arange(len(self)).reshape(max(self.streams, 1), -1)
        if self.streams:
            return [rows[i : i + size].T.tolist() for i in range(0, self.streams, size)]
        return [[rows[0, i : i + size].tolist()] for i in range(0, len(self), size)]

    def share(self, size: int, rank: int, world: int) -> list[tuple[list[int], bool]]:
        """Batches that process `rank` of `world` passes through the model, and whether they count.

        All processes have equally many, since a sharded model needs every process in every pass; what fills up the
        shorter lists does not count.
        """
        groups = self.batches(size)
        mine = [(batch, True) for group in groups[rank::world] for batch in group]
        most = sum(len(group) for group in groups[::world])  # the first process has no fewer than any other
        return mine + [(groups[0][0], False)] * (most - len(mine))


class DrawCollator:
    """Corrupts and pads the rows that the datasets above hand over; labels stay sparse.

    Args:
        objective, vocabulary: as the dataset's.
        pad_to_multiple_of: pad every axis to a multiple of this.
        fixed_length: pad the input axis to this length always, so that `torch.compile` sees one shape.
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
