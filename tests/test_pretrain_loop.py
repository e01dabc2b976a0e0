"""The bare loop trains as the trainer does, and resumes."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from training_runs import LENGTH, ROWS, build, make_trainer, text
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pretrain_zoo.objectives import get_objective
from pretrain_zoo.scripts import pretrain_loop
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset, PretrainingDataset

STEPS, EVAL_ROWS = 6, 11


@pytest.fixture
def accelerators():
    """Makes accelerators of no past, as every process has them."""

    def reset():
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()

    def make(**options) -> Accelerator:
        reset()
        return Accelerator(cpu=True, **options)

    yield make
    reset()


def parts(name: str, **options):
    """Model, datasets and collator of `make_trainer`."""
    _, vocabulary, documents = text()
    objective, model = build(name, **options)
    train = PretrainingDataset(
        objective, documents, vocabulary, length=LENGTH, global_batch=ROWS, max_steps=STEPS, seed=5
    )
    held_out = EvaluationDataset(objective, documents, vocabulary, length=LENGTH, seed=1, max_rows=EVAL_ROWS)
    return model, train, held_out, DrawCollator(objective, vocabulary)


@pytest.mark.parametrize("name, warmup", [("mlm", 2), ("clm", 0), ("rtd", 1)])
def test_losses_are_those_of_the_trainer(accelerators, tmp_path, name, warmup):
    logs = pretrain_loop.train(
        accelerators(), *parts(name), tmp_path / "loop", rows=8, accumulation=4, warmup_steps=warmup, log_every=1
    )
    trainer = make_trainer(
        name,
        tmp_path / "trainer",
        steps=STEPS,
        optim="adamw_torch",
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        warmup_steps=warmup,
        weight_decay=0.01,
        max_grad_norm=1.0,
        eval_rows=EVAL_ROWS,
    )
    trainer.train()
    expected = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in logs if "loss" in entry] == pytest.approx(expected, rel=1e-6)
    metrics = trainer.evaluate()
    terms = trainer.objective.terms
    for term in terms:
        key = f"eval_{term}_loss" if len(terms) > 1 else "eval_loss"
        assert logs[-1][f"eval_{term}"] == pytest.approx(metrics[key], rel=1e-6)


def test_resumed_loop_ends_with_the_same_weights(accelerators, tmp_path, monkeypatch):
    settings = {"rows": 16, "accumulation": 2, "log_every": 1, "save_every": 2}
    options = {"dtype": torch.float32, "dropout": True}
    whole = parts("mlm", **options)
    pretrain_loop.train(accelerators(), *whole, tmp_path / "whole", **settings)
    assert [path.name for path in (tmp_path / "whole").glob("checkpoint-*")] == ["checkpoint-6"]

    evaluate = pretrain_loop.evaluate

    def interrupt(*args):
        if list((tmp_path / "part").glob("checkpoint-4")):
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(pretrain_loop, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pretrain_loop.train(accelerators(), *parts("mlm", **options), tmp_path / "part", **settings)
    monkeypatch.undo()
    resumed = parts("mlm", **options)
    logs = pretrain_loop.train(accelerators(), *resumed, tmp_path / "part", **settings)
    assert [entry["step"] for entry in logs if "loss" in entry] == [5, 6]
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), resumed[0].parameters()))


def test_what_the_loop_cannot_do_is_refused(accelerators, tmp_path):
    with pytest.raises(ValueError, match="8 rows × 2 × 1 processes is not 32"):
        pretrain_loop.train(accelerators(), *parts("mlm"), tmp_path, rows=8, accumulation=2)
    with pytest.raises(ValueError, match="has a memory"):
        pretrain_loop.train(accelerators(), *parts("recurrent_clm"), tmp_path, rows=ROWS)
    model, *others = parts("mlm")
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="nan at step 1"):
        pretrain_loop.train(accelerators(), model, *others, tmp_path, rows=ROWS)


def test_the_script_leaves_a_plain_checkpoint(accelerators, tmp_path, monkeypatch, texts):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(texts))
    arguments = ["--corpus", str(corpus), "--output_dir", str(tmp_path / "run"), "--max_steps", "2"]
    arguments += ["--max_seq_length", "16", "--global_batch", "4", "--objective", "mlm"]
    monkeypatch.setattr(sys, "argv", ["pretrain_loop", *arguments])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(pretrain_loop, "Accelerator", accelerators)
    pretrain_loop.main()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run")
    assert model.config.vocab_size == len(tokenizer)
    assert get_objective("mlm").architecture == "masked_lm"


def test_it_stays_short_and_needs_no_trainer():
    source = inspect.getsource(pretrain_loop)
    assert len(source.splitlines()) < 200
    assert "PretrainingTrainer(" not in source and "import Trainer" not in source
