"""Arguments of the trainer: refused, set, or without effect on the losses (bf16, torch.compile, clipping)."""

from __future__ import annotations

import math

import pytest
import torch
from training_runs import LENGTH, make_trainer, text
from transformers import TrainerCallback

from pretrain_zoo.training.dataset import DrawCollator


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
