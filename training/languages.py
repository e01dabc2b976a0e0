"""Languages of a run, and the numbers by which a backbone with language embeddings (XLM) knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..objectives import Columns

if TYPE_CHECKING:
    from ..models.presets import Backbone
    from .arguments import RunArguments


def codes_of(run: RunArguments) -> list[str]:
    """ISO 639 codes of the run's texts, each once, as they come."""
    corpora = [component.corpus for phase in run.phases for component in phase.components] or [run.corpus]
    return list(dict.fromkeys(code for corpus in corpora for code in corpus.languages))


def number_languages(codes: Sequence[str], parts: Backbone, overrides: dict[str, Any]) -> dict[str, int]:
    """Number of each language: the checkpoint's (`lang2id` of its config), else its place, as the config then says;
    none for the only language of a run on a backbone without language embeddings.

    A preset with language embeddings gets as many as there are languages, unless `overrides` say how many.

    Raises `ValueError` for a language that the checkpoint does not know, and for more than it has embeddings of.
    """
    config: Any = parts.config
    numbers = {code: number for number, code in enumerate(codes)}
    tells = getattr(config, "use_lang_emb", False)
    if tells and parts.checkpoint is None and "n_langs" not in overrides:
        config.n_langs = len(codes)
    if not tells or config.n_langs == 1:
        return numbers if len(codes) > 1 else {}
    known = getattr(config, "lang2id", None)
    if known:
        if unknown := [code for code in codes if code not in known]:
            raise ValueError(
                f"the checkpoint has embeddings of {', '.join(known)} (lang2id in its config), none of "
                f"{', '.join(unknown)}; --language must name languages that it knows"
            )
        return {code: known[code] for code in codes}
    if len(codes) > config.n_langs:
        raise ValueError(
            f"the run has {len(codes)} languages ({', '.join(codes)}), the model embeddings of {config.n_langs}; name "
            "the same language in the same way everywhere, or set n_langs in --config_overrides"
        )
    config.lang2id = numbers
    config.id2lang = {str(number): code for code, number in numbers.items()}
    return numbers


def with_languages(rows: Columns, numbers: Sequence[int]) -> Columns:
    """Rows with the column `langs`, the number of each token's language; as they are if there are no numbers.

    Args:
        numbers: of the corpus' only language, or of both languages of parallel text, whose rows say 0 and 1.
    """
    if not numbers:
        return rows
    of = np.asarray(numbers, np.int64)
    if "langs" in rows:
        langs: Any = rows["langs"]
        return {**rows, "langs": langs.with_values(of[langs.values])}
    if len(of) > 1:
        return rows
    ids: Any = rows["input_ids"]
    return {**rows, "langs": ids.with_values(np.full(len(ids.values), of[0]))}
