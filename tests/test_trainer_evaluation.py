"""The trainer's evaluation: each held-out row once, streams with their memory, the best checkpoint."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from stock_losses import rows_of, stock_loss
from training_runs import LENGTH, build, make_trainer, text

from pretrain_zoo.training.dataset import EvaluationDataset


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
