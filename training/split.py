"""Setting documents aside for validation: whole ones, and translations together."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..objectives.documents import Documents, places_among, selection_fingerprint
from ..objectives.keyed import combine, mix
from ..objectives.ragged import slices
from .cache import read_documents, write_documents

PART_TOKENS = 250_000
"""Documents are copied and compared in parts of about this many tokens."""


def split_documents(
    documents: Documents, fraction: float, seed: int = 0, cache_dir: str | os.PathLike | None = None
) -> tuple[Documents, Documents]:
    """Split off `fraction` of the documents (at least one), whole, for validation: `(train, validation)`.

    Which ones is a function of `seed` and each document's number in the corpus, not of the tokenizer. Both sides keep
    the corpus's order. With `cache_dir` both are written there and memory-mapped; otherwise they are held in memory.

    Of parallel text, pairs are split off: a text and its translation stay together, and so do all translations of one
    text (which may make the held-out part larger), so that no text of the first language is on both sides.

    Raises:
        ValueError: if `fraction` is not between 0 and 1, or leaves a side without documents.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must lie between 0 and 1 (exclusive), got {fraction}.")
    pairs = documents.translations
    numbers = np.arange(len(documents)) if pairs is None else _first_alike(documents, pairs[:, 0])
    keys = combine(seed, numbers)
    order = np.argsort(keys, kind="stable")
    count = max(1, round(fraction * len(order)))
    if len(order):
        count = int(np.searchsorted(keys[order], keys[order[min(count, len(order)) - 1]], side="right"))
    if count >= len(order):
        raise ValueError(
            f"The corpus has {len(order)} {'document' if pairs is None else 'pair'}(s), too few to set {fraction:.0%} "
            "of them aside for validation: separate documents by blank lines, or give a --validation_file and a "
            "validation_fraction of 0."
        )
    validation, train = order[:count], order[count:]
    if pairs is not None:
        validation, train = pairs[validation].reshape(-1), pairs[train].reshape(-1)
    return select(documents, np.sort(train), cache_dir), select(documents, np.sort(validation), cache_dir)


def _first_alike(documents: Documents, chosen: np.ndarray) -> np.ndarray:
    """For each chosen document, which of them is the first with the same tokens; told by a hash of 64 bits."""
    hashes = np.empty(len(chosen), np.uint64)
    starts = documents.offsets[chosen]
    lengths = documents.offsets[chosen + 1] - starts
    for part in _parts(np.arange(len(chosen)), lengths):
        tokens = documents.tokens[slices(starts[part], lengths[part])].astype(np.uint64)
        begin = np.cumsum(lengths[part]) - lengths[part]
        place = np.arange(len(tokens)) - np.repeat(begin, lengths[part])
        hashes[part] = np.add.reduceat(mix(mix(place.astype(np.uint64)) + tokens), begin)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return first[inverse]


def _parts(chosen: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """`chosen` in parts of about `PART_TOKENS`; `lengths` are those of the chosen documents."""
    ends = np.cumsum(lengths)
    cuts = np.searchsorted(ends, np.arange(PART_TOKENS, ends[-1] if len(ends) else 0, PART_TOKENS))
    return np.split(chosen, np.unique(cuts))


def select(documents: Documents, chosen: np.ndarray, cache_dir: str | os.PathLike | None) -> Documents:
    """`documents.select(chosen)`, in memory or as a cache of its own."""
    if cache_dir is None:
        return documents.select(chosen)
    fingerprint = selection_fingerprint(documents.fingerprint, chosen)
    directory = Path(cache_dir) / f"documents-{fingerprint}"
    if not directory.exists():
        lengths = documents.offsets[chosen + 1] - documents.offsets[chosen]
        texts = replace(documents, translations=None)
        parts = map(texts.select, _parts(chosen, lengths))
        pairs = documents.translations
        write_documents(directory, parts, None if pairs is None else places_among(chosen, pairs, len(documents)))
    return read_documents(directory, fingerprint)
