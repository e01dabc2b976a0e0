"""Causal models made bidirectional, so that a masked LM can go on from a causal checkpoint.

Gisserot-Boukhlef et al. 2025, "Should we still pretrain encoders with masked language modeling?", arXiv 2507.00994,
section 5; BehnamGhader et al. 2024, "LLM2Vec", arXiv 2404.05961, section 2. The weights stay, the causal mask goes:
the config gets `is_causal=False`, which transformers' masks go by, and which is saved with it, so that the stock class
loads a model that reads in both directions.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForCausalLM,
    PreTrainedModel,
)


def is_causal_only(config: Any) -> bool:
    """Whether transformers has a causal LM of this architecture, and no masked one."""
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def is_lifted(config: Any) -> bool:
    """Whether it is the config of a causal model that was made bidirectional."""
    return getattr(config, "is_causal", True) is False


def load_bidirectional(backbone: Any) -> PreTrainedModel:
    """A causal LM of the backbone with its causal mask lifted.

    Raises `ValueError` for an architecture that is causal by other means than its mask: tried out on four tokens.
    """
    main = backbone.load(AutoModelForCausalLM)
    main.config.is_causal = False
    words = [i for i in range(4, 11) if i != getattr(main.config, "pad_token_id", None)]
    rows = torch.tensor([words[:4], [*words[:3], words[4]]], device=main.device)  # they differ in the last token
    training = main.training
    main.eval()
    with torch.no_grad():
        first, other = main(input_ids=rows, attention_mask=torch.ones_like(rows)).logits[:, 0]
    main.train(training)
    if torch.equal(first, other):
        raise ValueError(
            f"{type(main).__name__} stays causal without its mask, so it cannot be trained on both sides of a token; "
            "use an encoder, such as bert-tiny, or llama-tiny or gpt2-tiny"
        )
    return main
