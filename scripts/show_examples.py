"""What an objective does to texts, token by token; `show` prints it, and `show_html` makes a page of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from pretrain_zoo.objectives import Columns, Documents, Draws, Objective, Ragged, Vocabulary
from pretrain_zoo.training.encode import encode

SHORTEST = 16
"""Length below which no example is tried."""
MOVED = 3
"""Tokens in a row that stood elsewhere count as moved from this number on."""
ROLES = {
    "masked": "hidden behind a mask token",
    "replaced": "another token in its place",
    "kept": "left as it is, and predicted",
    "sentinel": "marks a gap, a part or a mode",
    "inserted": "was not in the text",
    "moved": "stood elsewhere in the text",
    "deleted": "taken out of the text",
    "special": "put around texts by the tokenizer",
    "target": "to be predicted",
}
"""What may become of a token, or what it is for."""


@dataclass(frozen=True)
class Token:
    """A token as people read it.

    Attributes:
        text: without the tokenizer's marks for spaces.
        spaced: whether a space stands before it.
        role: one of `ROLES`, or nothing.
        note: what is to be predicted in its place, and when, where that is not the same for all tokens.
    """

    text: str
    spaced: bool = True
    role: str = ""
    note: str = ""


@dataclass(frozen=True)
class Example:
    """One example before and after.

    Attributes:
        lines: tokens by the names of their columns; first "text", the example before anything is done to it, and last
            "predict", the labels in their order.
        values: what there is one of for the whole example.
        columns: the corrupted example, as the objective gives it.
    """

    lines: dict[str, list[Token]]
    values: dict[str, str]
    columns: Columns


def examples(
    objective: Objective, tokenizer: Any, texts: Sequence[str], length: int, seed: int = 0, epochs: int = 1
) -> Iterator[Example]:
    """The examples made of the texts, each text a document and each second one a translation of the one before it.

    Args:
        length: tokens of an example; less where the texts would give none.
        epochs: the examples of so many epochs.

    Raises `ValueError` for texts and tokenizers that the objective cannot use.
    """
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    objective.check(vocabulary)
    documents: Documents = encode(tokenizer.backend_tokenizer, list(texts))
    pairs = np.arange(len(documents) // 2 * 2).reshape(-1, 2)
    documents = dataclasses.replace(documents, translations=pairs)
    options: dict[str, Any] = {"seed": seed, "global_batch": 1}
    lengths = [length >> i for i in range(length.bit_length()) if length >> i >= SHORTEST] or [length]
    plans = {n: objective.plan(documents, vocabulary, length=n, epoch=0, **options) for n in lengths}
    sizes = {n: len(plan) - (plan.order == "streams") for n, plan in plans.items()}  # of a stream, two in a row
    length = next((n for n in lengths if sizes[n] > 0), next((n for n in lengths if len(plans[n])), 0))
    if not length:  # some plans drop what does not fill an example
        raise ValueError("these texts give no example; give longer ones, or more of them")
    for epoch in range(epochs):
        plan = objective.plan(documents, vocabulary, length=length, epoch=epoch, **options)
        index = np.arange(len(plan))
        draws = Draws.of(seed, epoch * len(plan) + index, epoch, index)
        rows = plan.rows(index)
        before = rows["input_ids"].tolist()
        columns = objective.corrupt(rows, draws, vocabulary)
        for row in range(len(index)):
            one = {
                n: c.take(np.array([row])) if isinstance(c, Ragged) else np.asarray(c)[[row]]
                for n, c in columns.items()
            }
            yield _example(objective, one, before[row], tokenizer, vocabulary)


def _example(
    objective: Objective, columns: Columns, before: list[int], tokenizer: Any, vocabulary: Vocabulary
) -> Example:
    markers = {vocabulary.special[text] for text in objective.special_tokens if text in vocabulary.special}
    labels = columns["label_ids"].row(0) if "label_ids" in columns else np.zeros(0, np.int64)
    places = columns["label_positions"].row(0).tolist() if "label_positions" in columns else []
    axis = "label_positions" in columns and objective.columns["label_positions"].index == "input"
    ids = {n: c.row(0).tolist() for n, c in columns.items() if n.endswith("input_ids") and isinstance(c, Ragged)}
    read = ids.get("input_ids", before)
    here = axis and not objective.dense_shift  # predicted where they stand, not where the token before stands
    some = places if here and len(places) < len(read) - 1 else []  # where all are predicted, that says nothing
    restored = np.array(read)
    restored[some] = labels[: len(some)]
    roles, roles_before = _roles(restored.tolist(), before, _in_place(read, before, vocabulary.mask_id))
    for i in some:
        roles[i] = "kept" if read[i] == restored[i] else "replaced"
    notes = dict(zip(some, _notes(columns, some, tokenizer, labels)))

    def tokens(ids: Sequence[int], roles: Sequence[str], notes: dict[int, str] | None = None) -> list[Token]:
        named = [_kind(token, role, vocabulary, markers) for token, role in zip(ids, roles)]
        shown = token_texts(tokenizer, ids)
        return [Token(*text, role, (notes or {}).get(i, "")) for i, (text, role) in enumerate(zip(shown, named))]

    lines = {"text": tokens(before, roles_before)}
    for name, given in ids.items():
        whole = name == "input_ids"
        lines[name] = tokens(given, roles if whole else [""] * len(given), notes if whole else None)
    if len(labels):
        targets = labels[labels >= 0].tolist()
        lines["predict"] = tokens(targets, ["target"] * len(targets))
    values = {n: str(c[0]) for n, c in columns.items() if not isinstance(c, Ragged) and np.ndim(c) == 1}
    return Example(lines, values, columns)


def _kind(token: int, role: str, vocabulary: Vocabulary, markers: set[int]) -> str:
    """The role of a token; special tokens have their own, but as targets."""
    if token in markers:
        return "sentinel"
    if vocabulary.maskable[token] or role == "target":
        return role
    return "masked" if token == vocabulary.mask_id else "special"


def _notes(columns: Columns, places: list[int], tokenizer: Any, labels: np.ndarray) -> list[str]:
    """What is predicted at these places, with its number where there is an order."""
    texts = [text for text, _ in token_texts(tokenizer, np.maximum(labels, 0))]
    if "perm_ranks" not in columns or not places:
        return texts
    ranks = columns["perm_ranks"].row(0)[places]
    return [f"{text} {number + 1}" for text, number in zip(texts, np.argsort(np.argsort(ranks)))]


def _in_place(after: list[int], before: list[int], mask: int | None) -> bool:
    """Whether most of what changed is mask tokens, each in the place of one token, as MASS has them."""
    changed = [a for a, b in zip(after, before) if a != b]
    return len(after) == len(before) and 2 * changed.count(-1 if mask is None else mask) > len(changed)


def _roles(after: list[int], before: list[int], in_place: bool) -> tuple[list[str], list[str]]:
    """What became of the tokens: roles of those after and of those before.

    Args:
        in_place: whether tokens stay where they were.
    """
    if in_place:
        return ["replaced" if a != b else "" for a, b in zip(after, before)], [""] * len(before)
    roles, earlier = ["inserted"] * len(after), ["deleted"] * len(before)
    for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        roles[block.b : block.b + block.size] = [""] * block.size
        earlier[block.a : block.a + block.size] = [""] * block.size
    while True:  # what stands in another order is no longer found in place
        gone = [token if role == "deleted" else -1 for token, role in zip(before, earlier)]
        new = [token if role == "inserted" else -2 for token, role in zip(after, roles)]
        block = SequenceMatcher(None, gone, new, autojunk=False).find_longest_match()
        if block.size < MOVED:
            return roles, earlier
        roles[block.b : block.b + block.size] = ["moved"] * block.size
        earlier[block.a : block.a + block.size] = ["moved"] * block.size


def token_texts(tokenizer: Any, ids: Any) -> list[tuple[str, bool]]:
    """Each token as text, and whether a space stands before it, as far as the tokenizer tells."""
    special = set(tokenizer.all_special_tokens)
    marked = sum(token.startswith(("Ġ", "▁")) for token in tokenizer.get_vocab()) > len(tokenizer) / 50
    found = []
    for token in tokenizer.convert_ids_to_tokens([int(i) for i in ids]):
        plain = not marked or token in special
        text = token if plain else tokenizer.convert_tokens_to_string([token]).strip()
        found.append((text, plain or token.startswith(("Ġ", "▁"))))
    return found


def varied(found: Iterator[Example], most: int) -> list[Example]:
    """Up to `most` examples, none very short, that differ in a label, a mode, a mask, or whether a stream begins."""
    chosen: dict[Any, Example] = {}
    candidates = list(found)
    longest = max(len(example.lines["text"]) for example in candidates)
    for example in candidates:
        if 3 * len(example.lines["text"]) < longest:
            continue
        modes = {t.text for t in example.lines.get("input_ids", []) if t.role == "sentinel" and not _numbered(t.text)}
        ranks = example.columns.get("attention_ranks")
        read = frozenset() if ranks is None else frozenset(np.diff(ranks.row(0)).tolist())
        values = tuple(value for name, value in example.values.items() if "label" in name or name == "stream_starts")
        chosen.setdefault((frozenset(modes), read, values), example)
        if len(chosen) == most:
            break
    return list(chosen.values())


def _numbered(text: str) -> bool:
    return re.search(r"\d\W*$", text) is not None
