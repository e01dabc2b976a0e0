"""Small training runs, of a fraction of a second each, for the tests of the trainer and the programs they start."""

from __future__ import annotations

import gc
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_texts
from transformers import AutoModelForMaskedLM, TrainerCallback, TrainingArguments

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import Vocabulary, get_objective
from pretrain_zoo.training.dataset import EvaluationDataset, PretrainingDataset
from pretrain_zoo.training.encode import encode
from pretrain_zoo.training.mixed_evaluation import MixedEvaluationDataset
from pretrain_zoo.training.mixture import Component, Phase, PhasedDataset
from pretrain_zoo.training.quotas import Weights
from pretrain_zoo.training.tokenizer import train_tokenizer
from pretrain_zoo.training.trainer import PretrainingTrainer

gc.freeze()  # every `train` collects garbage: half a second over what the libraries hold

LENGTH, ROWS = 16, 32
"""Tokens of a row, rows of an optimizer step."""

OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "mlm": ("bert-tiny", {"packing": "documents"}),  # rows of unlike length: the counts of micro-batches differ
    "whole_word_mlm": ("roberta-tiny", {}),
    "ngram_mlm": ("albert-tiny", {}),
    "span_mlm": ("bert-tiny", {}),
    "emd_mlm": ("deberta-v3-tiny", {}),
    "mpnet": ("mpnet-tiny", {}),
    "nsp": ("bert-tiny", {}),
    "sop": ("albert-tiny", {}),
    "mlm+nsp": ("bert-tiny", {}),  # terms over tokens and over rows
    "rtd": ("electra-tiny", {"packing": "documents"}),  # two terms with counts of their own
    "replace_mlm": ("electra-tiny", {}),
    "all_tokens_mlm": ("electra-tiny", {}),
    "diffusion": ("bert-tiny", {"packing": "documents"}),  # weights and a count of its own
    "tlm": ("xlm-tiny", {}),
    "clm": ("gpt2-tiny", {"packing": "documents"}),
    "prefix_lm": ("gpt2-tiny", {"packing": "documents"}),
    "unilm": ("bert-tiny", {}),
    "fim": ("gpt2-tiny", {}),
    "plm": ("xlnet-tiny", {"mem_len": 8}),
    "recurrent_clm": ("xlnet-tiny", {"mem_len": 8}),  # memory that must follow its streams
    "denoising": ("bart-tiny", {}),
    "mass": ("bart-tiny", {}),
    "gsg": ("bart-tiny", {}),
    "span_corruption": ("t5-tiny", {"noise_density": 0.3}),  # more than one span, whose places vary
    "seq2seq_prefix_lm": ("t5-tiny", {}),
    "ul2": ("t5-tiny", {}),
    "distillation(mlm)": ("bert-tiny", {"teacher": "bert-tiny", "hidden_weight": 1.0, "relation_weight": 1.0}),
}
"""Objectives that have to give the same update on any division of the batch: backbone and settings."""


@lru_cache
def text():
    """(tokenizer, vocabulary, documents), always the same."""
    texts = make_texts()
    tokenizer = train_tokenizer(texts, "wordpiece", vocab_size=200)
    needed = [t for name, (_, settings) in OBJECTIVES.items() for t in get_objective(name, **settings).special_tokens]
    tokenizer.add_tokens(list(dict.fromkeys(needed)), special_tokens=True)
    documents = encode(tokenizer.backend_tokenizer, texts)
    pairs = np.arange(len(documents)).reshape(-1, 2)  # as if each second document were a translation
    documents = replace(documents, translations=pairs, languages=np.tile(np.array([0, 1], np.int16), len(pairs)))
    return tokenizer, Vocabulary.from_tokenizer(tokenizer), documents


@lru_cache
def teacher(model: str) -> str:
    """Folder of a model with random weights."""
    folder = tempfile.mkdtemp()
    torch.manual_seed(7)
    backbone(model, text()[0], max_length=LENGTH).load(AutoModelForMaskedLM).save_pretrained(folder)
    return folder


def make_objective(name: str):
    """The objective with its settings."""
    settings = OBJECTIVES[name][1]
    if "teacher" in settings:
        settings = {**settings, "teacher": teacher(settings["teacher"])}
    return get_objective(name, **settings)


def build(name: str, *, dtype: torch.dtype = torch.float64, dropout: bool = False):
    """The objective and a model for it; the same weights at every call."""
    tokenizer, vocabulary, _ = text()
    objective = make_objective(name)
    parts = backbone(OBJECTIVES[name][0], tokenizer, max_length=LENGTH, dtype=dtype)
    for key, value in parts.config.to_dict().items():
        if "drop" in key and isinstance(value, float) and not dropout:
            setattr(parts.config, key, 0.0)
    torch.manual_seed(3)
    return objective, objective.build(parts, vocabulary).to(dtype)  # XLNet makes some weights in float32 always


DEFAULTS: dict[str, Any] = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "per_device_eval_batch_size": 4,
    "dataloader_pin_memory": False,
}
"""Arguments of the trainers below."""


class Gradients(TrainerCallback):
    """Keeps the gradients of every optimizer step."""

    def __init__(self):
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def make_trainer(
    name: str,
    folder: Path,
    *,
    micro: int = ROWS,
    accumulate: int = 1,
    steps: int = 3,
    rows: int = ROWS,
    dtype: torch.dtype = torch.float64,
    dropout: bool = False,
    eval_rows: int | None = None,
    model: Any = None,
    callbacks: tuple = (),
    **arguments: Any,
) -> PretrainingTrainer:
    """A trainer on the fixed text, by SGD at a constant rate unless `arguments` say otherwise."""
    tokenizer, vocabulary, documents = text()
    objective, built = build(name, dtype=dtype, dropout=dropout) if model is None else (model.objective, model)
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        max_steps=steps,
        **{**DEFAULTS, **arguments},
    )
    dataset = PretrainingDataset(
        objective, documents, vocabulary, length=LENGTH, global_batch=rows, max_steps=steps, seed=5
    )
    held_out = None
    if eval_rows is not None:
        held_out = EvaluationDataset(objective, documents, vocabulary, length=LENGTH, seed=1, max_rows=eval_rows)
    return PretrainingTrainer(built, args, dataset, held_out, processing_class=tokenizer, callbacks=list(callbacks))


def make_mixed_trainer(
    folder: Path, *, micro: int = ROWS, accumulate: int = 1, world: int = 1, callbacks: tuple = (), **arguments: Any
) -> PretrainingTrainer:
    """A trainer of two phases: masked and causal LM mixed, then masked LM and diffusion in turns, on half the rows."""
    tokenizer, vocabulary, documents = text()
    halves = np.array_split(np.arange(len(documents)), 2)
    one, two = (replace(documents.select(half), languages=None, translations=None) for half in halves)
    masked, causal, diffusion = (
        Component(name, get_objective(name), LENGTH, train, held_out, order=i)
        for i, (name, train, held_out) in enumerate((("mlm", one, two), ("clm", two, one), ("diffusion", two, one)))
    )
    shares = Weights((2.0, 1.0), (1.0, 1.0))
    phases = [
        Phase("first", 2, micro, (masked, causal), shares),
        Phase("second", 2, micro // 2, (masked, diffusion), shares, mixing="batch"),
    ]
    dataset = PhasedDataset(phases, vocabulary, micro_batches=accumulate * world, seed=5)
    parts = backbone("bert-tiny", tokenizer, max_length=LENGTH, dtype=torch.float64)
    parts.config.hidden_dropout_prob = parts.config.attention_probs_dropout_prob = 0.0
    torch.manual_seed(3)
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        **{**DEFAULTS, **arguments},
    )
    held_out = MixedEvaluationDataset(dataset, max_rows=13, seed=1)
    model = dataset.objective.build(parts, vocabulary).double()
    return PretrainingTrainer(model, args, dataset, held_out, processing_class=tokenizer, callbacks=list(callbacks))


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """‖found − expected‖ / ‖expected‖ over all tensors together."""
    assert found.keys() == expected.keys()
    difference = sum(float(((found[n] - expected[n]).double() ** 2).sum()) for n in expected)
    return (difference / sum(float((t.double() ** 2).sum()) for t in expected.values())) ** 0.5
