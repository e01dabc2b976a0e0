"""Pretraining objectives: noise functions over ragged NumPy batches, plans of examples, collators and losses."""

from . import causal, enhanced_mask, mlm, mpnet, permutation, recurrent, replaced_tokens  # noqa: F401 - registers
from .base import Column, Columns, Draws, Objective, Plan, Term
from .collator import ObjectiveCollator
from .documents import DOCUMENT_END, Documents
from .drop_in import (
    DataCollatorForCausalLM,
    DataCollatorForMaskedLM,
    DataCollatorForNgramMask,
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
    "DataCollatorForNgramMask",
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
