"""Losses that the trainer logs: sums over counts, terms and weights, memory of streams, throughput, bad losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stock_losses import rows_of, stock_loss
from training_runs import LENGTH, build, make_trainer
from transformers import TrainerCallback

from pretrain_zoo.objectives import Term
from pretrain_zoo.training import throughput as throughput_module
from pretrain_zoo.training.throughput import Throughput
from pretrain_zoo.training.trainer import BadLossError


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_logged_loss_is_sums_over_counts(name, tmp_path):
    trainer = make_trainer(name, tmp_path, micro=4, accumulate=2, rows=8, steps=4, learning_rate=0.0, logging_steps=2)
    trainer.train()
    model, dataset = trainer.model, trainer.train_dataset
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for i, entry in enumerate(logs):
        steps, right, count = [], 0, 0
        for step in (2 * i, 2 * i + 1):
            parts = [
                stock_loss(model, batch)
                for batch in rows_of(dataset, trainer.data_collator, range(8 * step, 8 * step + 8))
            ]
            steps.append(sum(p[0] for p in parts) / sum(p[2] for p in parts))
            right, count = right + sum(p[1] for p in parts), count + sum(p[2] for p in parts)
        assert entry["loss"] == pytest.approx(np.mean(steps), rel=1e-6)
        assert entry["accuracy"] == pytest.approx(right / count, rel=1e-12)
        assert entry["tokens_per_second"] > 0


def test_terms_are_logged_apart_and_weighted(tmp_path):
    trainer = make_trainer("rtd", tmp_path, steps=2, learning_rate=0.0)
    trainer.train()
    weights = {name: term.weight_at(0.0) for name, term in trainer.objective.terms.items()}
    assert len(weights) == 2
    for entry in trainer.state.log_history[:2]:
        assert entry["loss"] == pytest.approx(sum(w * entry[f"{n}_loss"] for n, w in weights.items()), rel=1e-6)


class _Weighted:
    """Terms of another weight, or kind, than the objective's own."""

    def __init__(self, objective, term):
        self._objective, self._terms = objective, {objective.name: term}

    def __getattr__(self, name):
        return getattr(self._objective, name)

    @property
    def terms(self):
        return self._terms


def test_weights_may_depend_on_progress(tmp_path):
    objective, model = build("mlm")
    model.objective = _Weighted(objective, Term(weight=lambda progress: 1 + progress))
    trainer = make_trainer("mlm", tmp_path, steps=4, learning_rate=0.0, model=model, eval_rows=9)
    trainer.train()
    plain = make_trainer("mlm", tmp_path, steps=4, learning_rate=0.0, eval_rows=9)
    plain.train()
    for step in range(4):
        weighted, own = (t.state.log_history[step]["loss"] for t in (trainer, plain))
        assert weighted == pytest.approx((1 + step / 4) * own, rel=1e-6)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(1.75 * plain.evaluate()["eval_loss"], rel=1e-12)


def test_terms_that_are_not_additive_are_averaged_over_micro_batches(tmp_path):
    objective, model = build("mlm")
    model.objective = _Weighted(objective, Term(additive=False))
    trainer = make_trainer("mlm", tmp_path, micro=4, accumulate=2, rows=8, steps=1, learning_rate=0.0, model=model)
    trainer.train()
    sums = [
        sum(stock_loss(trainer.model, b)[0] for b in rows_of(trainer.train_dataset, trainer.data_collator, part))
        for part in (range(4), range(4, 8))
    ]
    assert trainer.state.log_history[0]["loss"] == pytest.approx(np.mean(sums), rel=1e-6)


def test_memory_follows_its_streams_through_training(tmp_path):
    trainer = make_trainer("recurrent_clm", tmp_path, micro=2, accumulate=2, rows=4, steps=3, learning_rate=0.0)
    trainer.train()
    trainer.model.eval()
    sums, counts = np.zeros(3), np.zeros(3)
    for stream in range(4):
        carry = None
        for step in range(3):
            batch = trainer.data_collator(trainer.train_dataset[4 * step + stream])
            with torch.no_grad():
                output = trainer.model(carry=carry, **batch)
            carry = output.carry
            sums[step] += float(output.sums["recurrent_clm"])
            counts[step] += len(batch["label_ids"])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx(list(sums / counts), rel=1e-6)
    without = trainer.model(**trainer.data_collator(trainer.train_dataset[8])).sums["recurrent_clm"]
    assert abs(float(without.detach()) / LENGTH - losses[2]) > 1e-4


def test_first_log_after_a_resume_covers_its_own_steps(tmp_path):
    trainer = make_trainer("rtd", tmp_path / "a", steps=4, save_strategy="steps", save_steps=2)
    trainer.train()
    resumed = make_trainer("rtd", tmp_path / "b", steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    whole, part = ([e for e in t.state.log_history if e["step"] == 3][0] for t in (trainer, resumed))
    kept = [key for key in whole if key != "tokens_per_second"]
    assert {k: part[k] for k in kept} == pytest.approx({k: whole[k] for k in kept}, rel=1e-9)


def test_throughput_counts_tokens_but_not_padding_and_pauses(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(throughput_module.time, "perf_counter", lambda: now[0])
    counter = Throughput(torch.nn.Linear(1, 1), 8, torch.device("cpu"))
    ids = torch.zeros(2, 8, dtype=torch.int64)
    counter.add({"input_ids": ids, "attention_mask": torch.tensor([[1] * 8, [1] * 3 + [0] * 5])})
    counter.add({"input_ids": ids})
    now[0] += 2
    with counter.paused():
        now[0] += 50
    assert counter.report(int(counter.tokens), 1) == {"tokens_per_second": (11 + 16) / 2}
    now[0] += 1
    assert counter.report(int(counter.tokens), 1) == {"tokens_per_second": 0.0}


class _Spoil(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            with torch.no_grad():
                model.get_input_embeddings().weight.fill_(float("nan"))


def test_bad_loss_stops_the_run(tmp_path):
    trainer = make_trainer("mlm", tmp_path, micro=8, rows=8, callbacks=(_Spoil(),))
    with pytest.raises(BadLossError, match="at step 2;.*there is no checkpoint yet"):
        trainer.train()
    assert trainer.state.global_step == 1
