"""GPT-1's way of fine-tuning a causal model: structured input as one sequence of tokens, language modelling beside.

    one text           [start] text [extract]
    entailment         [start] premise [delimiter] hypothesis [extract]
    similarity         [start] a [delimiter] b [extract]   and   [start] b [delimiter] a [extract], added up

Radford et al. 2018, "Improving language understanding by generative pre-training", sections 3.2 and 3.3. The label is
read from the last layer at [extract], by a linear layer without bias; for similarity from the sum over both orders,
which is the sum of their logits. That is the stock sequence-classification head of transformers' causal models, so a
checkpoint loads with `AutoModelForSequenceClassification`. The three tokens are new, their embeddings random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from .task_data import Examples

TOKENS = ("<|start|>", "<|delimiter|>", "<|extract|>")
SIMILARITY = ("mrpc", "qqp", "stsb")
"""GLUE tasks without an order of the two texts."""


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens that structure the input."""

    start: int
    delimiter: int
    extract: int


def add_marks(tokenizer: Any) -> Marks:
    """Add the three tokens to the tokenizer, unless it has them, and return their ids."""
    tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    return Marks(*tokenizer.convert_tokens_to_ids(list(TOKENS)))


def transform(
    texts: Sequence[Sequence[int]], marks: Marks, max_length: int, both_orders: bool = False
) -> list[list[int]]:
    """The sequences of one example: one, or two for a pair in `both_orders`.

    Args:
        texts: token ids of the text, or of both, without special tokens.
        marks: from `add_marks`.
        max_length: tokens of a sequence at most, marks included. The longer text of a pair is cut first, at its end.
        both_orders: the pair has no order.

    Raises `ValueError` for more than two texts, or a length without room for a token of each.

    >>> transform([[7, 8], [9]], Marks(1, 2, 3), 10, both_orders=True)
    [[1, 7, 8, 2, 9, 3], [1, 9, 2, 7, 8, 3]]
    """
    if len(texts) not in (1, 2):
        raise ValueError(f"GPT's input transformations are for one text or two, not {len(texts)}")
    room = max_length - len(texts) - 1
    if room < len(texts):
        raise ValueError(f"a length of {max_length} leaves no room for text beside the marks; raise --max_seq_length")
    if len(texts) == 1:
        return [[marks.start, *texts[0][:room], marks.extract]]
    first, second = texts
    kept = min(len(first), max(room - len(second), room - room // 2))
    pair = [first[:kept], second[: room - kept]]
    orders = [pair, pair[::-1]] if both_orders else [pair]
    return [[marks.start, *a, marks.delimiter, *b, marks.extract] for a, b in orders]


class TransformedExamples(Dataset):
    """The examples of a split as GPT's sequences.

    Attributes:
        ways: sequences of each example.
        lengths: tokens of each example's sequences, which are equally long.
        labels: as in `Examples`.
    """

    def __init__(self, examples: Examples, tokenizer: Any, marks: Marks, max_length: int, both_orders: bool = False):
        both_orders = both_orders and len(examples.texts) == 2
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        ids = [tokenizer(list(texts), **options)["input_ids"] for texts in examples.texts]
        self.rows = [transform(row, marks, max_length, both_orders) for row in zip(*ids)]
        self.ways = 2 if both_orders else 1
        self.lengths = [len(row[0]) for row in self.rows]
        self.labels = examples.labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        features: dict[str, Any] = {"rows": self.rows[index]}
        if self.labels is not None:
            features["labels"] = self.labels[index].item()
        return features

    def truncated(self, max_length: int) -> int:
        """How many examples are as long as `max_length`, most of which were cut."""
        return sum(length >= max_length for length in self.lengths)


@dataclass
class TransformedCollator:
    """Pads the sequences of all examples on the right: `[examples · ways, length]`, those of an example together."""

    pad_token_id: int

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [row for item in features for row in item["rows"]]
        lengths = np.array([len(row) for row in rows])
        inside = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(inside.shape, self.pad_token_id, np.int64)
        ids[inside] = np.concatenate(rows)
        batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(inside.astype(np.int64))}
        if "labels" in features[0]:
            batch["labels"] = torch.tensor([item["labels"] for item in features])
        return batch


def lm_loss(
    hidden: torch.Tensor, output_embeddings: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Sum over sequences of each one's mean cross-entropy of its tokens given those before.

    All tokens but the first are predicted, the marks included, and each sequence weighs the same, as in the released
    code. The denominator, the number of sequences, is the caller's.

    Args:
        hidden: last hidden state, `[sequences, length, hidden size]`.
        output_embeddings: `[vocabulary, hidden size]`.
        input_ids, attention_mask: `[sequences, length]`, padded on the right.
    """
    row, place = attention_mask[:, 1:].nonzero(as_tuple=True)
    logits = hidden[row, place] @ output_embeddings.to(hidden.dtype).T
    losses = functional.cross_entropy(logits.float(), input_ids[row, place + 1], reduction="none")
    counts = attention_mask[:, 1:].sum(1).clamp(min=1)
    return (losses / counts[row]).sum()
