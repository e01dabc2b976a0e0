"""Tasks as text, on Hugging Face's `Seq2SeqTrainer`: encoding, the loss, and answers that the model generates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, Seq2SeqTrainer, TrainerCallback

from .finetune_trainer import COMPLETE
from .text_to_text import TextTask

Rows = list[dict[str, list[int]]]
"""Encoded examples: "input_ids" and "labels"."""


def encode(task: TextTask, split: str, tokenizer: PreTrainedTokenizerBase, lengths: tuple[int, int]) -> Rows:
    """A split of a task as token ids: inputs as the tokenizer frames a text, targets with the end token alone.

    Args:
        lengths: most tokens of inputs and of targets, special tokens included; longer ones are cut.

    Raises `ValueError` for a tokenizer without an end token.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if end is None:
        raise ValueError("the tokenizer has no eos or sep token to end an answer with; add one")
    inputs = tokenizer(task.inputs[split], truncation=True, max_length=lengths[0], verbose=False)["input_ids"]
    targets = tokenizer(
        task.targets[split], add_special_tokens=False, truncation=True, max_length=lengths[1] - 1, verbose=False
    )["input_ids"]
    return [{"input_ids": ids, "labels": [*target, end]} for ids, target in zip(inputs, targets, strict=True)]


def mean_over_tokens(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None, label_smoothing: float = 0.0
):
    """Cross-entropy, divided once by the target tokens of the optimizer step, however it is divided into batches."""
    logits = outputs["logits"].flatten(0, 1).float()
    losses = functional.cross_entropy(logits, labels.flatten(), reduction="sum", label_smoothing=label_smoothing)
    return losses / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)


def generate(trainer: Seq2SeqTrainer, rows: Rows, max_target_length: int) -> list[str]:
    """The model's answers to the rows, in their order, decoded without special tokens.

    Greedy, or by beam search with `generation_num_beams` in the trainer's arguments.
    """
    beams = trainer.args.generation_num_beams or 1  # type: ignore[attr-defined]
    found: Any = trainer.predict(rows, max_new_tokens=max_target_length, num_beams=beams, do_sample=False)  # type: ignore[arg-type]
    tokenizer: Any = trainer.processing_class
    ids = np.where(found.predictions < 0, tokenizer.pad_token_id, found.predictions)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def write_answers(path: Path, inputs: Sequence[str], targets: Sequence[str], answers: Sequence[str]) -> None:
    """Write a table of inputs, right and given answers, tabs and line breaks in them made spaces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "input\ttarget\tanswer",
        *("\t".join(" ".join(c.split()) for c in row) for row in zip(inputs, targets, answers)),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class MarkComplete(TrainerCallback):
    """Marks checkpoints that were written whole, for `last_checkpoint`."""

    def on_save(self, args, state, control, **kwargs):
        """A file in the checkpoint, the last one."""
        if args.should_save:
            Path(args.output_dir, f"checkpoint-{state.global_step}", COMPLETE).touch()
