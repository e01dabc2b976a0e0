"""What `pretrain_zoo.objectives` offers; importing this registers its objectives."""

from . import (  # noqa: F401 - registers
    causal,
    denoising,
    diffusion,
    distillation,
    enhanced_mask,
    fill_in_middle,
    gap_sentences,
    mass,
    mlm,
    mpnet,
    permutation,
    prefix_lm,
    recurrent,
    replaced_tokens,
    sentence_pairs,
    seq2seq_prefix_lm,
    span_corruption,
    spans,
    translation,
    ul2,
    unilm,
)
from .base import Column, Columns, Draws, Objective, Plan, Term
from .collator import ObjectiveCollator
from .denoising import DataCollatorForBartDenoisingLM, DataCollatorForDenoising
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
from .drop_in_seq2seq import (
    DataCollatorForMaskedDiffusion,
    DataCollatorForPrefixLM,
    DataCollatorForUL2,
    FlaxDataCollatorForBartDenoisingLM,
    FlaxDataCollatorForT5MLM,
    compute_input_and_target_lengths,
)
from .fill_in_middle import DataCollatorForFillInMiddle
from .gap_sentences import DataCollatorForGapSentences
from .mass import DataCollatorForMASS
from .mixture import Mixture
from .permutation import DataCollatorForPermutationLanguageModeling
from .ragged import Ragged
from .registry import get_objective, list_objectives, register
from .seq2seq_prefix_lm import DataCollatorForSeq2SeqPrefixLM
from .span_corruption import DataCollatorForT5MLM
from .translation import DataCollatorForTLM
from .vocabulary import Vocabulary

__all__ = [
    "DOCUMENT_END",
    "Column",
    "Columns",
    "DataCollatorForBartDenoisingLM",
    "DataCollatorForCausalLM",
    "DataCollatorForDenoising",
    "DataCollatorForFillInMiddle",
    "DataCollatorForGapSentences",
    "DataCollatorForMASS",
    "DataCollatorForMaskedDiffusion",
    "DataCollatorForMaskedLM",
    "DataCollatorForNSP",
    "DataCollatorForNgramMask",
    "DataCollatorForPermutationLanguageModeling",
    "DataCollatorForPrefixLM",
    "DataCollatorForSOP",
    "DataCollatorForSeq2SeqPrefixLM",
    "DataCollatorForSpanMask",
    "DataCollatorForT5MLM",
    "DataCollatorForTLM",
    "DataCollatorForUL2",
    "DataCollatorForWholeWordMask",
    "Documents",
    "Draws",
    "FlaxDataCollatorForBartDenoisingLM",
    "FlaxDataCollatorForT5MLM",
    "Mixture",
    "Objective",
    "ObjectiveCollator",
    "Plan",
    "Ragged",
    "Term",
    "Vocabulary",
    "compute_input_and_target_lengths",
    "get_objective",
    "list_objectives",
    "register",
]
