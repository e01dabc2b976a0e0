"""A checkpoint with its language model's head, and the log-probabilities it gives to tokens.

Only the places that are asked for meet the vocabulary (`models/masked_positions.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from ..models.masked_positions import attach
from ..models.presets import backbone, list_presets
from .sentence_vectors import longest_input
from .squad_trainer import takes_types

LOADERS: dict[str, Any] = {
    "masked": AutoModelForMaskedLM,
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
}


def model_kind(name: str) -> str:
    """ "masked", "causal" or "seq2seq": what a checkpoint is, by its config.

    Raises `ValueError` for one without a language model's head.
    """
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if config.is_encoder_decoder:
        return "seq2seq"
    written = (getattr(config, "architectures", None) or [""])[0]
    if "CausalLM" in written or ("LMHead" in written and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES):
        return "causal"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "masked"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise ValueError(f"transformers has no language model of the kind {config.model_type}")


@dataclass
class LanguageModel:
    """A model that texts are scored with.

    Attributes:
        model, tokenizer: with a head over the vocabulary, in evaluation mode; fast.
        kind: "masked", "causal" or "seq2seq".
        max_length: most tokens of a row.
        batch_size: rows at a time.
    """

    model: Any
    tokenizer: Any
    kind: str
    max_length: int
    batch_size: int = 32
    rows: Any = field(init=False)

    def __post_init__(self):
        if not self.tokenizer.is_fast:
            raise ValueError(f"{type(self.tokenizer).__name__} is a slow tokenizer; prompts need a fast one")
        if self.kind == "masked" and self.tokenizer.mask_token_id is None:
            raise ValueError(f"{type(self.tokenizer).__name__} has no mask token, and a masked LM needs one")
        self.model.eval()
        self.rows = attach(self.model)

    @classmethod
    def load(cls, name: str, tokenizer: Any, batch_size: int = 32, device: str = "cpu") -> LanguageModel:
        """A checkpoint. Raises `ValueError` if it has no weights for a language model's head, as after fine-tuning."""
        if name in list_presets():
            raise ValueError(f"{name} has random weights; zero-shot use needs a trained checkpoint")
        kind = model_kind(name)
        backbone(name, tokenizer)  # refuses a tokenizer that is not the checkpoint's
        model, report = LOADERS[kind].from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
        if report["missing_keys"]:
            raise ValueError(
                f"{name} has no weights for {min(report['missing_keys'])}: it is no {kind} language model "
                "(a discriminator, or fine-tuned); zero-shot and in-context use need one"
            )
        return cls(model.to(device), tokenizer, kind, longest_input(model.config, tokenizer), batch_size)


@dataclass
class Batch:
    """Rows to run, and what to read of each: tokens at places, as (row, places, ids) for each candidate."""

    inputs: list[list[int]] = field(default_factory=list)
    targets: list[list[int]] = field(default_factory=list)
    reads: list[tuple[int, list[int], list[int]]] = field(default_factory=list)


@torch.inference_mode()
def run(lm: LanguageModel, batch: Batch) -> list[np.ndarray]:
    """Log-probabilities of the tokens that each read asks for."""
    found: list[np.ndarray] = [np.empty(0)] * len(batch.reads)
    asked: dict[int, list[int]] = {}
    for number, (row, _, _) in enumerate(batch.reads):
        asked.setdefault(row, []).append(number)
    order = sorted(range(len(batch.inputs)), key=lambda row: len(batch.inputs[row]))
    with_types = lm.kind == "masked" and takes_types(lm.model)
    device = lm.model.device
    pad = lm.tokenizer.pad_token_id or 0
    for first in range(0, len(order), lm.batch_size):
        rows = order[first : first + lm.batch_size]
        inputs = _padded([batch.inputs[row] for row in rows], pad)
        lengths = np.array([len(batch.inputs[row]) for row in rows])
        features = {"input_ids": inputs, "attention_mask": (np.arange(inputs.shape[1]) < lengths[:, None]).astype(int)}
        if with_types:
            features["token_type_ids"] = np.zeros_like(inputs)
        width = inputs.shape[1]
        if batch.targets:
            features["decoder_input_ids"] = _padded([batch.targets[row] for row in rows], pad)
            width = features["decoder_input_ids"].shape[1]
        reads = [(line, number) for line, row in enumerate(rows) for number in asked[row]]
        places = np.concatenate([line * width + np.array(batch.reads[number][1]) for line, number in reads])
        ids = np.concatenate([batch.reads[number][2] for _, number in reads])
        lm.rows.positions = torch.from_numpy(places).to(device)
        options = {} if lm.kind == "masked" else {"use_cache": False}
        try:
            output = lm.model(**{name: torch.from_numpy(v).to(device) for name, v in features.items()}, **options)
        finally:
            lm.rows.positions = None
        log_probabilities = torch.log_softmax(output["logits"][0].float(), -1)
        values = log_probabilities.gather(1, torch.from_numpy(ids).to(device)[:, None])[:, 0].double().cpu().numpy()
        splits = np.cumsum([len(batch.reads[number][1]) for _, number in reads])[:-1]
        for (_, number), own in zip(reads, np.split(values, splits)):
            found[number] = own
    return found


def _padded(rows: list[list[int]], pad: int) -> np.ndarray:
    lengths = np.array([len(row) for row in rows])
    inside = np.arange(lengths.max()) < lengths[:, None]
    table = np.full(inside.shape, pad, np.int64)
    table[inside] = np.concatenate(rows)
    return table
