"""Rows of fine-tuning: their order, the share of each process, encoding, class weights and losses."""

import numpy as np
import pytest
import torch
from finetune_runs import TRAIN_ROWS, arguments, examples, model_arguments, prepared_task

from pretrain_zoo.evaluation.encoded import EncodedExamples, LengthGroupedEpochs, evaluation_share
from pretrain_zoo.evaluation.finetune import build_model, class_weights, make_trainer
from pretrain_zoo.evaluation.finetune_trainer import balanced_weights

NO_DROPOUT = "hidden_dropout_prob=0,attention_probs_dropout_prob=0,hidden_size=32,num_hidden_layers=1,"
NO_DROPOUT += "num_attention_heads=2,intermediate_size=64"


# order and shares


@pytest.mark.parametrize("rows, batch, processes", [(27, 4, 2), (27, 4, 1), (3, 4, 3), (8, 4, 2), (1, 1, 4)])
def test_each_row_is_evaluated_once(rows, batch, processes):
    lengths = np.random.default_rng(0).integers(1, 50, rows).tolist()
    shares = [evaluation_share(lengths, batch, process, processes) for process in range(processes)]
    counted = [row for share in shares for rows_, counts in share for row in rows_ if counts]
    assert sorted(counted) == list(range(rows))
    assert len({len(share) for share in shares}) == 1  # sharded models run in step
    assert all(0 < len(rows_) <= batch for share in shares for rows_, _ in share)


def test_order_groups_lengths_and_depends_on_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(1, 100, 640).tolist()
    sampler = LengthGroupedEpochs(lengths, 16, seed=5)
    first = list(sampler)
    torch.rand(3)  # what else is drawn does not matter
    assert list(sampler) == first and sorted(first) == list(range(640))
    sampler.set_epoch(1)
    assert list(sampler) != first
    again = LengthGroupedEpochs(lengths, 16, seed=5)
    again.set_epoch(1)
    assert list(again) == list(sampler)
    padded = sum(16 * max(lengths[i] for i in first[k : k + 16]) for k in range(0, 640, 16))
    assert padded < 1.15 * sum(lengths)  # in a random order: about 1.9 times


def test_rows_are_cut_and_pairs_encoded(wordpiece_tokenizer):
    rows = examples(8, 1)
    encoded = EncodedExamples(rows, wordpiece_tokenizer, 16)
    assert encoded[0]["input_ids"] == wordpiece_tokenizer(rows.texts[0][0], truncation=True, max_length=16)["input_ids"]
    assert encoded.truncated(16) == sum(len(wordpiece_tokenizer(text)["input_ids"]) >= 16 for text in rows.texts[0])
    assert encoded[3]["labels"] == rows.labels[3]


# losses


def test_class_weights_of_rare_classes_are_larger(tokenizer_folder, wordpiece_tokenizer):
    labels = np.array([0] * 6 + [1] * 2)
    assert balanced_weights(labels, 3).tolist() == pytest.approx([8 / 18, 8 / 6, 0])
    prepared = prepared_task(wordpiece_tokenizer)
    assert class_weights("1,2.5", prepared).tolist() == [1, 2.5]
    counts = np.bincount(prepared.splits["train"].labels)
    assert class_weights("balanced", prepared).tolist() == pytest.approx((TRAIN_ROWS / 2 / counts).tolist())
    with pytest.raises(ValueError, match="2 numbers, one for each of 0, 1"):
        class_weights("1,2,3", prepared)
    prepared.splits["train"].labels[:4] = -1  # rows that only a teacher labels
    counts = np.bincount(prepared.splits["train"].labels[4:])
    assert class_weights("balanced", prepared).tolist() == pytest.approx(((TRAIN_ROWS - 4) / 2 / counts).tolist())


def test_update_does_not_depend_on_micro_batches(tokenizer_folder, wordpiece_tokenizer, tmp_path):
    weights = []
    for micro, accumulate in ((8, 1), (4, 2), (2, 4)):
        args = arguments(
            tmp_path / f"{micro}",
            max_steps=1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulate,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            warmup_steps=0,
            eval_strategy="no",
            class_weights="1,3",
        )
        torch.manual_seed(0)
        prepared = prepared_task(wordpiece_tokenizer)
        model = build_model(prepared, model_arguments(tokenizer_folder, config_overrides=NO_DROPOUT), 48, False)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        make_trainer(prepared, model, args).train()
        changed = [new.detach() - old for new, old in zip(model.parameters(), before, strict=True)]
        weights.append(torch.cat([change.flatten() for change in changed]))
    assert weights[0].abs().max() > 1e-5
    for other in weights[1:]:
        assert (other - weights[0]).norm() <= 1e-3 * weights[0].norm()  # float32 sums


def test_loss_weighs_classes(tokenizer_folder, wordpiece_tokenizer, tmp_path):
    prepared = prepared_task(wordpiece_tokenizer)
    model = build_model(prepared, model_arguments(tokenizer_folder), 48, False)
    trainer = make_trainer(prepared, model, arguments(tmp_path, class_weights="1,3"))
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    found = trainer._loss({"logits": logits}, torch.tensor([1, 0]), torch.tensor(4.0))
    expected = 3 * np.log(1 + np.exp(-1)) + np.log(1 + np.exp(-2))
    assert found.item() == pytest.approx(expected / 4, rel=1e-6)
