"""Extractive question answering: paragraphs as overlapping windows of tokens, and answers from scores of spans.

    question, paragraph ──make_windows──▶ [CLS] question [SEP] part of the paragraph [SEP], … ──model──▶ two scores
    per token ──best_answers──▶ for each question the best spans of all its windows, and how it compares with no answer

Devlin et al. 2018, "BERT" (arXiv 1810.04805, sections 4.2 and 4.3). The score of the span from token i to token j is
start score of i plus end score of j, that of no answer both scores of the [CLS] token. As in the paper, the best spans
are found among all spans of at most `max_answer_length` tokens; the released code looks only at pairs of the
`n_best_size` best starts and ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .squad_data import Question

_CHUNK = 512
"""Questions tokenized, and windows searched, at a time."""


@dataclass(frozen=True)
class Windows:
    """Rows of tokens to run a model on; the arrays lie flat, row after row.

    Attributes:
        ids, types: token ids and segment ids.
        begin, end: characters of the paragraph that a token stands for; −1 for tokens of the question and special ones.
        lengths: tokens of each row.
        question: which question a row belongs to, one per row.
        cls: place of the [CLS] token in each row.
        start_positions, end_positions: first and last token of the first gold answer in each row, the [CLS] token's
            place where the row does not hold the whole answer.
    """

    ids: np.ndarray
    types: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    lengths: np.ndarray
    question: np.ndarray
    cls: np.ndarray
    start_positions: np.ndarray
    end_positions: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def splits(self) -> np.ndarray:
        """Where rows begin in the flat arrays, and where the last ends."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def padded(self, values: np.ndarray, rows: slice, width: int, pad: int = -1) -> np.ndarray:
        """Some rows of a flat array, filled up to `width`: `[rows, width]`."""
        splits, lengths = self.splits, self.lengths[rows]
        inside = np.arange(width) < lengths[:, None]
        table = np.full(inside.shape, pad, values.dtype)
        first = splits[:-1][rows]
        if len(first):
            table[inside] = values[first[0] : first[0] + lengths.sum()]
        return table


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `ValueError`, with the reason, for a tokenizer whose rows answers cannot be read from."""
    name = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{name} is a slow tokenizer, which does not tell where tokens stand in the text; use a fast one"
        )
    if tokenizer.cls_token_id is None:
        raise ValueError(
            f"{name} has no cls token, whose scores stand for “no answer”; use an encoder (BERT, RoBERTa, ELECTRA, …)"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{name} has no pad token; set one (tokenizer.pad_token = …)")


def make_windows(
    questions: Sequence[Question],
    tokenizer: Any,
    *,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    max_query_length: int = 64,
) -> Windows:
    """Every paragraph in windows of at most `max_seq_length` tokens, question and special tokens included.

    Args:
        questions: from `read_squad` and relatives.
        tokenizer: fast. One that pads on the left (XLNet) gets the paragraph first.
        max_seq_length: tokens of a window.
        doc_stride: tokens that consecutive windows share, as `doc_stride` means with fast tokenizers; in BERT's code it
            is the distance of their beginnings.
        max_query_length: longer questions are cut to so many tokens (64 in BERT's code).

    Raises:
        ValueError: for a tokenizer that cannot do it, and lengths that leave no room for the paragraph.
    """
    check_tokenizer(tokenizer)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_seq_length - special - max_query_length <= doc_stride:
        raise ValueError(
            f"windows of {max_seq_length} tokens do not hold {special} special tokens, questions of up to "
            f"{max_query_length} and more than the {doc_stride} shared ones; raise --max_seq_length, or lower "
            "--doc_stride or --max_query_length"
        )
    context_first = tokenizer.padding_side == "left"
    parts: dict[str, list] = {name: [] for name in ("ids", "types", "begin", "end", "lengths", "question")}
    for first in range(0, len(questions), _CHUNK):
        chunk = questions[first : first + _CHUNK]
        asked = _shortened([item.question.lstrip() for item in chunk], tokenizer, max_query_length)
        contexts = [item.context for item in chunk]
        batch = tokenizer(
            *((contexts, asked) if context_first else (asked, contexts)),
            truncation="only_first" if context_first else "only_second",
            max_length=max_seq_length,
            stride=doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
            return_attention_mask=False,
        )
        sequence = 0 if context_first else 1
        for row, encoding in enumerate(batch.encodings):
            offsets = np.array(encoding.offsets, np.int32)
            offsets[np.array([s != sequence for s in encoding.sequence_ids])] = -1
            parts["ids"].append(np.array(encoding.ids, np.int32))
            parts["types"].append(np.array(batch["token_type_ids"][row], np.int32))
            parts["begin"].append(offsets[:, 0])
            parts["end"].append(offsets[:, 1])
            parts["lengths"].append(len(offsets))
            parts["question"].append(first + batch["overflow_to_sample_mapping"][row])
    flat = {name: np.concatenate(parts[name]) for name in ("ids", "types", "begin", "end")}
    lengths, question = np.array(parts["lengths"]), np.array(parts["question"])
    places = _places(lengths)
    cls = _first(flat["ids"] == tokenizer.cls_token_id, places, lengths)
    positions = _answer_positions(questions, flat["begin"], flat["end"], lengths, question, cls)
    return Windows(
        **flat, lengths=lengths, question=question, cls=cls, start_positions=positions[0], end_positions=positions[1]
    )


def _shortened(texts: list[str], tokenizer: Any, limit: int) -> list[str]:
    """The texts, cut at the end of their token number `limit`."""
    encodings = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = encodings["offset_mapping"]
    return [text[: spans[limit - 1][1]] if len(spans) > limit else text for text, spans in zip(texts, offsets)]


def _places(lengths: np.ndarray) -> np.ndarray:
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _first(mask: np.ndarray, places: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Place of the first true entry of each row; a huge number where there is none."""
    beyond = np.iinfo(np.int64).max
    return np.minimum.reduceat(np.where(mask, places, beyond), np.cumsum(lengths) - lengths)


def _last(mask: np.ndarray, places: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.maximum.reduceat(np.where(mask, places, -1), np.cumsum(lengths) - lengths)


def _answer_positions(
    questions: Sequence[Question],
    begin: np.ndarray,
    end: np.ndarray,
    lengths: np.ndarray,
    question: np.ndarray,
    cls: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """First and last token of each question's first answer in each row; `cls` where it is not wholly there."""
    answered = np.array([bool(item.answers) for item in questions])[question]
    spans = [(q.starts[0], q.starts[0] + len(q.answers[0])) if q.answers else (0, 0) for q in questions]
    start, stop = np.array(spans)[question].T
    places, context = _places(lengths), begin >= 0
    row_start, row_stop = np.repeat(start, lengths), np.repeat(stop, lengths)
    first = _first(context & (end > row_start), places, lengths)
    last = _last(context & (begin < row_stop), places, lengths)
    edge = np.cumsum(lengths) - lengths
    whole = np.minimum.reduceat(np.where(context, begin, np.iinfo(np.int32).max), edge) <= start
    whole &= np.maximum.reduceat(np.where(context, end, -1), edge) >= stop
    whole &= answered & (first <= last)
    return np.where(whole, first, cls), np.where(whole, last, cls)


class WindowDataset(torch.utils.data.Dataset):
    """Windows as rows of a dataset.

    Attributes:
        lengths: tokens of each row.
        labels: first and last token of the answer, int64 `[windows, 2]`.
    """

    def __init__(self, windows: Windows):
        self.windows, self.splits = windows, windows.splits
        self.lengths: list[int] = windows.lengths.tolist()
        self.labels = np.stack([windows.start_positions, windows.end_positions], 1).astype(np.int64)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, own = self.windows, slice(self.splits[index], self.splits[index + 1])
        return {"input_ids": row.ids[own], "token_type_ids": row.types[own], "labels": self.labels[index]}


@dataclass
class WindowCollator:
    """Pads rows on the right to the longest of the batch, so that places of tokens stay what they are.

    Attributes:
        pad_token_id, pad_token_type_id: what rows are filled up with.
        with_types: whether the model takes segment ids.
        pad_to_multiple_of: lengths are multiples of this.
    """

    pad_token_id: int
    pad_token_type_id: int = 0
    with_types: bool = True
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = np.array([len(row["input_ids"]) for row in rows])
        multiple = self.pad_to_multiple_of or 1
        inside = np.arange(-(-int(lengths.max()) // multiple) * multiple) < lengths[:, None]
        batch = {"attention_mask": torch.from_numpy(inside.astype(np.int64))}
        columns = {"input_ids": self.pad_token_id}
        columns |= {"token_type_ids": self.pad_token_type_id} if self.with_types else {}
        for name, pad in columns.items():
            table = np.full(inside.shape, pad, np.int64)
            table[inside] = np.concatenate([row[name] for row in rows])
            batch[name] = torch.from_numpy(table)
        return batch | {"labels": torch.from_numpy(np.stack([row["labels"] for row in rows]))}
