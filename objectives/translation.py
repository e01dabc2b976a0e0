"""Translation language modelling (XLM).

    the cat sat / le chat dort  →  </s> the [MASK] sat </s> </s> le chat [MASK] </s>      predict: cat dort

Conneau & Lample 2019, "Cross-lingual language model pretraining", arXiv 1901.07291, section 3.3: masked LM on a text
and its translation in one row, so that the model looks for a masked word's meaning on the other side.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("tlm"), get_objective("tlm", layout="pair", reset_positions=False)       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .base import Columns
from .collator import ObjectiveCollator
from .documents import Documents
from .features import columns_from_features
from .mlm import MaskedLM
from .ragged import Ragged, constant, join, slices
from .registry import register
from .seq2seq import without_padding
from .vocabulary import Vocabulary


@register("tlm")
@dataclass(frozen=True)
class TranslationLM(MaskedLM):
    """Masked LM on pairs of texts that are translations of each other, both sides masked alike.

    A row is a pair of `Documents.translations`; of a pair too long for it, the longer side is cut first (XLM's code
    leaves such pairs out). With `Documents.languages`, the column `langs` tells the language of each token, to
    backbones that have language embeddings (XLM with `n_langs` > 1). Where the code differs: separators are never
    masked (XLM may mask all but the first token), and random tokens are ordinary ones. XLM takes turns with `mlm`.

    Args:
        layout: "xlm": `</s> x </s> </s> y </s>`, by the tokenizer's end or separator token. "pair": the tokenizer's own
            frame for pairs (InfoXLM, arXiv 2007.07834).
        reset_positions: count positions from 0 again at the second text. Only with language embeddings: without, a
            model would see two texts in one place, and could not tell in which language to predict. `None`: where the
            backbone has them and the corpus gives languages.
        others: as for `mlm`; each pair is a row, whatever the packing.
    """

    summary: ClassVar[str] = "predict masked tokens of a text and its translation (XLM)"

    layout: Literal["xlm", "pair"] = "xlm"
    reset_positions: bool | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.layout not in ("xlm", "pair"):
            raise ValueError(f"layout must be 'xlm' or 'pair', not {self.layout!r}")

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Refuse also tokenizers without a separator."""
        super().check(vocabulary, config)
        if self.layout == "xlm":
            _ = vocabulary.separator

    def plan(self, documents, vocabulary, *, length, seed, epoch, global_batch):
        """A row per pair. Raises `ValueError` for documents without translations."""
        pairs = documents.translations
        if pairs is None or not len(pairs):
            raise ValueError(
                "tlm needs a corpus of translations: --corpus a.en,a.de (or --translation_columns), --language en,de; "
                "in Python, pairs of documents in Documents.translations, as tokenize_translations makes them"
            )
        room = length - sum(map(len, self.frame(vocabulary)))
        if room < 2:
            raise ValueError(f"length {length} leaves no room for a pair beside the special tokens; use a larger one")
        return TranslationPlan(self, documents, np.asarray(pairs), vocabulary, room)

    def from_features(self, features: list[Mapping], vocabulary: Vocabulary) -> Columns:
        """Rows from `input_ids` and `input_ids_pair`, with `language` and `language_pair` if the features have them."""
        if not features or "input_ids_pair" not in features[0]:
            raise ValueError("features need the columns 'input_ids' and 'input_ids_pair', a text and its translation")
        alike = [name for name in ("example_id", "epoch") if name in features[0]]
        sides, languages = [], []
        side: list[Mapping]
        for ending in ("", "_pair"):
            side = [{"input_ids": f.get(f"input_ids{ending}"), **{n: f[n] for n in alike}} for f in features]
            rows = without_padding(columns_from_features(side, vocabulary), vocabulary)
            ids: Ragged = rows["input_ids"]
            sides.append(ids.keep(~np.isin(ids.values, vocabulary.framing)))
            languages.append([f.get(f"language{ending}") for f in features])
        given = [language for side in languages for language in side if language is not None]
        if given and len(given) < 2 * len(features):
            raise ValueError("give all features both a 'language' and a 'language_pair', or none")
        columns = self.rows(sides[0], sides[1], vocabulary, np.array(languages).T if given else None)
        return {**columns, **{name: rows[name] for name in alike}}

    def frame(self, vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Special ids before, between and after the two texts."""
        if self.layout == "pair":
            return vocabulary.pair_prefix, vocabulary.middle, vocabulary.pair_suffix
        separator = vocabulary.separator
        return (separator,), (separator, separator), (separator,)

    def rows(self, first: Ragged, second: Ragged, vocabulary: Vocabulary, languages: np.ndarray | None) -> Columns:
        """Framed pairs, their positions, and their languages if given, int `[B, 2]`.

        Of the tokens between the texts, the latter half (of one: none) belongs to the second.
        """
        before, between, after = self.frame(vocabulary)
        half = (len(between) + 1) // 2

        def token(ids: tuple[int, ...]) -> Ragged:
            return constant(ids, len(first), np.int64)

        sides = [
            join([token(before), first, token(between[:half])]),
            join([token(between[half:]), second, token(after)]),
        ]
        columns: Columns = {"input_ids": join(sides)}
        if self.reset_positions or (self.reset_positions is None and languages is not None):
            columns["position_ids"] = join([side.with_values(side.positions) for side in sides])
        if languages is not None:
            columns["langs"] = join(
                [side.with_values(np.repeat(languages[:, i], side.lengths)) for i, side in enumerate(sides)]
            )
        return columns

    def build(self, backbone, vocabulary) -> Any:
        """A masked LM that is given positions if it has language embeddings."""
        from ..models.translation import TranslationModel

        return TranslationModel.build(self, backbone, vocabulary)


@dataclass(frozen=True)
class TranslationPlan:
    """A row for each pair.

    Attributes:
        objective: lays out the rows.
        documents: the corpus.
        pairs: int64 `[P, 2]`, indices of documents.
        vocabulary: gives the special tokens.
        room: tokens of both texts together.
    """

    objective: TranslationLM
    documents: Documents
    pairs: np.ndarray
    vocabulary: Vocabulary
    room: int
    order: Literal["shuffled", "streams"] = "shuffled"

    def __len__(self) -> int:
        return len(self.pairs)

    def rows(self, index: np.ndarray) -> Columns:
        """The pairs as columns."""
        pairs, offsets = self.pairs[index], self.documents.offsets
        starts = offsets[pairs]
        full = offsets[pairs + 1] - 1 - starts  # without closing slots
        most = np.maximum(self.room - full[:, ::-1], (self.room + np.array([1, 0])) // 2)
        lengths = np.minimum(full, most)
        sides = [
            Ragged(self.documents.tokens[slices(starts[:, i], lengths[:, i])].astype(np.int64), lengths[:, i])
            for i in (0, 1)
        ]
        known = self.documents.languages
        languages = None if known is None else known[pairs].astype(np.int64)
        return self.objective.rows(sides[0], sides[1], self.vocabulary, languages)


class DataCollatorForTLM(ObjectiveCollator):
    """Translation LM for a stock masked LM: `DataCollatorForTLM(tokenizer, mlm_probability=0.15)`.

    Features hold `input_ids` and `input_ids_pair`, a text and its translation (special tokens around them are taken
    off), and for models with language embeddings the integers `language` and `language_pair`. Out come `input_ids`,
    `labels` and, given languages, `langs` and `position_ids` (unless `reset_positions=False`). Rows are as long as
    their texts: truncate these.

    Args:
        settings: of the objective `tlm`, and `ObjectiveCollator`'s.
    """

    def __init__(self, tokenizer: Any, **settings: Any):
        super().__init__("tlm", tokenizer, **settings)
