"""Training batches: the same from any number of workers, noise and order of each epoch, progress, padding."""

from __future__ import annotations

import numpy as np
import torch
from training_runs import LENGTH, build, make_trainer, text

from pretrain_zoo.training.dataset import DrawCollator, PretrainingDataset


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
