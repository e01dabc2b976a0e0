"""Which objectives can train one model, and which of these can share a batch."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Column, Objective, Term
from .causal import CausalLM
from .mlm import MaskedLM
from .sentence_pairs import SentencePairs
from .seq2seq import Seq2SeqObjective
from .translation import TranslationLM

PLAIN_LOSSES = (MaskedLM.loss, CausalLM.loss, Seq2SeqObjective.loss)
"""Losses that are a cross-entropy over `label_ids` and nothing else."""


def is_plain(objective: Objective) -> bool:
    """Whether the loss is a cross-entropy over `label_ids` alone."""
    plain = type(objective).loss in PLAIN_LOSSES and type(objective).counts is Objective.counts
    return plain and len(objective.terms) == 1


def check_batch(objectives: Sequence[Objective]) -> None:
    """Raise `ValueError` unless rows of these objectives can share a batch."""
    strangers = [objective.name for objective in objectives if not is_plain(objective)]
    if strangers and any(objective != objectives[0] for objective in objectives):
        raise ValueError(
            f"{' and '.join(dict.fromkeys(o.name for o in objectives))} cannot share a batch: {strangers[0]} has a "
            "loss of its own kind; mix them by batch (mixing: batch)"
        )


def parts_of(objective: Objective) -> tuple[Objective, ...]:
    """What a joint objective is put together from; else the objective itself."""
    return getattr(objective, "parts", (objective,))


def check_model(objectives: Sequence[Objective]) -> bool:
    """Whether the model attends by rank. Raises `ValueError`, saying why, for objectives that cannot share a model."""
    whole = " and ".join(dict.fromkeys(objective.name for objective in objectives))
    kinds = {kind_of(objective) for objective in objectives}
    ranked = "ranks" in kinds or {"masked_lm", "causal_lm"} <= kinds
    equal = all(objective == objectives[0] for objective in objectives)
    if None in kinds and not equal:
        stranger = next(o for o in objectives if kind_of(o) is None)
        raise ValueError(f"{stranger.name} trains a model of its own kind and cannot be mixed ({whole})")
    encoders = all(kind is not None and kind.startswith("masked_lm") for kind in kinds)
    if not kinds <= {"ranks", "masked_lm", "causal_lm"} and len(kinds - {"masked_lm"} if encoders else kinds) > 1:
        raise ValueError(f"{whole} train models of unlike kinds and cannot be mixed; train them one after another")
    labels = {part.num_labels for o in objectives for part in parts_of(o) if isinstance(part, SentencePairs)}
    if len(labels) > 1:
        raise ValueError(f"{whole} sort pairs into unlike numbers of classes and cannot share a head")
    if ranked and any(getattr(objective, "document_attention", False) for objective in objectives):
        raise ValueError("document_attention has a mask of its own, and masked and causal LMs share one by ranks")
    terms: dict[str, Term] = {}
    for objective in objectives:
        for name, term in objective.terms.items():
            if callable(term.weight) and not equal or terms.setdefault(name, term) != term:
                raise ValueError(f"{whole} give the term {name} unlike weights; make them equal")
    columns: dict[str, Column] = {}
    for objective in objectives:
        for name, column in objective.columns.items():
            if columns.setdefault(name, column) != column:
                raise ValueError(f"{whole} lay out the column {name} in unlike ways and cannot be mixed")
    return ranked


def kind_of(objective: Objective) -> str | None:
    """What the model of an objective is shared by; `None`: by equal objectives only."""
    if isinstance(objective, Seq2SeqObjective):
        return "seq2seq"
    if isinstance(objective, TranslationLM):
        return "masked_lm, positions"
    if any(isinstance(part, SentencePairs) for part in parts_of(objective)):
        return "masked_lm, pairs"
    if "attention_ranks" in objective.columns:
        return "ranks"
    return objective.architecture if type(objective).build is Objective.build else None


def reset_positions_of(objectives: Sequence[Objective]) -> bool | None:
    """`reset_positions` of all: `True` as soon as one insists on it, `None` where it is left to backbone and corpus."""
    wanted = {getattr(objective, "reset_positions", False) for objective in objectives}
    return True if True in wanted else None if None in wanted else False
