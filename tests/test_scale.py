"""Configurations for several devices as accelerate reads them, and what a run says of its checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from training_runs import make_trainer

ROOT = Path(__file__).parent.parent
FILES = {
    "accelerate_config.yaml": DistributedType.MULTI_GPU,
    "accelerate_configs/ddp.yaml": DistributedType.MULTI_GPU,
    "accelerate_configs/fsdp2.yaml": DistributedType.FSDP,
    "accelerate_configs/deepspeed_zero2.yaml": DistributedType.DEEPSPEED,
    "accelerate_configs/deepspeed_zero3.yaml": DistributedType.DEEPSPEED,
    "accelerate_configs/multi_node.yaml": DistributedType.MULTI_GPU,
}


def launch_arguments(file, *more):
    """What `accelerate launch --config_file` makes of it."""
    parser = launch_command_parser()
    return _validate_launch_command(parser.parse_args(["--config_file", str(ROOT / file), *more, "script.py"]))[0]


def test_every_file_is_listed():
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "accelerate_configs").iterdir()} < set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_accelerate_reads_it(file):
    config = load_config_from_file(str(ROOT / file))  # raises for keys that it does not know
    assert config.distributed_type == FILES[file] and config.mixed_precision == "no"
    args = launch_arguments(file, "--num_processes", "4")
    assert args.num_processes == 4 and not args.use_cpu
    sharded = FILES[file] == DistributedType.FSDP
    assert bool(args.use_fsdp) == sharded
    assert bool(args.use_deepspeed) == (FILES[file] == DistributedType.DEEPSPEED)
    if file != "accelerate_config.yaml":
        head = (ROOT / file).read_text().partition("compute_environment")[0]
        assert f"--config_file {file}" in head and "Run:" in head and "Not run:" in head


def test_stages_of_deepspeed():
    for stage in (2, 3):
        args = launch_arguments(f"accelerate_configs/deepspeed_zero{stage}.yaml")
        assert int(args.zero_stage) == stage and args.gradient_accumulation_steps == "auto"


def test_several_machines():
    args = launch_arguments("accelerate_configs/multi_node.yaml", "--machine_rank", "1")
    prepare_multi_gpu_env(args)
    assert (args.nnodes, args.nproc_per_node, args.node_rank, args.rdzv_endpoint) == ("2", "8", 1, "10.0.0.1:29500")


def test_sharding_is_fsdp2_by_layers(monkeypatch):
    environment = prepare_multi_gpu_env(launch_arguments("accelerate_configs/fsdp2.yaml"))
    for name, value in environment.items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert "transformer" in str(plugin.auto_wrap_policy) and "SHARDED" in str(plugin.state_dict_type)
    assert not plugin.activation_checkpointing and type(plugin.cpu_offload).__name__ == "OffloadPolicy"  # that is, none


def test_size_and_time_of_checkpoints(tmp_path):
    trainer = make_trainer("mlm", tmp_path, steps=3, save_strategy="steps", save_steps=1, save_total_limit=1)
    assert (trainer.saves, trainer.checkpoint_bytes) == (0, 0)
    trainer.train()
    files = [path for path in (tmp_path / "checkpoint-3").rglob("*") if path.is_file()]
    assert trainer.checkpoint_bytes == sum(os.path.getsize(path) for path in files)
    assert trainer.saves == 3 and trainer.save_seconds > 0
