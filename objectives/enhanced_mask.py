"""Masked language modelling with an enhanced mask decoder (DeBERTa).

    the cat sat on the mat  →  the [MASK] sat on the mat      predict: cat, told only at the end that it is word 2

He et al. 2020, "DeBERTa: Decoding-enhanced BERT with disentangled attention", arXiv 2006.03654, section 3.2. The
encoder knows relative positions only; absolute ones enter in the decoder, whose queries they are added to.

    >>> from pretrain_zoo.objectives import get_objective
    >>> get_objective("emd_mlm", max_ngram=3)       # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .mlm import NgramMaskedLM
from .registry import register


@register("emd_mlm")
@dataclass(frozen=True)
class EnhancedMaskDecoderLM(NgramMaskedLM):
    """N-gram masked LM whose predictions come from the last layer applied to queries with absolute positions.

    The released sampler goes through the text in windows and stops at its budget, which leaves the last 5 % of a row
    unmasked; here n-grams are visited in random order, so that the rate is the same at every position.

    Args:
        decoder_steps: how often the last layer is applied, each time to the queries that the step before gave, keys
            and values being the next-to-last layer's output.
        others: as for `ngram_mlm`.
    """

    summary: ClassVar[str] = "masked n-grams, absolute positions only in the decoder (DeBERTa)"
    architecture: ClassVar[str] = "enhanced_mask_decoder"

    decoder_steps: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.decoder_steps < 1:
            raise ValueError(f"decoder_steps must be at least 1, not {self.decoder_steps}")

    def build(self, backbone, vocabulary):
        """A DeBERTa with the decoder around its last layer."""
        from ..models.enhanced_mask_decoder import EnhancedMaskDecoderModel

        return EnhancedMaskDecoderModel.build(self, backbone, vocabulary)
