"""Recipes: each names its source, has a tiny variant, and the variant trains, stops and goes on to the same weights."""

from __future__ import annotations

import gc
import json
import math
import re
import shutil

import pytest
import torch
import yaml
from conftest import make_texts
from rich.console import Console
from safetensors.torch import load_file
from small_models import Size
from training_runs import make_trainer
from transformers import AutoModelForMaskedLM, get_scheduler

from pretrain_zoo.models.presets import backbone, list_presets, max_row_length
from pretrain_zoo.models.pretraining import HEADS_FILE
from pretrain_zoo.scripts import pretrain as script
from pretrain_zoo.training.arguments import RECIPES, parse_arguments
from pretrain_zoo.training.learning_rates import learning_rates
from pretrain_zoo.training.run_folder import RUN
from pretrain_zoo.training.tokenizer import train_tokenizer

TINY = sorted(path.stem for path in RECIPES.glob("*-tiny.yaml"))
PUBLISHED = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in TINY)
VARIANTS = {
    "bert-base-phases": "bert-phases-tiny",
    "electra-small": "electra-tiny",
    "gpt3-xl": "gpt2-tiny",
    "llama2-7b": "llama-tiny",
    "scibert": "bert-phases-tiny",
}
"""Tiny variants of another name than the recipe's up to its size."""
TEACHER, TRAINED = "runs/bert-mini-mlm", "runs/bert-tiny-mlm+nsp"


def tiny_variant(name):
    stem = re.sub(r"-(small|base|large|xl|7b)$", "", name)
    return VARIANTS.get(name, f"{stem}-tiny")


@pytest.mark.parametrize("name", PUBLISHED)
def test_source_and_tiny_variant(name):
    text = (RECIPES / f"{name}.yaml").read_text()
    comment = "".join(line for line in text.splitlines(True) if line.startswith("#"))
    assert re.search(r"et al\.|& \w+ 20\d\d|arXiv|google-research/", comment)
    assert tiny_variant(name) in TINY
    one, other = (yaml.safe_load((RECIPES / f"{n}.yaml").read_text()) for n in (name, tiny_variant(name)))
    if "phases" not in one:
        assert one.get("objective") == other.get("objective")


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_of_the_model_are_its_config_s(name):
    run = parse_arguments(["--config", name, "--use_cpu"])
    if run.model.model_name_or_path in list_presets():
        length = run.model.max_seq_length
        built = backbone(
            run.model.model_name_or_path, Size(run.model.vocab_size), max_length=length, **run.model.overrides
        )
        assert built.config.vocab_size == run.model.vocab_size
        assert (max_row_length(built.config) or length) >= length


# schedules


def factor(run, step):
    """Learning rate at the step, as a share of the highest one."""
    args = run.training
    if run.phases and (own := learning_rates(run.phases, args)):
        return own(step)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    steps, kwargs = args.max_steps, args.lr_scheduler_kwargs
    warmup = args.get_warmup_steps(steps)
    return get_scheduler(args.lr_scheduler_type, optimizer, warmup, steps, kwargs).lr_lambdas[0](step)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("bert-base", {5000: 0.5, 10000: 1.0, 505000: 0.5, 1000000: 0.0}),  # linear
        ("albert-base", {3125: 1.0, (3125 + 125000) / 2: 0.5}),
        ("transformer-xl-base", {0: 1.0, 100000: 0.5, 200000: 0.0}),  # cosine
        ("gpt3-xl", {179: 0.5, 358: 1.0, (358 + 286000) / 2: 0.55, 286000: 0.1}),  # cosine to 10 %
        ("bart-base", {10000: 1.0, 255000: 0.5}),  # polynomial
        ("t5-base", {5000: 0.5, 10000: 1.0, 40000: 0.5, 490000: 1 / 7}),  # inverse square root
        ("mdlm-base", {1250: 0.5, 2500: 1.0, 1000000: 1.0}),  # constant
        # trapezoidal: constant at 8e-4, constant at 3e-4, then 3e-4 · (1 − √(share of the decay))
        ("modernbert-base", {318: 0.5, 636: 1.0, 364299: 1.0, 364300: 0.375, 417299: 0.375, 419950: 0.1875, 427899: 0}),
    ],
)
def test_learning_rate_is_the_published_curve(name, expected):
    run = parse_arguments(["--config", name, "--use_cpu"])
    found = {step: factor(run, step) for step in expected}
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-3)


def test_warmup_stable_decay_ends_with_the_run():
    run = parse_arguments(["--config", "clm-then-mlm", "--use_cpu"])
    steps, decay = run.training.max_steps, 2000
    shares = {1000: 0.5, 2000: 1.0, steps - decay: 1.0, steps - decay / 2: 0.5, steps: 0.0}
    assert {step: factor(run, step) for step in shares} == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize("options, begins", [({"num_decay_steps": 0.5, "decay_type": "linear"}, 6), (None, 11)])
def test_decay_is_a_share_of_the_run(tmp_path, options, begins):
    settings = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": options, "learning_rate": 1e-2}
    trainer = make_trainer("mlm", tmp_path, steps=12, **settings)
    schedule = trainer.create_scheduler(12, torch.optim.SGD(trainer.model.parameters(), lr=1e-2))
    rates = [schedule.lr_lambdas[0](step) for step in range(13)]
    assert rates[: begins + 1] == [1.0] * (begins + 1) and rates[begins + 1] < 1 and rates[12] == pytest.approx(0)
    assert rates == sorted(rates, reverse=True)


def test_large_batches_take_lamb():
    run = parse_arguments(["--config", "albert-base", "--use_cpu"])
    args = run.training
    assert (args.optim, args.learning_rate, args.adam_epsilon) == ("lamb", 1.76e-3, 1e-6)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 4096


# runs


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A corpus, pairs of two "languages", a teacher and a checkpoint, a cache."""
    folder = tmp_path_factory.mktemp("material")
    texts = make_texts(120)
    for name, part in (("corpus", texts), ("en", texts[:60]), ("ko", texts[60:])):
        (folder / f"{name}.txt").write_text("\n\n".join(part))
    lines = [text.split(".")[0] for text in texts]
    (folder / "pairs.en").write_text("\n".join(lines[:60]))
    (folder / "pairs.ko").write_text("\n".join(lines[60:]))
    tokenizer = train_tokenizer(texts, "wordpiece", vocab_size=300)
    torch.manual_seed(0)
    for name, preset in (("teacher", "bert-mini"), ("trained", "bert-tiny")):
        backbone(preset, tokenizer).load(AutoModelForMaskedLM).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    gc.collect()
    gc.freeze()  # every `train` collects garbage
    return folder


def arguments(name, material):
    """A recipe cut to a few short steps; (arguments, step to stop at)."""
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    steps, nested = 2, json.dumps({key: recipe.get(key) for key in ("phases", "mixture")})
    given = {
        "cache_dir": material / "cache",
        "logging_steps": 1,
        "eval_strategy": "no",
        "max_eval_samples": 4,
        "validation_fraction": 0.1,
        "save_total_limit": 5,
    }
    if not recipe.get("phases"):
        given |= {"per_device_train_batch_size": 4}
        given |= {} if "max_seq_length" in nested else {"max_seq_length": 32}
    else:
        steps = 10  # so that each phase has one
    if recipe.get("mixture"):
        for part in recipe["mixture"]:
            files = "pairs.en,pairs.ko" if part == "en-ko" else f"{'ko' if part == 'ko' else 'en'}.txt"
            given[f"mixture.{part}.corpus"] = ",".join(str(material / file) for file in files.split(","))
    else:
        given["corpus"] = material / "corpus.txt"
    if recipe.get("teacher") == TEACHER:
        given["teacher"] = material / "teacher"
    if recipe.get("model_name_or_path") == TRAINED:
        given["model_name_or_path"] = material / "trained"
    elif "teacher" not in recipe:
        given["vocab_size"] = 500
    given |= {"max_steps": steps, "save_steps": steps // 2}
    return ["--config", name, "--use_cpu", *(f"--{key}={value}" for key, value in given.items())], steps // 2


@pytest.mark.parametrize("name", TINY)
def test_tiny_recipe_trains_stops_and_goes_on(name, material, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "plot_losses", lambda *args: None)
    monkeypatch.setattr(script, "examples", lambda *args, **kwargs: [])
    monkeypatch.setattr("os.fsync", lambda file: None)
    command, stop = arguments(name, material)
    whole, again = tmp_path / "whole", tmp_path / "again"
    results = script.pretrain(parse_arguments([*command, "--output_dir", str(whole)]), Console(quiet=True))
    assert results["steps"] == 2 * stop and math.isfinite(results["held_out"]["loss"])
    losses = {log["step"]: log["loss"] for log in results["history"] if "loss" in log}
    assert len(losses) == 2 * stop and all(map(math.isfinite, losses.values()))
    again.mkdir()  # what a run that was cut off leaves
    shutil.copy(whole / RUN, again)
    shutil.copytree(whole / f"checkpoint-{stop}", again / f"checkpoint-{stop}")
    shutil.rmtree(whole / f"checkpoint-{stop}")
    resumed = script.pretrain(parse_arguments([*command, "--output_dir", str(again)]), Console(quiet=True))
    assert resumed["history"][0] == results["history"][0] and resumed["held_out"] == results["held_out"]
    files = [file for file in ("model.safetensors", HEADS_FILE) if (whole / file).exists()]
    assert files
    for file in files:
        one, other = load_file(whole / file), load_file(again / file)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    if name == "modernbert-tiny":
        size = sum(path.stat().st_size for path in (again / f"checkpoint-{2 * stop}").rglob("*") if path.is_file())
        assert resumed["checkpoint_bytes"] == size and resumed["seconds_per_save"] > 0


def test_attention_dtype_and_recomputation_by_flags(material, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "examples", lambda *args, **kwargs: [])
    seen = {}

    class Spy(script.PretrainingTrainer):
        def train(self, **kwargs):
            output, config = super().train(**kwargs), self.model.main.config
            seen.update(attention=config._attn_implementation, dtype=self.model.main.dtype)
            seen.update(recomputes=self.model.main.is_gradient_checkpointing)
            return output

    monkeypatch.setattr(script, "PretrainingTrainer", Spy)
    command, _ = arguments("modernbert-tiny", material)
    command += ["--attn_implementation", "eager", "--torch_dtype", "bfloat16", "--gradient_checkpointing"]
    script.pretrain(parse_arguments([*command, "--output_dir", str(tmp_path / "run")]), Console(quiet=True))
    assert seen == {"attention": "eager", "dtype": torch.bfloat16, "recomputes": True}
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "model.safetensors").values()} == {torch.bfloat16}
