"""One vector for each text, from the last hidden state of any backbone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ..models.families import FAMILIES

POOLINGS = ("cls", "mean", "last")


def default_pooling(model: Any, tokenizer: Any) -> str:
    """Pooling where none is given: "cls" with a cls token, "last" for causal models, else "mean".

    May et al. 2019 (arXiv 1903.10561) take [CLS] for BERT and the last token for GPT.
    """
    if model.config.is_encoder_decoder:
        return "mean"
    return "cls" if tokenizer.cls_token_id is not None else "last"


def longest_input(config: Any, tokenizer: Any) -> int:
    """Tokens that a model and its tokenizer allow in a row, special ones included; 4096 at most."""
    places = getattr(config, "max_position_embeddings", None) or 4096
    after_pad = {family.model_type for family in FAMILIES.values() if family.positions_after_pad}
    if config.model_type in after_pad:  # positions are counted from behind the padding's
        places -= config.pad_token_id + 1
    return int(min(places, tokenizer.model_max_length, 4096))


@torch.inference_mode()
def sentence_vectors(
    model: Any, tokenizer: Any, texts: Sequence[str], pooling: str = "cls", batch_size: int = 64
) -> torch.Tensor:
    """Vectors of the texts, `[texts, hidden size]`, float32 on the CPU; of an encoder–decoder, its encoder's.

    Args:
        model: from `AutoModel`; put into evaluation mode.
        tokenizer: its fast tokenizer; longer texts than it allows are cut.
        texts: not empty.
        pooling: "cls": the cls token's vector. "mean": the mean over the tokens of the text, special tokens left out.
            "last": the last token's of the text; for causal models.
        batch_size: texts at a time; sorted by length, so that little is padding.

    Raises:
        ValueError: for an unknown pooling, "cls" without a cls token, or a text of no tokens.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"--pooling must be one of {', '.join(POOLINGS)}, not {pooling!r}")
    if pooling == "cls" and tokenizer.cls_token_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no cls token; use --pooling mean or last")
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    model.eval()
    limit = longest_input(model.config, tokenizer)
    rows = tokenizer(list(texts), truncation=True, max_length=limit, return_special_tokens_mask=True)
    accepted = set(inspect.signature(model.forward).parameters)
    order = sorted(range(len(texts)), key=lambda i: len(rows["input_ids"][i]))
    vectors: torch.Tensor | None = None
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        length = len(rows["input_ids"][chosen[-1]])

        def table(name: str, pad: int, chosen: list[int] = chosen, length: int = length) -> torch.Tensor:
            return torch.tensor(
                [rows[name][i] + [pad] * (length - len(rows[name][i])) for i in chosen], device=model.device
            )

        batch = {
            "input_ids": table("input_ids", tokenizer.pad_token_id or 0),
            "attention_mask": table("attention_mask", 0),
        }
        if "token_type_ids" in accepted and "token_type_ids" in rows:
            batch["token_type_ids"] = table("token_type_ids", 0)
        hidden = model(**batch).last_hidden_state.float()
        own = table("special_tokens_mask", 1) == 0
        if not own.any(1).all():
            empty = chosen[int((~own.any(1)).nonzero()[0])]
            raise ValueError(f"the text {texts[empty]!r} has no token of its own in this vocabulary")
        if pooling == "cls":
            at = (batch["input_ids"] == tokenizer.cls_token_id).int().argmax(1)
            found = hidden[torch.arange(len(chosen)), at]
        elif pooling == "last":
            at = (own * torch.arange(1, length + 1, device=own.device)).argmax(1)
            found = hidden[torch.arange(len(chosen)), at]
        else:
            found = (hidden * own[:, :, None]).sum(1) / own.sum(1, keepdim=True)
        if vectors is None:
            vectors = torch.empty(len(texts), hidden.shape[-1])
        vectors[chosen] = found.cpu()
    assert vectors is not None, "no texts"
    return vectors
