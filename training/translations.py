"""Parallel texts to `Documents` with translations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..objectives.documents import Documents
from .documents import tokenize_corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize_translations(
    source: Sequence[str],
    target: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: str | os.PathLike,
    num_proc: int | None = None,
) -> Documents:
    """Tokenize texts and their translations, with the cache of `tokenize_corpus`.

    Pairs with a blank side are left out. Document 2i is the i-th text, of language 0, document 2i + 1 its translation,
    of language 1.

    Args:
        source, target: the texts; `target[i]` translates `source[i]`.
        tokenizer, cache_dir, num_proc: as for `tokenize_corpus`.

    Raises `ValueError` for lists of unlike length, and what `tokenize_corpus` raises.
    """
    if len(source) != len(target):
        raise ValueError(f"{len(source)} texts have {len(target)} translations; give as many, in the same order")
    texts = [text for pair in zip(source, target, strict=True) if all(t.strip() for t in pair) for text in pair]
    documents = tokenize_corpus(texts, tokenizer, cache_dir, num_proc)
    if len(documents) != len(texts):
        raise ValueError("some texts have no tokens, so that pairs are broken; leave out texts of control characters")
    pairs = np.arange(len(documents)).reshape(-1, 2)
    return replace(documents, translations=pairs, languages=np.tile(np.array([0, 1], np.int16), len(pairs)))
