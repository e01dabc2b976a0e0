"""What every registered objective must do, on each kind of backbone it is meant for; `training_runs` lists them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from training_runs import LENGTH, OBJECTIVES, ROWS, build, make_objective, make_trainer, text

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import Documents, Ragged, list_objectives
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset, PretrainingDataset

ENCODERS = ("bert-tiny", "roberta-tiny", "xlm-roberta-tiny", "albert-tiny", "distilbert-tiny", "electra-tiny") + (
    "deberta-v3-tiny",
    "mpnet-tiny",
    "modernbert-tiny",
)
FAMILIES = {
    "mlm": ENCODERS,
    "span_mlm": ENCODERS,
    "mlm+nsp": ENCODERS,
    "rtd": ENCODERS,
    "clm": ("gpt2-tiny", "llama-tiny", "mixtral-tiny"),
    "denoising": ("bart-tiny", "t5-tiny"),
    "span_corruption": ("bart-tiny", "t5-tiny", "switch-tiny"),
    "mpnet": ("mpnet-tiny", "bert-tiny"),
}
"""Backbones an objective is tried on; the others are tried on their own of `training_runs` alone."""
PAIRS = [(name, model) for name in OBJECTIVES for model in FAMILIES.get(name, OBJECTIVES[name][:1])]


def test_every_registered_objective_is_here():
    parts = {part for name in OBJECTIVES for part in name.replace("(", "+").replace(")", "").split("+")}
    assert set(list_objectives()) <= parts


def first_batches(name: str, steps: int = 1, workers: int = 0, objective=None) -> list[dict[str, torch.Tensor]]:
    _, vocabulary, documents = text()
    objective = objective or make_objective(name)
    dataset = PretrainingDataset(
        objective, documents, vocabulary, length=LENGTH, global_batch=ROWS, max_steps=steps, seed=5
    )
    loader = DataLoader(dataset, ROWS, collate_fn=DrawCollator(objective, vocabulary), num_workers=workers)
    return list(loader)


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_learns_and_exports_plain_checkpoints(name, model, tmp_path):
    tokenizer, vocabulary, _ = text()
    objective = make_objective(name)
    torch.manual_seed(0)
    trained = objective.build(backbone(model, tokenizer, max_length=4 * LENGTH), vocabulary)
    (batch,) = first_batches(name, objective=objective)
    optimizer = torch.optim.Adam(trained.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        counts = objective.counts(batch)
        sums = trained(**batch).sums
        assert set(sums) == set(trained.terms) >= set(objective.terms)
        loss = sum(
            term.weight_at(0.0) * sums[n] / (counts[n].clamp(min=1) if term.additive else 1)
            for n, term in trained.terms.items()
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and min(losses[3:]) < losses[0]

    for part, exported in objective.export(trained).items():
        exported.eval().save_pretrained(tmp_path / (part or "main"))
        loaded = type(exported).from_pretrained(tmp_path / (part or "main"), output_loading_info=True)
        assert not loaded[1]["missing_keys"] and not loaded[1]["unexpected_keys"]
        assert type(exported).__module__.startswith("transformers.")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_batches_do_not_depend_on_workers(name):
    for alone, shared in zip(first_batches(name, 2), first_batches(name, 2, workers=2), strict=True):
        assert alone.keys() == shared.keys()
        for column in alone:
            assert torch.equal(alone[column], shared[column]), column


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_epoch_brings_new_noise_or_pairs(name):
    _, vocabulary, documents = text()
    objective = make_objective(name)
    if objective.architecture in ("causal_lm", "recurrent_lm") and name != "fim":
        pytest.skip("nothing about it is random but the order")
    source = objective.source(documents, vocabulary, length=LENGTH, seed=1, global_batch=4)
    size = 4 * (len(documents.tokens) // (4 * LENGTH) + 1)
    numbers = np.arange(40 * size)
    draws = source.draws(numbers, np.zeros(len(numbers)))
    example = np.flatnonzero((draws.example == draws.example[0]) & (draws.component == draws.component[0]))[:6]
    assert len(np.unique(draws.epoch[example])) == len(example) > 1
    draws = draws.take(example)
    columns = objective.corrupt(source.rows(draws), draws, vocabulary)
    rows = set()
    for i in range(len(example)):
        rows.add(tuple(map(str, (c.row(i).tolist() if isinstance(c, Ragged) else c[i] for c in columns.values()))))
    assert len(rows) > 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_resumed_run_ends_with_the_same_weights(name, tmp_path):
    saving = {
        "save_strategy": "steps",
        "save_steps": 1,
        "optim": "adamw_torch",
        "dropout": True,
        "dtype": torch.float32,
    }
    whole = make_trainer(name, tmp_path / "whole", **saving)
    whole.train()
    again = make_trainer(name, tmp_path / "again", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for (key, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_corpus_without_text_is_refused(name):
    _, vocabulary, documents = text()
    objective = make_objective(name)
    empty = documents.select(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="document|corpus|text"):
        objective.source(empty, vocabulary, length=LENGTH, seed=0, global_batch=4)
    one = documents.select(np.zeros(1, np.int64))
    assert isinstance(one, Documents)
    try:  # one document may or may not be enough; it must never end in another kind of error
        EvaluationDataset(objective, one, vocabulary, length=LENGTH)[0]
    except ValueError as error:
        assert len(str(error)) > 20


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_wrong_backbone_is_refused_with_a_reason(name):
    tokenizer, vocabulary, _ = text()
    objective = make_objective(name)
    wrong = "t5-tiny" if objective.architecture != "seq2seq" else "bert-tiny"
    with pytest.raises(ValueError, match="."):
        objective.build(backbone(wrong, tokenizer, max_length=64), vocabulary)


def test_checkpoints_load_without_this_package(tmp_path):
    """`Auto…` classes in a process that cannot import the package."""
    loaders = {"mlm": "AutoModelForMaskedLM", "clm": "AutoModelForCausalLM", "rtd": "AutoModelForPreTraining"}
    lines = ["import sys", "sys.modules['pretrain_zoo'] = None", "import transformers"]
    for name, loader in loaders.items():
        build(name, dtype=torch.float32)[1].save_pretrained(tmp_path / name)
        lines += [f"m, i = transformers.{loader}.from_pretrained({str(tmp_path / name)!r}, output_loading_info=True)"]
        lines += ["assert not i['missing_keys'] and not i['unexpected_keys'], i"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
