"""Collators by the names people look for, with Hugging Face's arguments; each is an `ObjectiveCollator`."""

from __future__ import annotations

from typing import Any

from .collator import ObjectiveCollator
from .pair_collator import SentencePairCollator


class _Named(ObjectiveCollator):
    """A collator bound to one objective; keyword arguments are the objective's settings and `ObjectiveCollator`'s."""

    objective_name = ""

    def __init__(self, tokenizer: Any, **settings: Any):
        super().__init__(self.objective_name, tokenizer, **settings)


class DataCollatorForMaskedLM(_Named):
    """Masked LM: `DataCollatorForMaskedLM(tokenizer, mlm_probability=0.15)`, see `mlm.MaskedLM`.

    the cat sat on the mat  →  the [MASK] sat on the mat      labels: −100 cat −100 …
    """

    objective_name = "mlm"


class DataCollatorForWholeWordMask(_Named):
    """Whole-word masked LM: the collator of this name that transformers 5 dropped, see `mlm.WholeWordMaskedLM`.

    Features may hold `word_ids` (from a fast tokenizer's encoding); without, the pieces themselves tell the words.
    """

    objective_name = "whole_word_mlm"


class DataCollatorForNgramMask(_Named):
    """ALBERT's n-gram masking: `DataCollatorForNgramMask(tokenizer, max_ngram=3)`, see `mlm.NgramMaskedLM`."""

    objective_name = "ngram_mlm"


class DataCollatorForCausalLM(_Named):
    """Causal LM: labels are the inputs, padding at −100 by the attention mask, see `causal.CausalLM`."""

    objective_name = "clm"


class DataCollatorForSpanMask(_Named):
    """SpanBERT's span masking: `DataCollatorForSpanMask(tokenizer, mlm_probability=0.15)`, see `spans.SpanMaskedLM`.

    Without the span boundary objective, for which stock models have no head; `sbo_weight=1.0` adds its columns.
    """

    objective_name = "span_mlm"

    def __init__(self, tokenizer: Any, *, sbo_weight: float = 0.0, **settings: Any):
        super().__init__(tokenizer, sbo_weight=sbo_weight, **settings)


class DataCollatorForNSP(SentencePairCollator):
    """BERT's pairs and masks for `BertForPreTraining`: documents in, `next_sentence_label` and `labels` out.

    See `pair_collator.SentencePairCollator` for the features, `sentence_pairs.NextSentencePrediction` and `mlm` for
    the settings (`selection="exact"` masks as BERT did). A batch needs two documents or more.
    """

    objective_name = "mlm+nsp"


class DataCollatorForSOP(SentencePairCollator):
    """ALBERT's pairs and masks for `AlbertForPreTraining`: documents in, `sentence_order_label` and `labels` out.

    See `pair_collator.SentencePairCollator` for the features, `sentence_pairs.SentenceOrderPrediction` and
    `mlm.NgramMaskedLM` for the settings.
    """

    objective_name = "ngram_mlm+sop"
