"""Examples as token ids, the order they are trained in, and their division over processes for evaluation."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..models.masked_positions import stock_model
from .task_data import Examples


class EncodedExamples(Dataset):
    """The examples of a split as features of a sequence-classification model; ids are not padded.

    Args:
        examples: texts and labels; where there are none, features have no "labels".
        tokenizer: encodes texts and pairs, special tokens included.
        max_length: longest row; the longer text of a pair is cut first.
    """

    def __init__(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.columns: dict[str, list] = dict(
            tokenizer(
                *(list(texts) for texts in examples.texts),
                truncation=True,
                max_length=max_length,
                return_attention_mask=False,
                verbose=False,
            )
        )
        self.labels = examples.labels
        self.lengths = [len(ids) for ids in self.columns["input_ids"]]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        features = {name: column[index] for name, column in self.columns.items()}
        if self.labels is not None:
            features["labels"] = self.labels[index].item()
        return features

    def truncated(self, max_length: int) -> int:
        """How many rows are as long as `max_length`, most of which were cut."""
        return sum(length >= max_length for length in self.lengths)


class Collator:
    """Pads a batch to its longest row, and leaves out columns that the model's forward does not take.

    Args:
        tokenizer: says how to pad.
        model: what the batches are for.
        pad_to_multiple_of: pad rows to such a length, for hardware that likes it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: Any, pad_to_multiple_of: int | None = None):
        self.pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=pad_to_multiple_of)
        self.names = {*inspect.signature(stock_model(model).forward).parameters, "labels"}

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: column for name, column in self.pad(features).items() if name in self.names}


class LengthGroupedEpochs(Sampler[int]):
    """A random order for each epoch in which rows of about one length stand together, so that little is padded.

    The order is a function of seed and epoch: the same on every process, whatever else draws random numbers there, and
    after a restart. The stock sampler's, drawn from the global generator, is neither.

    Args:
        lengths: tokens of each row.
        batch_size: rows of an optimizer step over all processes.
        seed: of the data order.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch from now on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        seed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def evaluation_share(
    lengths: list[int], batch_size: int, process: int = 0, processes: int = 1
) -> list[tuple[list[int], bool]]:
    """Batches of row numbers that fall to a process, long rows first, and whether their results count.

    Over all processes each row counts once. All processes have the same number of batches, as models that are sharded
    need; where batches do not divide evenly, one that another process has stands in and does not count.

    >>> evaluation_share([3, 9, 5], 2, process=1, processes=2)
    [([0], True)]
    """
    order = np.argsort(lengths, kind="stable")[::-1]
    batches = [order[i : i + batch_size].tolist() for i in range(0, len(order), batch_size)]
    mine = [(batch, True) for batch in batches[process::processes]]
    return mine + [(batches[-1], False)] * (math.ceil(len(batches) / processes) - len(mine))
