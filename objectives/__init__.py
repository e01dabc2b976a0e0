"""Pretraining objectives: noise functions over ragged NumPy batches, plans of examples, collators and losses."""

from . import (  # noqa: F401 - registers
    causal,
    enhanced_mask,
    mlm,
    mpnet,
    permutation,
    recurrent,
    replaced_tokens,
    sentence_pairs,
    spans,
)
from .base import Column, Columns, Draws, Objective, Plan, Term
from .collator import ObjectiveCollator
from .documents import DOCUMENT_END, Documents
from .drop_in import (
    DataCollatorForCausalLM,
    DataCollatorForMaskedLM,
    DataCollatorForNgramMask,
    DataCollatorForNSP,
    DataCollatorForSOP,
    DataCollatorForSpanMask,
    DataCollatorForWholeWordMask,
)
from .ragged import Ragged
from .registry import get_objective, list_objectives, register
from .vocabulary import Vocabulary

__all__ = [
    "DOCUMENT_END",
    "Column",
    "Columns",
    "DataCollatorForCausalLM",
    "DataCollatorForMaskedLM",
    "DataCollatorForNSP",
    "DataCollatorForNgramMask",
    "DataCollatorForSOP",
    "DataCollatorForSpanMask",
    "DataCollatorForWholeWordMask",
    "Documents",
    "Draws",
    "Objective",
    "ObjectiveCollator",
    "Plan",
    "Ragged",
    "Term",
    "Vocabulary",
    "get_objective",
    "list_objectives",
    "register",
]
