"""Parallel lists of texts to `Documents` with translations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..objectives.documents import Documents
from .corpora import Corpus
from .documents import tokenize_corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize_translations(
    source: Sequence[str],
    target: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: str | os.PathLike,
    num_proc: int | None = None,
    languages: tuple[str, str] = ("en", "en"),
) -> Documents:
    """Tokenize texts and their translations, with the cache of `tokenize_corpus`.

    Pairs with a blank side, or one without tokens, are left out. Of the `P` pairs that stay, document `i` is the i-th
    text, of language 0, and document `P + i` its translation, of language 1.

    Args:
        source, target: the texts; `target[i]` translates `source[i]`.
        tokenizer, cache_dir, num_proc: as for `tokenize_corpus`.
        languages: ISO 639 codes of the two sides, for finding sentences.

    Raises `ValueError` for lists of unlike length, and what `tokenize_corpus` raises.
    """
    if len(source) != len(target):
        raise ValueError(f"{len(source)} texts have {len(target)} translations; give as many, in the same order")
    corpus = Corpus("texts and translations", lambda tally: iter(zip(source, target)), languages)
    return tokenize_corpus(corpus, tokenizer, cache_dir, num_proc)
