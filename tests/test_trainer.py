"""The trainer's losses, logs, evaluation and batches against computations by hand and the stock head."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_runs import LENGTH, build, make_trainer, text
from transformers import TrainerCallback

from pretrain_zoo.objectives import Term
from pretrain_zoo.training import throughput as throughput_module
from pretrain_zoo.training.dataset import DrawCollator, EvaluationDataset, PretrainingDataset
from pretrain_zoo.training.throughput import Throughput
from pretrain_zoo.training.trainer import BadLossError


def stock_loss(model, batch) -> tuple[float, int, int]:
    """(Σ cross-entropy, right predictions, labels) of a batch, by the stock model's full logits."""
    model.eval()
    with torch.no_grad():
        logits = model.main(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    rows = logits.reshape(-1, logits.shape[-1])[batch["label_positions"]]
    labels = batch["label_ids"]
    right = int((rows.argmax(-1) == labels).sum())
    return float(F.cross_entropy(rows, labels, reduction="sum")), right, len(labels)


def rows_of(dataset, collator, numbers):
    """The rows of a dataset with these numbers, each a batch of its own."""
    return [collator(dataset.__getitems__([int(n)])) for n in numbers]


# losses and logs


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


# batches


def test_batches_do_not_depend_on_workers(tmp_path):
    def batches(workers):
        trainer = make_trainer("mlm", tmp_path, micro=4, rows=8, accumulate=2, dataloader_num_workers=workers, steps=6)
        return list(trainer.get_train_dataloader())

    expected = batches(0)
    assert len(expected) == 12
    for workers in (1, 4):
        found = batches(workers)
        assert len(found) == 12
        for one, other in zip(found, expected):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in other)


def test_every_epoch_draws_noise_and_order_anew():
    objective, _ = build("mlm")
    _, vocabulary, documents = text()
    dataset = PretrainingDataset(objective, documents, vocabulary, length=LENGTH, global_batch=4, max_steps=1000)
    size = len(objective.plan(documents, vocabulary, length=LENGTH, seed=0, epoch=0, global_batch=4))
    epochs = [dataset.__getitems__(list(range(e * size, (e + 1) * size))) for e in range(3)]
    orders = [tuple(epoch.draws.example) for epoch in epochs]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len(set(orders)) == 3
    collator = DrawCollator(objective, vocabulary)
    for e in range(2):
        same = [int(np.flatnonzero(epochs[i].draws.example == 7)[0]) + i * size for i in (e, e + 1)]
        clean = [dataset.__getitems__([n]).rows["input_ids"].values.tolist() for n in same]
        assert clean[0] == clean[1]
        noisy = [collator(dataset.__getitems__([n])) for n in same]
        assert not torch.equal(noisy[0]["label_positions"], noisy[1]["label_positions"])
        again = collator(dataset.__getitems__([same[0]]))
        assert all(torch.equal(noisy[0][key], again[key]) for key in again)


def test_progress_of_a_draw_is_the_share_of_steps_before_it():
    objective, _ = build("mlm")
    _, vocabulary, documents = text()
    dataset = PretrainingDataset(objective, documents, vocabulary, length=LENGTH, global_batch=4, max_steps=5)
    assert len(dataset) == 20
    assert dataset.__getitems__([0, 3, 4, 19]).draws.progress.tolist() == [0, 0, 0.2, 0.8]


def test_fixed_length_pads_rows_to_it():
    objective, _ = build("mlm")
    _, vocabulary, documents = text()
    dataset = PretrainingDataset(objective, documents, vocabulary, length=12, global_batch=4, max_steps=5)
    batch = DrawCollator(objective, vocabulary, fixed_length=40)(dataset[0])
    assert batch["input_ids"].shape == (1, 40)
    assert DrawCollator(objective, vocabulary, pad_to_multiple_of=32)(dataset[0])["input_ids"].shape == (1, 32)


# evaluation


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_evaluation_counts_each_row_once(name, tmp_path):
    trainer = make_trainer(name, tmp_path, eval_rows=27)
    dataset = trainer.eval_dataset
    assert len(dataset) == 27 and len(set(dataset.examples.tolist())) == 27
    metrics = trainer.evaluate()
    parts = [stock_loss(trainer.model, batch) for batch in rows_of(dataset, trainer.data_collator, range(27))]
    loss = sum(p[0] for p in parts) / sum(p[2] for p in parts)
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-12)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(loss), rel=1e-12)
    assert metrics["eval_accuracy"] == pytest.approx(sum(p[1] for p in parts) / sum(p[2] for p in parts), rel=1e-12)
    again = trainer.evaluate()
    assert all(again[key] == metrics[key] for key in metrics if key != "eval_runtime")


@pytest.mark.parametrize("rows, size", [(27, 4), (8, 4), (1, 4), (5, 8)])
def test_evaluation_batches_hold_each_row_once(rows, size):
    objective, _ = build("mlm")
    _, vocabulary, documents = text()
    dataset = EvaluationDataset(objective, documents, vocabulary, length=LENGTH, max_rows=rows)
    batches = [batch for group in dataset.batches(size) for batch in group]
    assert max(map(len, batches)) <= size
    assert Counter(n for batch in batches for n in batch) == Counter(range(rows))
    for world in (1, 2, 3):
        shares = [dataset.share(size, rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        counted = Counter(n for share in shares for batch, counts in share if counts for n in batch)
        assert counted == Counter(range(rows))


def test_evaluation_of_streams_carries_memory_along(tmp_path):
    objective, model = build("recurrent_clm")
    _, vocabulary, documents = text()
    held_out = EvaluationDataset(objective, documents, vocabulary, length=LENGTH, global_batch=6, max_rows=30)
    groups = held_out.batches(4)
    assert [[len(batch) for batch in group] for group in groups] == [[4] * 5, [2] * 5]
    for group in groups:
        examples = held_out.examples[np.array(group)]
        assert (np.diff(examples, axis=0) == 1).all()
    trainer = make_trainer("recurrent_clm", tmp_path, model=model, eval_rows=None)
    found = trainer.evaluate(held_out)
    model.eval()
    total, count = 0.0, 0
    for stream in range(6):  # one after another, a row at a time
        carry = None
        for number in np.arange(30).reshape(6, 5)[stream]:
            batch = trainer.data_collator(held_out.__getitems__([int(number)]))
            with torch.no_grad():
                output = model(carry=carry, **batch)
            carry = output.carry
            total += float(output.sums["recurrent_clm"])
            count += len(batch["label_ids"])
    assert found["eval_loss"] == pytest.approx(total / count, rel=1e-12)
    with torch.no_grad():
        without = sum(float(model(**trainer.data_collator(held_out[n])).sums["recurrent_clm"]) for n in range(30))
    assert abs(without - total) / total > 1e-6


def test_evaluation_leaves_training_as_it_is(tmp_path):
    def weights(**arguments):
        trainer = make_trainer("mlm", tmp_path, dtype=torch.float32, dropout=True, eval_rows=9, **arguments)
        trainer.train()
        assert trainer.model.training
        return list(trainer.model.parameters())

    plain, evaluated = weights(), weights(eval_strategy="steps", eval_steps=1)
    assert all(torch.equal(a, b) for a, b in zip(plain, evaluated))


def test_held_out_text_without_an_example_is_refused(tmp_path):
    _, vocabulary, documents = text()
    objective, _ = build("recurrent_clm")
    with pytest.raises(ValueError, match="held-out documents give no example"):
        EvaluationDataset(objective, documents.select(np.array([0])), vocabulary, length=512, global_batch=64)
    with pytest.raises(ValueError, match="needs an eval_dataset"):
        make_trainer("mlm", tmp_path).evaluate()


# best checkpoint


def test_best_checkpoint_is_kept_and_loaded(tmp_path):
    trainer = make_trainer(
        "mlm",
        tmp_path,
        steps=4,
        eval_rows=9,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the best is the first, then
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses[0] == max(losses) > losses[-1]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"checkpoint-1", "checkpoint-4"}
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[0], rel=1e-12)


# arguments


def test_arguments_that_would_change_draws_or_loss_are_refused(tmp_path):
    with pytest.raises(ValueError, match="auto_find_batch_size"):
        make_trainer("mlm", tmp_path, auto_find_batch_size=True)
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        make_trainer("mlm", tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="draws 32 rows per step.* × gradient_accumulation_steps 3 .* is 24"):
        make_trainer("mlm", tmp_path, micro=8, accumulate=3)


def test_arguments_that_concern_the_order_are_set(tmp_path):
    trainer = make_trainer(
        "mlm",
        tmp_path,
        steps=2,
        train_sampling_strategy="group_by_length",
        dataloader_in_order=False,
        ignore_data_skip=True,
        accelerator_config={"split_batches": True, "dispatch_batches": True},
        num_train_epochs=7,
    )
    plain = make_trainer("mlm", tmp_path, steps=2)
    for one, other in zip(trainer.get_train_dataloader(), plain.get_train_dataloader(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in other)
    assert trainer.args.ignore_data_skip is False and trainer.args.dataloader_in_order is True


@pytest.mark.parametrize("name", ["mlm", "clm", "rtd"])
def test_gradient_checkpointing_changes_nothing(name, tmp_path):
    losses = []
    for option in (False, True):
        trainer = make_trainer(name, tmp_path, steps=2, activation_checkpointing=option)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_bf16_trains_and_stays_close(tmp_path):
    losses = []
    for option in (False, True):
        trainer = make_trainer("mlm", tmp_path, dtype=torch.float32, bf16=option, eval_rows=9, learning_rate=0.5)
        trainer.train()
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
        losses.append([e["loss"] for e in trainer.state.log_history if "loss" in e] + [trainer.evaluate()["eval_loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert losses[1] != losses[0]


def test_compiled_model_trains_alike_and_recompiles_once(tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = []
    for backend in (None, "eager"):
        arguments = {} if backend is None else {"torch_compile": True, "torch_compile_backend": backend}
        trainer = make_trainer("mlm", tmp_path, micro=8, rows=8, steps=5, eval_rows=9, **arguments)
        trainer.data_collator = replace_length(trainer)
        trainer.train()
        losses.append([e["loss"] for e in trainer.state.log_history if "loss" in e] + [trainer.evaluate()["eval_loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def replace_length(trainer) -> DrawCollator:
    """A collator that pads all rows to one length."""
    return DrawCollator(trainer.objective, text()[1], fixed_length=LENGTH)


def test_two_networks_are_clipped_and_grouped_apart(tmp_path, monkeypatch):
    """DeBERTaV3: the generator's gradient norm does not scale the discriminator's gradients."""
    from training_runs import OBJECTIVES

    monkeypatch.setitem(OBJECTIVES, "rtd", ("deberta-v3-tiny", {"tie": "gdes"}))
    seen = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            seen.append({n: p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None})

    for limit in (0.0, 1e-3):
        trainer = make_trainer("rtd", tmp_path, steps=1, max_grad_norm=limit, callbacks=(Keep(),))
        trainer.train()
    free, clipped = seen
    for part in (True, False):
        names = [n for n in free if n.startswith("heads.generator.") == part]
        norm = math.sqrt(sum(free[n] ** 2 for n in names))
        assert norm > 2e-3
        assert math.sqrt(sum(clipped[n] ** 2 for n in names)) == pytest.approx(1e-3, rel=1e-3)
    assert {group["network"] for group in trainer.optimizer.param_groups} == {"main", "generator"}
    count = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    assert count == sum(p.requires_grad for p in trainer.model.parameters())
