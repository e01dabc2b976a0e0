"""Sentence pairs: next-sentence prediction (BERT) and sentence-order prediction (ALBERT).

    A: he went home.  B: it was late.      next sentence?    yes (0) · B from another document: no (1)
    A: it was late.   B: he went home.     order?            original (0) · swapped (1)

Devlin et al. 2018, arXiv 1810.04805, section 3.1 and appendix A.2; Lan et al. 2019, arXiv 1909.11942, section 3.1.
Both are trained beside a masked LM, which `a+b` does (see `compose`):

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("mlm+nsp", selection="exact", short_seq_prob=0.1)       # doctest: +SKIP
    >>> get_objective("ngram_mlm+sop")                                        # doctest: +SKIP

Pairs are made anew in every epoch and nothing is written to disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .base import Column, Columns, Draws, Objective, Plan, Term
from .documents import Documents
from .losses import token_losses
from .pair_plan import PairPlan, Sentences
from .registry import register
from .vocabulary import Vocabulary

LABEL_NAMES = ("pair_labels", "next_sentence_label", "sentence_order_label")
"""Columns that ready-made pairs may bring their label in."""


@dataclass(frozen=True)
class SentencePairs(Objective):
    """Base of the objectives on pairs: whole sentences up to a target length, cut in two at random.

    Trained alone, the model is the one that a masked LM with pairs would be (its vocabulary head is not trained), so
    that the checkpoint can go on with either.

    Args:
        short_seq_prob: share of documents whose target length is drawn uniformly from 2 up to the full length, so that
            the model sees short pairs (BERT's code draws per document, not per pair).
    """

    architecture: ClassVar[str] = "masked_lm"
    needs: ClassVar[tuple[str, ...]] = ("pad",)
    replans: ClassVar[bool] = True
    num_labels: ClassVar[int] = 2
    random_next: ClassVar[bool] = False

    short_seq_prob: float = 0.1

    def __post_init__(self):
        if not 0 <= self.short_seq_prob <= 1:
            raise ValueError(f"short_seq_prob must lie in 0 … 1, not {self.short_seq_prob}")

    @property
    def terms(self) -> dict[str, Term]:
        """One term, a cross-entropy per pair, weight 1 (both papers)."""
        return {self.name: Term()}

    @property
    def columns(self) -> dict[str, Column]:
        """`pair_labels`, one per row."""
        return {"pair_labels": Column(axis="row")}

    def check(self, vocabulary: Vocabulary, config: Any | None = None) -> None:
        """Also refuses tokenizers that put no token before a pair, from whose output the label would be read."""
        super().check(vocabulary, config)
        if not vocabulary.pair_prefix:
            raise ValueError(
                f"{self.name} reads its answer from the first token, and the tokenizer puts no special token before a "
                "pair; use one that does, such as BERT's ([CLS] A [SEP] B [SEP]) or RoBERTa's"
            )

    def plan(
        self,
        documents: Documents,
        vocabulary: Vocabulary,
        *,
        length: int,
        seed: int,
        epoch: int,
        global_batch: int,
        columns: tuple[str, ...] = (),
    ) -> Plan:
        """The pairs of one epoch; `columns` names what else than `input_ids` the rows shall have ("word_starts").

        Raises `ValueError` if length or documents leave no room for pairs, or a column is asked for that pairs lack.
        """
        room = length - len(vocabulary.pair_prefix) - len(vocabulary.middle) - len(vocabulary.pair_suffix)
        if room < 2:
            raise ValueError(
                f"length {length} leaves no room for two texts beside the special tokens; use a larger one"
            )
        missing = set(columns) - {"word_starts", "sentence_starts"}
        if missing:
            raise ValueError(f"sentence pairs have no column {sorted(missing)[0]!r}")
        sentences = Sentences.of(documents)
        if self.random_next and len(sentences.numbers) < 2:
            raise ValueError(
                f"{self.name} takes the second text of half of its pairs from another document, and the corpus, "
                f"or its held-out part, has {len(sentences.numbers)}; separate documents by blank lines, hold out more "
                "of them, or use sop, which needs only one"
            )
        return PairPlan.make(
            documents,
            sentences,
            vocabulary,
            room=room,
            seed=seed,
            epoch=epoch,
            short_seq_prob=self.short_seq_prob,
            random_next=self.random_next,
            columns=columns,
        )

    def from_features(self, features: list[Mapping], vocabulary: Vocabulary) -> Columns:
        """Rows from ready-made pairs: what the tokenizer returns for two texts, and their label."""
        return label_column(super().from_features(features, vocabulary), self.name)

    def corrupt(self, rows: Columns, draws: Draws, vocabulary: Vocabulary) -> Columns:
        """The rows as they are."""
        return dict(rows)

    def counts(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Number of pairs."""
        return {self.name: (batch["pair_labels"] != -100).sum()}

    def loss(self, outputs, batch):
        """Cross-entropy of `outputs["pair"]`, `[B, 2]`; accuracy as a metric."""
        logits, labels = outputs["pair"], batch["pair_labels"]
        with torch.no_grad():
            correct = ((logits.argmax(-1) == labels) & (labels != -100)).sum()
        return {self.name: token_losses(logits, labels).sum()}, {"accuracy": (correct, (labels != -100).sum())}

    def build(self, backbone, vocabulary):
        """The family's own pretraining class where it has one, else a masked LM and a head for pairs."""
        from ..models.sentence_pairs import build_pair_model

        return build_pair_model(self, backbone, vocabulary, self.num_labels)


def label_column(columns: Columns, name: str) -> Columns:
    """The columns with the label of ready-made pairs under its own name. Raises `ValueError` if there is none."""
    found = [n for n in LABEL_NAMES if n in columns]
    if not found:
        raise ValueError(
            f"{name} needs pairs with a column 'pair_labels' (or {' or '.join(map(repr, LABEL_NAMES[1:]))}); to make "
            "pairs from documents use DataCollatorForNSP or DataCollatorForSOP, whose features hold 'sentences'"
        )
    return {("pair_labels" if n == found[0] else n): column for n, column in columns.items()}


@register("nsp")
@dataclass(frozen=True)
class NextSentencePrediction(SentencePairs):
    """Tell whether text B follows text A in a document (label 0), or comes from another one (label 1).

        [CLS] he went home . [SEP] it was late . [SEP]  →  0      [CLS] he went home . [SEP] prices fell . [SEP]  →  1

    Whole sentences are gathered up to the target length and cut in two after a random one. With probability .5, and
    always when there is only one sentence, B is replaced by sentences from a random place of a random other document,
    and the sentences that it replaces go back to be used in the next pair. So more than half of all labels are 1.
    The longer text is shortened token by token, at the front or at the back with equal chance, until the pair fits.

    Where paper and code differ: the paper says 50 % of the pairs are random, which the code does for chunks of more
    than one sentence only; this follows the code. The code tries ten times to find another document and may then take
    the same one; here it always is another.
    """

    summary: ClassVar[str] = "tell whether the second text follows the first (BERT)"
    stock_names: ClassVar[Mapping[str, str]] = {"pair_labels": "next_sentence_label"}
    random_next: ClassVar[bool] = True


@register("sop")
@dataclass(frozen=True)
class SentenceOrderPrediction(SentencePairs):
    """Tell whether two neighbouring texts stand in their order (label 0) or were swapped (label 1).

        [CLS] he went home . [SEP] it was late . [SEP]  →  0      [CLS] it was late . [SEP] he went home . [SEP]  →  1

    Pairs are made as for `nsp`, but swapped with probability .5 instead of replaced. A chunk of one sentence has no
    order and is dropped; ALBERT's code makes it a pair with a random text and label 1. Lan et al. 2019, arXiv
    1909.11942, section 3.1.
    """

    summary: ClassVar[str] = "tell whether two neighbouring texts were swapped (ALBERT)"
    stock_names: ClassVar[Mapping[str, str]] = {"pair_labels": "sentence_order_label"}
