"""Runs of several phases: ranges of draws, schedules, evaluation, resuming across boundaries."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from phased_runs import corpus, one, two_phases
from transformers import TrainingArguments

from pretrain_zoo.models.presets import backbone
from pretrain_zoo.objectives import get_objective
from pretrain_zoo.training.baselines import component_baselines
from pretrain_zoo.training.dataset import DrawCollator
from pretrain_zoo.training.mixed_evaluation import MixedEvaluationDataset
from pretrain_zoo.training.mixture import Component, Phase, PhasedDataset
from pretrain_zoo.training.quotas import Weights
from pretrain_zoo.training.trainer import PretrainingTrainer


@pytest.fixture(scope="module")
def text():
    """(tokenizer, vocabulary, documents to train on, held out)."""
    return corpus()


def test_phases_are_consecutive_ranges_of_draws(text):
    data = two_phases(text, micro_batches=2)
    assert data.global_batch == 16 and len(data) == 8 * 16
    numbers, sizes = [], []
    for begin in range(0, len(data), 8):
        draws = data.__getitems__(list(range(begin, begin + 8))).draws
        numbers += draws.number.tolist()
        sizes.append(len(draws))
        step = begin // 16
        assert set(draws.component.tolist()) <= ({0} if step < 4 else {1, 2})
        np.testing.assert_array_equal(draws.progress, step / 8)
    assert numbers == list(range(4 * 16 + 4 * 8)) and sizes == [8] * 8 + [4] * 8
    with pytest.raises(ValueError, match="from one phase into the next"):
        data.__getitems__([63, 64])


def test_draws_do_not_depend_on_the_division_into_micro_batches(text):
    one_by_one, four_by_four = two_phases(text, 1, (8, 4)), two_phases(text, 4, (2, 1))
    for step in range(8):
        whole = one_by_one.__getitems__(list(range(step * 8, step * 8 + 8))).draws
        parts = [four_by_four.__getitems__(list(range(step * 8 + i, step * 8 + i + 2))).draws for i in range(0, 8, 2)]
        assert np.concatenate([part.key for part in parts]).tolist() == whole.key.tolist()


@pytest.mark.parametrize("progress", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_schedules_run_over_the_phase_that_has_them(text, progress, weights):
    """Over the run, the second phase begins at one half, over the phase, at 0; weights apart from other schedules."""
    data = two_phases(text, own_progress=progress, own_weights=weights)
    found = data.__getitems__(list(range(32, 40))).draws.progress
    np.testing.assert_array_equal(found, 0.0 if progress else 0.5)
    quota = [data.__getitems__(list(range(s * 8, s * 8 + 8))).draws.component for s in range(4, 8)]
    shares = [(component == 1).mean() for component in quota]
    begin, end = (0.75, 0.25 + 0.5 / 4) if weights else (0.5, 0.25 + 0.5 / 8)  # at the first step and the last
    assert np.abs(np.array(shares) - np.linspace(begin, end, 4)).max() < 0.25  # batches of four
    held_out = MixedEvaluationDataset(data, max_rows=6)
    means = {"masked.mlm_loss": 8.0, "other.mlm_loss": 0.0}
    assert held_out.after(8).loss_of(means, data.objective.terms, 0.0) == pytest.approx(8 * end)


def test_the_masking_rate_falls_step_by_step(text):
    """From 0.8 to 0 over the eight steps of the run: 0.4, 0.3, 0.2 and 0.1 in the four that are masked."""
    _, vocabulary, *_ = text
    data = two_phases(text, rows=(400, 400))
    collator = DrawCollator(data.objective, vocabulary)
    for step, rate in zip(range(4, 8), (0.4, 0.3, 0.2, 0.1)):
        drawn = data.__getitems__(list(range(step * 400, step * 400 + 400)))
        falling = [int(n) for n in np.flatnonzero(drawn.draws.component == 1)]
        ids = drawn.rows.parts[1]["input_ids"]
        batch = collator(drawn)
        found = int((batch["label_components"] == 1).sum())
        tokens = int(vocabulary.maskable[ids.values].sum())
        assert len(falling) == len(ids) and abs(found / tokens - rate) < 5 * (rate * (1 - rate) / tokens) ** 0.5


def test_a_component_goes_on_reading_in_the_next_phase(text):
    _, vocabulary, train, held_out = text
    parts = [
        Component(name, get_objective("mlm", mlm_probability=rate), 24, train, held_out, order=0)
        for name, rate in (("a", 0.3), ("b", 0.15))
    ]
    data = PhasedDataset([one("a", parts[0], 5, 8), one("b", parts[1], 120, 8)], vocabulary, micro_batches=1)
    plain = PhasedDataset([one("a", parts[0], 125, 8)], vocabulary, micro_batches=1)
    steps = [list(range(step * 8, step * 8 + 8)) for step in range(125)]
    for numbers in steps:
        found, expected = data.__getitems__(numbers).draws, plain.__getitems__(numbers).draws
        assert found.example.tolist() == expected.example.tolist() and found.epoch.tolist() == expected.epoch.tolist()
    assert found.epoch.max() > 0


@pytest.mark.parametrize("mixing", ["example", "batch"])
def test_no_example_comes_twice_where_phases_follow_each_other(text, mixing):
    """Phases of 50 and 45 steps, no multiples of a block: each example once an epoch of its component."""
    _, vocabulary, train, held_out = text
    a = Component("a", get_objective("mlm"), 24, train, held_out, order=0)
    b = Component("b", get_objective("mlm"), 24, held_out, train, order=1)
    phases = [
        Phase(name, steps, 4, (a, b), Weights((3.0, 1.0), (1.0, 3.0)), mixing)
        for name, steps in (("first", 50), ("second", 45))
    ]
    data = PhasedDataset(phases, vocabulary, micro_batches=1, seed=2)
    visits = Counter()
    for step in range(95):
        draws = data.__getitems__(list(range(step * 4, step * 4 + 4))).draws
        visits.update(zip(draws.component.tolist(), draws.epoch.tolist(), draws.example.tolist()))
    assert set(visits.values()) == {1}
    for number, part in enumerate((a, b)):
        size = len(part.objective.plan(part.train, vocabulary, length=24, seed=0, epoch=0, global_batch=4))
        epochs = Counter(epoch for component, epoch, _ in visits if component == number)
        assert all(epochs[epoch] == size for epoch in range(len(epochs) - 1)) and epochs[len(epochs) - 1] <= size
        assert number == 0 or len(epochs) > 1


def test_evaluation_is_of_the_phase_just_trained(text):
    data = two_phases(text)
    held_out = MixedEvaluationDataset(data, max_rows=6)

    def names(step: int) -> set[str]:
        batches = [batch for group in held_out.after(step).batches(4) for batch in group]
        found = {int(c) for batch in batches for c in held_out.__getitems__(batch).draws.component}
        return {data.components[c].name for c in found}

    assert names(0) == names(1) == names(4) == {"causal"}
    assert names(5) == names(8) == {"masked", "other"}


def test_each_component_of_the_last_phase_has_its_own_trivial_answer(text):
    """Token frequencies of the component's corpus, counted anew, on the tokens that its held-out rows ask for."""
    vocabulary, data = text[1], two_phases(text)
    held_out = MixedEvaluationDataset(data, max_rows=6)
    found = component_baselines(held_out)
    assert set(found) == {"masked.mlm_loss", "masked.accuracy", "other.mlm_loss", "other.accuracy"}
    collator = DrawCollator(data.objective, vocabulary)
    for name, documents in (("masked", text[2]), ("other", text[3])):
        number = [c.name for c in data.components].index(name)
        begin, end = held_out._begins[number : number + 2].tolist()
        labels = [i for row in range(begin, end) for i in collator(held_out[row])["label_ids"].tolist()]
        times = Counter(documents.tokens[documents.tokens >= 0].tolist())
        total = sum(times.values()) + vocabulary.size
        assert labels and min(labels) >= 0
        by_hand = -sum(math.log((times[label] + 1) / total) for label in labels) / len(labels)
        assert found[f"{name}.mlm_loss"] == pytest.approx(by_hand)


def trainer_of(text, folder: Path, rates=None, **arguments) -> PretrainingTrainer:
    tokenizer, vocabulary, *_ = text
    data = two_phases(text)
    torch.manual_seed(3)
    model = data.objective.build(backbone("bert-tiny", tokenizer, max_length=32), vocabulary)
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **arguments,
    )
    return PretrainingTrainer(
        model, args, data, MixedEvaluationDataset(data, max_rows=5), learning_rates=rates, processing_class=tokenizer
    )


def test_a_run_resumes_anywhere_and_ends_with_the_same_weights(text, tmp_path):
    """Before, at and after the boundary, and within blocks of quotas; with dropout, AdamW and moving shares."""

    def rates(step: int) -> float:
        return (1 + math.cos(step)) / 2

    saving = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
    whole = trainer_of(text, tmp_path / "whole", rates, **saving)
    whole.train()
    logs = [log for log in whole.state.log_history if "loss" in log]
    assert [log["learning_rate"] for log in logs] == pytest.approx([1e-3 * rates(step) for step in range(8)])
    assert [any(n.startswith("causal.clm") for n in log) for log in logs] == [True] * 4 + [False] * 4
    assert all("masked.mlm_loss" in log or "other.mlm_loss" in log for log in logs[4:])
    evaluations = [
        {n for n in log if n.endswith(("mlm_loss", "clm_loss"))}
        for log in whole.state.log_history
        if "eval_loss" in log
    ]
    assert evaluations == [{"eval_causal.clm_loss"}] * 2 + [{"eval_masked.mlm_loss", "eval_other.mlm_loss"}] * 2
    for step in (2, 4, 6):
        again = trainer_of(text, tmp_path / f"again-{step}", rates, **saving)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
            assert torch.equal(a, b), (step, name)


def test_a_checkpoint_of_other_phases_is_refused(text):
    data = two_phases(text)
    saved = json.loads(json.dumps(data.state(5)))
    two_phases(text).restore(saved)
    with pytest.raises(ValueError, match="draws other data.*phases"):
        two_phases(text, rows=(8, 2)).restore(saved)


def test_pairs_made_anew_in_each_epoch_resume_without_planning_old_ones(text):
    _, vocabulary, train, held_out = text
    pairs = Component("pairs", get_objective("mlm+nsp"), 32, train, held_out)
    more = Component("more", get_objective("mlm+nsp"), 24, train, held_out, order=1)
    phases = [one("short", more, 10, 8), one("long", pairs, 90, 8)]
    data = PhasedDataset(phases, vocabulary, micro_batches=1)
    state = json.loads(json.dumps(data.state(98)))
    expected = data.__getitems__(list(range(99 * 8, 100 * 8))).draws
    assert expected.epoch.min() >= 1
    again = PhasedDataset(phases, vocabulary, micro_batches=1)
    again.restore(state)
    assert again.__getitems__(list(range(99 * 8, 100 * 8))).draws.key.tolist() == expected.key.tolist()
    assert len(again._sources[1]._plans) <= 2


@pytest.mark.parametrize("name", ["mlm+nsp", "rtd", "span_corruption"])
def test_objectives_with_models_of_their_own_go_through_phases(text, name):
    """BERT's short rows, then long ones: the same objective and model, other lengths and batches."""
    tokenizer, vocabulary, train, held_out = text
    if name == "span_corruption":
        from training_runs import text as with_sentinels

        tokenizer, vocabulary, train = with_sentinels()
        held_out = train
    objective = get_objective(name)
    short = Component("short", objective, 16, train, held_out)
    long = Component("long", objective, 32, train, held_out, order=1)
    data = PhasedDataset([one("a", short, 1, 6), one("b", long, 1, 3)], vocabulary, micro_batches=1)
    model = {"rtd": "electra-tiny", "span_corruption": "t5-tiny"}.get(name, "bert-tiny")
    built = data.objective.build(backbone(model, tokenizer, max_length=64), vocabulary)
    alone = objective.build(backbone(model, tokenizer, max_length=64), vocabulary)
    assert type(built) is type(alone) and set(built.state_dict()) == set(alone.state_dict())
    for numbers, length, rows in ((range(6), 16, 6), (range(6, 12), 32, 3)):
        batch = DrawCollator(data.objective, vocabulary)(data.__getitems__(list(numbers)))
        assert batch["input_ids"].shape[0] == rows and length / 2 < batch["input_ids"].shape[1] <= length
        output = built(**batch)
        assert set(output.sums) == set(objective.terms)
        sum(output.sums.values()).backward()
