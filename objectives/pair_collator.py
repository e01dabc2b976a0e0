"""Documents in, sentence pairs out: the collator behind `DataCollatorForNSP` and `DataCollatorForSOP`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Columns, Draws, Objective
from .collator import ObjectiveCollator
from .documents import DOCUMENT_END, Documents
from .pieces import word_starts_from_ids
from .ragged import Ragged
from .vocabulary import Vocabulary


class SentencePairCollator(ObjectiveCollator):
    """A collator whose features are documents; it makes all pairs of a batch of them, so rows and features differ.

    Each feature is a document: `{"sentences": [[17, 4, …], …]}`, lists of token ids without special tokens, or
    `{"sentences": ["He went home.", …]}`, or `{"text": "He went home.\\n…"}` with one sentence a line, the form that
    BERT's and ALBERT's code reads. The same documents give other pairs at every call.

    Args:
        tokenizer: as for `ObjectiveCollator`.
        max_length: tokens per pair, special tokens included; the tokenizer's `model_max_length` if left out, at most
            512.
        objective: which masked LM goes with which pairs; "nsp" or "sop" for pairs alone.
        settings: of the objective, and `ObjectiveCollator`'s.
    """

    objective_name = ""

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        objective: Objective | str | None = None,
        **settings: Any,
    ):
        super().__init__(objective or self.objective_name, tokenizer, **settings)
        self._refuse_static()  # pairs are drawn anew at every call
        self.max_length = min(tokenizer.model_max_length, 512) if max_length is None else max_length

    def _rows(self, features: list[Mapping]) -> tuple[Columns, Draws]:
        """All pairs of the documents, and their draws."""
        documents = documents_from_features(features, self.tokenizer, self.vocabulary)
        seed = int(self._call_key()[0])
        plan = self.objective.plan(
            documents, self.vocabulary, length=self.max_length, seed=seed, epoch=0, global_batch=1
        )
        if not len(plan):
            raise ValueError(
                "the documents of this batch give no pair; use documents of two sentences or more, or larger batches"
            )
        index = np.arange(len(plan))
        return plan.rows(index), Draws.of(seed, index, 0, index)


def documents_from_features(features: list[Mapping], tokenizer: Any, vocabulary: Vocabulary) -> Documents:
    """`Documents` from features with `sentences` (ids or text) or `text`; empty sentences are left out.

    Raises `ValueError` for features with neither.
    """
    sentences: list[Any] = []
    counts = []
    for feature in features:
        if "sentences" in feature:
            found = list(feature["sentences"])
        elif "text" in feature:
            found = feature["text"].splitlines()
        else:
            raise ValueError(
                f"features need a column 'sentences' (token ids or text) or 'text' (a sentence per line); they have: "
                f"{', '.join(map(str, feature))}"
            )
        sentences += found
        counts.append(len(found))
    texts = [i for i, sentence in enumerate(sentences) if isinstance(sentence, str)]
    if texts:
        encoded = tokenizer([sentences[i] for i in texts], add_special_tokens=False)["input_ids"]
        for i, ids in zip(texts, encoded, strict=True):
            sentences[i] = ids
    rows = Ragged.from_rows([np.asarray(s, np.int64) for s in sentences], np.int64)
    if rows.values.size and (rows.values.min() < 0 or rows.values.max() >= vocabulary.size):
        raise ValueError(f"the tokenizer's ids are 0 … {vocabulary.size - 1}; the sentences hold others")
    sentence_starts = np.zeros(len(rows.values), bool)
    sentence_starts[rows.offsets[:-1][rows.lengths > 0]] = True
    word_starts = word_starts_from_ids(rows, vocabulary.piece_flags)
    ends = rows.offsets[np.cumsum(counts)]  # of documents, before their closing slots are put in
    return Documents(
        tokens=np.insert(rows.values.astype(np.int32), ends, DOCUMENT_END),
        offsets=np.append(0, ends + np.arange(1, len(ends) + 1)),
        word_starts=np.insert(word_starts, ends, True),
        sentence_starts=np.insert(sentence_starts, ends, False),
    )
