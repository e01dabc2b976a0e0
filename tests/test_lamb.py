"""LAMB against the paper's formulas in NumPy, its state, and its place in a run."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_runs import make_trainer

from pretrain_zoo.training.arguments import PretrainingArguments, parse_arguments
from pretrain_zoo.training.lamb import Lamb

BETAS, EPS, DECAY = (0.9, 0.999), 1e-6, 0.1
SHAPES = {"matrix": (5, 7), "cube": (2, 3, 4), "zeros": (4, 3), "bias": (7,), "scalar": ()}


def reference(weights, gradients, lr, decay, adapts):
    """Algorithm 2 of the paper, one tensor and all steps at a time, in float64."""
    x, m, v = weights.copy(), np.zeros_like(weights), np.zeros_like(weights)
    for t, g in enumerate(gradients, 1):
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        r = (m / (1 - BETAS[0] ** t)) / (np.sqrt(v / (1 - BETAS[1] ** t)) + EPS)
        u = r + decay * x
        size, step = np.sqrt((x**2).sum()), np.sqrt((u**2).sum())
        ratio = size / step if adapts and size > 0 and step > 0 else 1.0
        x = x - lr * ratio * u
    return x


def make(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype) * (name != "zeros"))
        for name, shape in SHAPES.items()
    }


def groups(parameters):
    decayed = [p for p in parameters.values() if p.ndim > 1]
    return [
        {"params": decayed, "weight_decay": DECAY},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]


def gradients(steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        {n: torch.randn(s, generator=generator, dtype=torch.float64) * 10.0 ** -(i % 3) for n, s in SHAPES.items()}
        for i in range(steps)
    ]


def take(optimizer, parameters, step):
    for name, parameter in parameters.items():
        parameter.grad = step[name].to(parameter.dtype)
    optimizer.step()


def test_updates_are_the_paper_s():
    parameters, given = make(), gradients(6)
    before = {name: p.detach().numpy().copy() for name, p in parameters.items()}
    optimizer = Lamb(groups(parameters), lr=0.05, betas=BETAS, eps=EPS)
    for step in given:
        take(optimizer, parameters, step)
    for name, parameter in parameters.items():
        matrix = parameter.ndim > 1
        steps = [step[name].numpy() for step in given]
        expected = reference(before[name], steps, 0.05, DECAY if matrix else 0.0, adapts=matrix)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-11, atol=1e-13, err_msg=name)


def test_step_of_a_matrix_is_a_share_of_its_size():
    """‖Δx‖ = lr · ‖x‖, whatever the gradient's scale."""
    for scale in (1e-3, 1.0, 1e3):
        matrix = nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
        before = matrix.detach().clone()
        matrix.grad = scale * torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
        Lamb([matrix], lr=0.01).step()
        assert float((matrix.detach() - before).norm()) == pytest.approx(0.01 * float(before.norm()), rel=1e-4)


def test_rates_of_the_schedule_and_parameters_without_gradient():
    parameters, given = make(), gradients(3)
    optimizer = Lamb(parameters.values(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step == 0 else 0.0)
    take(optimizer, parameters, given[0])
    schedule.step()
    after = {name: p.detach().clone() for name, p in parameters.items()}
    take(optimizer, parameters, given[1])
    assert all(torch.equal(p, after[name]) for name, p in parameters.items())  # rate 0
    for parameter in parameters.values():
        parameter.grad = None
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0
    assert all(optimizer.state[p]["step"] == 2 for p in parameters.values())


def test_state_goes_on_where_it_was_saved(tmp_path):
    whole, given = make(dtype=torch.float32), gradients(5)
    optimizer = Lamb(groups(whole), lr=0.05)
    for step in given[:2]:
        take(optimizer, whole, step)
    resumed = copy.deepcopy(whole)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    other = Lamb(groups(resumed), lr=0.05)
    other.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for step in given[2:]:
        take(optimizer, whole, step)
        take(other, resumed, step)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_flag(tmp_path):
    run = parse_arguments(["--optim", "lamb", "--adam_epsilon", "1e-6", "--use_cpu"])
    assert run.training.optim == run.training.to_dict()["optim"] == "lamb"
    assert parse_arguments(["--use_cpu"]).training.optim == "adamw_torch_fused"
    with pytest.raises(ValueError, match="lambb"):
        parse_arguments(["--optim", "lambb", "--use_cpu"])


def test_run_decays_matrices_only_and_resumes_alike(tmp_path, monkeypatch):
    monkeypatch.setattr("training_runs.TrainingArguments", PretrainingArguments)
    settings = {"optim": "lamb", "learning_rate": 1e-2, "weight_decay": 0.01, "save_strategy": "steps", "save_steps": 1}
    settings |= {"dtype": torch.float32, "dropout": True, "eval_strategy": "no", "save_total_limit": 5, "steps": 4}
    whole = make_trainer("ngram_mlm", tmp_path / "whole", **settings)
    whole.train()
    optimizer = whole.optimizer.optimizer
    assert isinstance(optimizer, Lamb) and optimizer.defaults["betas"] == (0.9, 0.98)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in whole.model.named_parameters():
        assert decay[id(parameter)] == (0.01 if parameter.ndim > 1 else 0.0), name
    again = make_trainer("ngram_mlm", tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    one, other = (load_file(tmp_path / name / "checkpoint-4" / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
