"""The folder of a run: which run it is, whether to resume it, and what it keeps.

run.json          what the run is: settings that decide its result, the command, versions
checkpoint-300/   state to resume from
results.json      figures of the finished run
model.safetensors, config.json, tokenizer…, README.md, loss.png
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from ..models.adapters import AdapterArguments
from .arguments import RunArguments
from .phases import NOT_DATA, identity_of

RUN, RESULTS = "run.json", "results.json"
_TRAINING: tuple[str, ...] = (
    "max_steps",
    "num_train_epochs",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
)
_TRAINING += ("warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
_TRAINING += ("max_grad_norm", "neftune_noise_alpha", "bf16", "fp16", "seed", "data_seed")
_NOT_MODEL = ("attn_implementation",)
_ADAPTERS = frozenset(f.name for f in fields(AdapterArguments))


def run_identity(run: RunArguments) -> dict[str, Any]:
    """The settings that decide the result; how work is spread over processes and micro-batches does not."""
    args = run.training
    identity: dict[str, Any] = {"objective": run.objective_name}
    identity |= {f.name: getattr(run.objective, f.name) for f in fields(run.objective) if f.init}
    unused = _NOT_MODEL if run.model.peft else (*_NOT_MODEL, *_ADAPTERS)
    identity |= {k: v for k, v in asdict(run.model).items() if k not in unused}
    identity |= {k: v for k, v in asdict(run.corpus).items() if k not in NOT_DATA}
    identity |= {k: getattr(args, k) for k in _TRAINING}
    identity["batch"] = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    if run.phases:  # they say all that the mixture's fields do
        identity = {k: v for k, v in identity.items() if k not in ("components", "together")}
        identity["phases"] = identity_of(run.phases, args.gradient_accumulation_steps * args.world_size)
    return json.loads(json.dumps(identity, default=str))


def find_run(folder: str | os.PathLike, identity: dict[str, Any], overwrite: bool) -> str | None:
    """The checkpoint to resume the run with this identity from; `None` to begin. Changes nothing.

    Raises `ValueError`, naming the differences, if the folder holds another run, or files that are no run's.
    """
    folder = Path(folder)
    if overwrite or not folder.exists():
        return None
    if not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; give a folder")
    record = read_json(folder / RUN)
    if record is None:
        if any(folder.iterdir()):
            raise ValueError(
                f"the folder {folder} holds files, and none of them is a {RUN}: it is not this run's. "
                "Choose another --output_dir, or write into it with --overwrite_output_dir"
            )
        return None
    there = record["identity"]
    changed = [
        f"--{key} {identity.get(key)} (there {there.get(key)})"
        for key in sorted({*identity, *there})
        if identity.get(key) != there.get(key)
    ]
    if changed:
        raise ValueError(
            f"the folder {folder} holds another run; it differs in {', '.join(changed)}. "
            "Choose another --output_dir, or start anew with --overwrite_output_dir"
        )
    return get_last_checkpoint(str(folder))


def claim_folder(folder: str | os.PathLike, identity: dict[str, Any], overwrite: bool) -> None:
    """Make the folder that of the run with this identity; `overwrite` deletes another's checkpoints and results."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite:
        _clear(folder)
    if not (folder / RUN).exists():
        write_json(folder / RUN, {"identity": identity})


def _clear(folder: Path) -> None:
    for path in [*folder.glob("checkpoint-*"), folder / "saving"]:
        if path.is_dir():
            shutil.rmtree(path)
    for name in (RUN, RESULTS):
        (folder / name).unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)


def read_json(path: Path) -> Any | None:
    """What a JSON file holds, or `None` without one. Raises `ValueError` for a damaged one."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, or give another --output_dir") from error
