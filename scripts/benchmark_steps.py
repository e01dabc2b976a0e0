"""Time of training steps made of several networks, against the networks one by one."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from pretrain_zoo.models.presets import Backbone, backbone
from pretrain_zoo.models.teacher_student import TeacherStudent
from pretrain_zoo.objectives import Draws, Objective, Ragged, Vocabulary, get_objective
from pretrain_zoo.objectives.collator import pad_columns, to_tensors
from pretrain_zoo.objectives.distillation import Distillation
from pretrain_zoo.objectives.losses import masked_lm_loss
from pretrain_zoo.objectives.replaced_tokens import ReplacedTokenDetection


def rtd_against_its_networks(
    objective: ReplacedTokenDetection,
    parts: Backbone,
    vocabulary: Vocabulary,
    *,
    rows: int = 16,
    length: int = 128,
    rounds: int = 7,
    device: str = "cpu",
) -> dict[str, float]:
    """Seconds of a forward and backward pass of replaced-token detection and of either network alone.

    The generator alone is a masked LM on the selected positions, accuracy included; the discriminator alone reads a
    text made beforehand, so that it needs no samples. Passes take turns, and medians over `rounds` are returned, after
    one round that does not count:

        {"rtd": …, "generator": …, "discriminator": …, "ratio": rtd / (generator + discriminator)}
    """
    torch.manual_seed(0)
    model = objective.build(parts, vocabulary).train()
    model.to(torch.device(device))
    batch = _random_batch(objective, vocabulary, rows, length, device)
    inputs = model.inputs(batch)
    with torch.no_grad():
        given = model.run(batch, None, ())
    fake = {**inputs, "input_ids": given["input_ids"]}

    def rtd() -> torch.Tensor:
        return torch.stack(list(model(**batch).sums.values())).sum()

    def generator() -> torch.Tensor:
        outputs = {"logits": model.generate(inputs, batch["label_positions"])}
        return masked_lm_loss("generator", outputs, batch)[0]["generator"]

    def discriminator() -> torch.Tensor:
        return objective.main_loss({**given, **model.run_main(dict(fake), batch)}, batch)[0]

    passes: dict[str, Callable[[], torch.Tensor]] = {
        "rtd": rtd,
        "generator": generator,
        "discriminator": discriminator,
    }
    return _in_turns(passes, model, rounds, device)


def distillation_against_its_networks(
    objective: Distillation,
    parts: Backbone,
    vocabulary: Vocabulary,
    *,
    rows: int = 16,
    length: int = 128,
    rounds: int = 7,
    device: str = "cpu",
) -> dict[str, float]:
    """Seconds of a forward and backward pass of distillation, and of either network alone.

    The student alone is a masked LM that computes logits where the distillation does, at all tokens with
    `soft_on="all"` and at the selected ones with "labels", and has the cross-entropy of all of them for its loss. The
    teacher alone makes its logits at the same places, without gradients. Where no loss looks at logits, as in TinyBERT
    and MiniLM, none are made, and the student alone has the mean of its last hidden states for its loss. Passes take
    turns, and medians over `rounds` are returned, after one round that does not count:

        {"distillation": …, "student": …, "teacher": …, "ratio": median of distillation / (student + teacher)}
    """
    torch.manual_seed(0)
    model = objective.build(parts, vocabulary).train()
    assert isinstance(model, TeacherStudent)
    model.to(torch.device(device))  # type: ignore[arg-type]
    batch = _random_batch(objective, vocabulary, rows, length, device)
    at = batch["label_positions"] if objective.soft_on == "labels" else batch["token_positions"]
    at = at if objective.soft_weight or objective.student_weight else at[:0]
    inputs = {**batch, "label_positions": at, "label_ids": batch["input_ids"].flatten()[at]}
    model(**batch)  # moves the teacher

    def distillation() -> torch.Tensor:
        return torch.stack(list(model(**batch).sums.values())).sum()

    def student() -> torch.Tensor:
        outputs = model.student.run(inputs, None, ())
        return masked_lm_loss("student", outputs, inputs)[0]["student"] if len(at) else outputs["hidden"].mean()

    def teacher() -> torch.Tensor:
        with torch.no_grad():
            return model.teacher.run(inputs, None, ())["logits"]

    return _in_turns({"distillation": distillation, "student": student, "teacher": teacher}, model, rounds, device)


def distillation_steps(tokenizer: Any, vocabulary: Vocabulary, rounds: int = 9) -> list[dict[str, Any]]:
    """`distillation_against_its_networks` for the published kinds, half of a BERT of 4 layers, 256 wide, as student."""
    nothing = dict.fromkeys(("soft_weight", "student_weight", "cosine_weight"), 0.0)
    kinds: dict[str, dict[str, Any]] = {
        "DistilBERT, soft targets at all tokens": {},
        "DistilBERT, soft targets at labels": {"soft_on": "labels"},
        "TinyBERT": {**nothing, "hidden_weight": 1.0, "attention_weight": 1.0},
        "MiniLM": {**nothing, "relation_weight": 1.0},
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        backbone("bert-mini", tokenizer).load(AutoModelForMaskedLM).save_pretrained(folder)
        for name, settings in kinds.items():
            objective = get_objective("distillation(mlm)", teacher=folder, student_layers=(0, 3), **settings)
            assert isinstance(objective, Distillation)
            student = backbone("bert-mini", tokenizer, num_hidden_layers=2)
            found = distillation_against_its_networks(objective, student, vocabulary, rounds=rounds)
            rows.append({"name": name, **found})
    return rows


def _random_batch(
    objective: Objective, vocabulary: Vocabulary, rows: int, length: int, device: str
) -> dict[str, torch.Tensor]:
    """Rows of random tokens, corrupted as the objective says."""
    ids = np.random.default_rng(0).choice(vocabulary.random_pool, rows * length)
    columns = {"input_ids": Ragged(ids, np.full(rows, length))}
    columns = objective.corrupt(columns, Draws.of(0, np.arange(rows), 0, np.arange(rows)), vocabulary)
    batch = to_tensors(pad_columns(columns, objective.columns, vocabulary))
    return {name: value.to(device) for name, value in batch.items()}


def _in_turns(
    passes: dict[str, Callable[[], torch.Tensor]], model: torch.nn.Module, rounds: int, device: str
) -> dict[str, float]:
    """Median seconds of each forward pass and, where there are gradients, backward pass; on a CPU of its time alone.

    Also "ratio", of the first to the others together, each round by itself, since rounds differ in what else runs.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(rounds + 1):
        for name, step in passes.items():
            model.zero_grad(set_to_none=True)
            _wait(device)
            started = clock()
            loss = step()
            if loss.requires_grad:
                loss.backward()
            _wait(device)
            if turn:
                seconds[name].append(clock() - started)
    whole, *parts = seconds.values()
    ratios = [step / sum(others) for step, *others in zip(whole, *parts, strict=True)]
    return {name: statistics.median(values) for name, values in seconds.items()} | {"ratio": statistics.median(ratios)}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
