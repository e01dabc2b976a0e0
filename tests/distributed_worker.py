"""What `test_distributed.py` starts on two processes: training runs whose results it compares with one process's.

accelerate launch --config_file accelerate_config.yaml --num_processes 2 tests/distributed_worker.py FOLDER
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from training_runs import OBJECTIVES, ROWS, Gradients, make_mixed_trainer, make_objective, make_trainer
from transformers import TrainerCallback

from pretrain_zoo.training import trainer as trainer_module
from pretrain_zoo.training.lamb import Lamb
from pretrain_zoo.training.sums import Sums
from pretrain_zoo.training.trainer import BadLossError, PretrainingTrainer

EVAL_ROWS = 27
STEPS = 2
SHARDED = ("mlm", "clm")
ADAM = {"optim": "adamw_torch", "learning_rate": 1e-3}
RUNS = [(name, torch.float64) for name in OBJECTIVES] + [(name, torch.float32) for name in ("mlm", "clm")]


def updates(folder: Path) -> None:
    """Gradients of each step and the logs of every objective."""
    for name, dtype in RUNS:
        gradients = Gradients()
        trainer = make_trainer(name, folder / "run", micro=ROWS // 2, steps=STEPS, dtype=dtype, callbacks=(gradients,))
        assert trainer.args.world_size == dist.get_world_size() == 2
        trainer.train()
        if dist.get_rank() == 0:
            tensors = {f"{i} {key}": grad for i, step in enumerate(gradients.steps) for key, grad in step.items()}
            save_file(tensors, folder / f"{name}-{dtype}.safetensors")
            (folder / f"{name}-{dtype}.json").write_text(json.dumps(trainer.state.log_history))
    one, other = ({"a": [2.0, 1.0], "b": [3.0, 1.0], "c": [0.0, 0.0]}, {"a": [8.0, 3.0]})
    sums = Sums(torch.device("cpu"))
    for name, (total, count) in (one, other)[dist.get_rank()].items():
        sums.add(name, torch.tensor(total), torch.tensor(count))
    (folder / f"means-{dist.get_rank()}.json").write_text(json.dumps(sums.means()))


def mixtures(folder: Path) -> None:
    """Gradients of each step, logs and evaluation of two phases of two components each."""
    gradients = Gradients()
    trainer = make_mixed_trainer(folder / "run", micro=ROWS // 2, world=2, callbacks=(gradients,))
    trainer.train()
    metrics = trainer.evaluate()
    if dist.get_rank() == 0:
        save_file(
            {f"{i} {k}": g for i, s in enumerate(gradients.steps) for k, g in s.items()}, folder / "mixed.safetensors"
        )
        (folder / "mixed.json").write_text(json.dumps({"history": trainer.state.log_history, "metrics": metrics}))


def evaluation(folder: Path) -> None:
    """Uneven evaluation, alone and during training, with the best checkpoint loaded at the end."""
    for name in ("mlm", "recurrent_clm"):
        metrics = make_trainer(name, folder / "run", micro=ROWS // 2, eval_rows=EVAL_ROWS).evaluate()
        (folder / f"evaluation-{name}-{dist.get_rank()}.json").write_text(json.dumps(metrics))
    trainer = make_trainer(
        "mlm",
        folder / "best",
        micro=ROWS // 2,
        eval_rows=EVAL_ROWS,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        load_best_model_at_end=True,
    )
    trainer.train()
    metrics = trainer.evaluate()
    if dist.get_rank() == 0:
        (folder / "best.json").write_text(json.dumps({"history": trainer.state.log_history, "final": metrics}))


def resume(folder: Path) -> None:
    """A run in one go and one that is resumed in its midst, with dropout and memory; and on another division."""
    saving = {
        "save_strategy": "steps",
        "save_steps": 1,
        "optim": "adamw_torch",
        "dropout": True,
        "dtype": torch.float32,
    }
    for name in ("mlm", "recurrent_clm"):
        whole = make_trainer(name, folder / f"whole-{name}", micro=ROWS // 2, **saving)
        whole.train()
        again = make_trainer(name, folder / f"again-{name}", micro=ROWS // 2, **saving)
        again.train(resume_from_checkpoint=str(folder / f"whole-{name}" / "checkpoint-2"))
        same = [torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters())]
        (folder / f"resume-{name}-{dist.get_rank()}.json").write_text(json.dumps(all(same)))


class _BadOnRankOne(TrainerCallback):
    """Makes the loss of rank 1 infinite or NaN in the third step, by its embedding's weights."""

    def __init__(self, value: float):
        self.value = value

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 2 and dist.get_rank() == 1:
            with torch.no_grad():
                model.get_input_embeddings().weight.fill_(self.value)


def bad_loss(folder: Path) -> None:
    """A loss that is NaN on one process only."""
    for value in ("nan", "inf"):
        trainer: PretrainingTrainer = make_trainer(
            "mlm",
            folder / value,
            micro=ROWS // 2,
            save_strategy="steps",
            save_steps=1,
            callbacks=(_BadOnRankOne(float(value)),),
        )
        before: dict[str, torch.Tensor] = {}

        def keep(optimizer, args, kwargs, trainer=trainer, before=before):
            before.update(step=torch.tensor(trainer.state.global_step))

        trainer.create_optimizer()
        trainer.optimizer.register_step_pre_hook(keep)
        message = ""
        try:
            trainer.train()
        except BadLossError as error:
            message = str(error)
        record = {"message": message, "step": int(before["step"])}
        (folder / f"{value}-{dist.get_rank()}.json").write_text(json.dumps(record))


def sharded(folder: Path) -> None:
    """Training, evaluation and a resume under FSDP2."""
    settle = trainer_module._settle

    def settle_and_shard(args):  # accelerate shards on what it takes for GPUs only
        settle(args)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    trainer_module._settle = settle_and_shard
    for name in SHARDED:
        settings: dict = {"micro": ROWS // 2, "eval_rows": EVAL_ROWS, **ADAM}
        whole = make_trainer(name, folder / name, save_strategy="steps", save_steps=2, **settings)
        assert whole.is_fsdp_enabled and whole.args.world_size == 2
        whole.train()
        metrics = whole.evaluate()
        whole.save_model(str(folder / f"final-{name}"))
        again = make_trainer(name, folder / "again", **settings)
        again.train(resume_from_checkpoint=str(folder / name / "checkpoint-2"))
        states = [trainer.accelerator.get_state_dict(trainer.model) for trainer in (whole, again)]
        if dist.get_rank() == 0:
            assert type(whole.model_wrapped).__name__.startswith("FSDP")
            same = all(torch.equal(states[0][key], states[1][key]) for key in states[0])
            record = {"history": whole.state.log_history, "metrics": metrics, "resumed_alike": same}
            (folder / f"{name}.json").write_text(json.dumps(record))


def lamb(folder: Path) -> None:
    """LAMB on sharded tensors and on whole ones, with the same gradients: the largest relative difference."""
    torch.manual_seed(0)
    whole = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3)).double()
    shards = fully_shard(copy.deepcopy(whole), mesh=init_device_mesh("cpu", (2,)))
    rows = torch.randn(8, 5, dtype=torch.float64)
    for model in (whole, shards):
        optimizer = Lamb(model.parameters(), lr=0.05, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(rows).square().mean().backward()
            optimizer.step()
    pairs = [(one, other.full_tensor()) for one, other in zip(whole.parameters(), shards.parameters())]
    worst = max(float((one - other).norm() / one.norm()) for one, other in pairs)
    (folder / f"lamb-{dist.get_rank()}.json").write_text(json.dumps(worst))


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = Path(sys.argv[1])
    for objective in OBJECTIVES:
        make_objective(objective)  # teachers are written: once the processes are joined, only one of them writes
    for part in (sharded, lamb) if sys.argv[2:] == ["fsdp"] else (updates, mixtures, evaluation, resume, bad_loss):
        part(results)
    dist.destroy_process_group()
