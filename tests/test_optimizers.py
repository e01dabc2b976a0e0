"""Adafactor with settings of its own: size of its updates, what is refused, defaults, and its place in a run."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from training_runs import make_trainer
from transformers import Adafactor

from pretrain_zoo.scripts.run_text_to_text import TextToTextArguments
from pretrain_zoo.training.arguments import PretrainingArguments, parse_arguments
from pretrain_zoo.training.optimizers import own_optimizer, refuse_shards

SCALED = "scale_parameter=true"


def arguments(tmp_path, optim_args, optim="adafactor", kind=PretrainingArguments):
    return kind(str(tmp_path), optim=optim, optim_args=optim_args, learning_rate=0.01, use_cpu=True)


def rms(tensor):
    return float(tensor.double().square().mean().sqrt())


@pytest.mark.parametrize("kind", [PretrainingArguments, TextToTextArguments])
def test_steps_are_a_share_of_each_tensor_s_size(tmp_path, kind):
    """The first step: every entry moves by lr · RMS of its tensor, a vector's too (Shazeer & Stern 2018, section 8)."""
    optimizer, settings = own_optimizer(arguments(tmp_path, SCALED, kind=kind))
    for scale, smallest in ((1.0, False), (0.02, False), (1e-6, True)):
        for shape in ((5, 7), (9,)):
            weight = torch.nn.Parameter(scale * torch.randn(shape, generator=torch.Generator().manual_seed(0)))
            before = weight.detach().clone()
            weight.grad = torch.full_like(weight, 3e-4)
            optimizer([weight], **settings).step()
            expected = 0.01 * (1e-3 if smallest else rms(before))
            torch.testing.assert_close(before - weight, torch.full_like(weight, expected), rtol=1e-2, atol=0)


def test_settings_that_arrive(tmp_path):
    text = "scale_parameter=false, clip_threshold=2, decay_rate=-0.5, beta1=0.9"
    kind, settings = own_optimizer(arguments(tmp_path, text))
    assert kind is Adafactor and settings == {
        "lr": 0.01, "relative_step": False, "scale_parameter": False, "clip_threshold": 2, "decay_rate": -0.5,
        "beta1": 0.9,
    }  # fmt: skip
    assert own_optimizer(arguments(tmp_path, None)) is None  # Trainer's, which does not scale
    assert own_optimizer(arguments(tmp_path, None, "adamw_torch")) is None


@pytest.mark.parametrize(
    ("optim", "optim_args", "message"),
    [
        ("adafactor", "scale=true", "takes scale_parameter, clip_threshold, decay_rate, beta1, not 'scale'"),
        ("adafactor", "relative_step=true", "not 'relative_step'"),
        ("adafactor", "scale_parameter=1", "scale_parameter must be true or false"),
        ("adafactor", "clip_threshold=true", "clip_threshold must be a number"),
        ("adafactor", "clip_threshold=high", "clip_threshold must be a number"),
        ("adafactor", "scale_parameter", "--optim_args must read name=value"),
        ("lamb", "beta1=0.5", "lamb takes none"),
    ],
)
def test_settings_that_are_refused(optim, optim_args, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--optim", optim, "--optim_args", optim_args, "--use_cpu"])


@pytest.mark.parametrize(
    ("optim", "optim_args", "flattened", "message"),
    [
        ("lamb", None, True, "lamb measures weight matrices"),
        ("lamb", None, False, None),
        ("adafactor", SCALED, True, "adafactor measures weight matrices"),
        ("adafactor", "clip_threshold=2", True, None),
        ("adafactor", SCALED, False, "does not know FSDP2's sharded tensors"),
        ("adafactor", None, False, "use --optim lamb or adamw_torch"),
        ("adamw_torch", None, True, None),
        ("adamw_torch", None, False, None),
    ],
)
def test_shards(tmp_path, optim, optim_args, flattened, message):
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        refuse_shards(arguments(tmp_path, optim_args, optim), flattened)


@pytest.mark.parametrize(
    ("given", "optim", "rate"),
    [
        (["--objective", "span_corruption"], "adafactor", 2e-2),
        (["--model_name_or_path", "switch-base"], "adafactor", 1e-2),
        (["--model_name_or_path", "t5-small", "--learning_rate", "0.3"], "adafactor", 0.3),
        (["--model_name_or_path", "t5-tiny", "--optim", "adamw_torch"], "adamw_torch", 3e-3),
        (["--model_name_or_path", "google-t5/t5-small"], "adamw_torch_fused", 5e-5),
        (["--model_name_or_path", "bart-tiny"], "adamw_torch_fused", 3e-3),
    ],
)
def test_defaults_follow_the_model(given, optim, rate):
    training = parse_arguments([*given, "--use_cpu"]).training
    assert (training.optim, training.learning_rate) == (optim, rate)
    assert training.optim_args == (SCALED if optim == "adafactor" else None)


def test_run_scales_and_resumes_alike(tmp_path, monkeypatch):
    monkeypatch.setattr("training_runs.TrainingArguments", PretrainingArguments)
    settings = {"optim": "adafactor", "optim_args": SCALED, "learning_rate": 1e-2, "steps": 4, "dropout": True}
    settings |= {"dtype": torch.float32, "eval_strategy": "no", "save_steps": 1, "save_total_limit": 5}
    settings["save_strategy"] = "steps"
    whole = make_trainer("span_corruption", tmp_path / "whole", **settings)
    whole.train()
    assert isinstance(whole.optimizer.optimizer, Adafactor) and whole.optimizer.defaults["scale_parameter"]
    again = make_trainer("span_corruption", tmp_path / "again", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    one, other = (load_file(tmp_path / name / "checkpoint-4" / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
