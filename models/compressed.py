"""Checkpoints that `Auto…` classes cannot load, because no config says what was done: int8 layers, fewer heads.

save_compressed(model, "runs/small")          a plain checkpoint where that is possible
model = load_compressed("runs/small")         either kind

A plain checkpoint is what `save_pretrained` writes. Another has config.json, its tensors in `WEIGHTS`, a safetensors
file of another name, so that `Auto…` classes refuse the folder rather than read it wrongly, and `NOTE` beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

from .int8_linear import Int8Linear
from .pruning import HEADS, head_groups, set_head_attributes

WEIGHTS = "compressed.safetensors"
NOTE = "compression.json"


def is_compressed(checkpoint: str | Path | None, config: Any = None) -> bool:
    """Whether a checkpoint's weights cannot be trained: made here (`NOTE`), or quantised, as its config says."""
    noted = checkpoint is not None and Path(checkpoint, NOTE).is_file()
    return noted or bool(getattr(config, "quantization_config", None))


def save_compressed(model: PreTrainedModel, folder: str | Path) -> bool:
    """Write the model; returns whether it is a plain checkpoint, which `Auto…` classes load."""
    int8 = [name for name, module in model.named_modules() if isinstance(module, Int8Linear)]
    heads = _heads(model)
    if not int8 and heads is None:
        model.save_pretrained(folder)
        return True
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tensors, seen = {}, set()
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen:  # what is tied is written once
            seen.add(id(value))
            tensors[name] = value.detach().contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / NOTE).write_text(json.dumps({"architecture": type(model).__name__, "heads": heads, "int8": int8}))
    return False


def load_compressed(folder: str | Path) -> PreTrainedModel:
    """The model of a folder that `save_compressed` wrote, in eval mode. Nothing in it is executed.

    Raises `ValueError` for a folder that is no checkpoint, or whose files do not belong together.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no checkpoint: it has no config.json")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not (folder / NOTE).is_file():
        return _architecture(config.architectures).from_pretrained(folder, use_safetensors=True).eval()
    note = json.loads((folder / NOTE).read_text())
    model = _architecture([note["architecture"]])(config)
    tensors = load_file(folder / WEIGHTS)
    if note["heads"] is not None:
        for group in head_groups(model):
            group.keep(torch.arange(note["heads"]))
        set_head_attributes(model, note["heads"])
    for name in note["int8"]:
        parent, _, last = name.rpartition(".")
        rows, columns = tensors[f"{name}.weight"].shape
        setattr(model.get_submodule(parent), last, Int8Linear(columns, rows, f"{name}.bias" in tensors))
    tied = {id(v) for k, v in model.state_dict(keep_vars=True).items() if k in tensors}
    report = model.load_state_dict(tensors, strict=False)
    state = model.state_dict(keep_vars=True)
    missing = [name for name in report.missing_keys if id(state[name]) not in tied]
    if missing or report.unexpected_keys:
        raise ValueError(
            f"{folder}: {WEIGHTS} does not fit {NOTE}: {', '.join([*missing, *report.unexpected_keys][:3])}"
        )
    return model.eval()


def _heads(model: PreTrainedModel) -> int | None:
    """Heads in each layer, if they are fewer than the config says."""
    if model.config.model_type not in HEADS:
        return None
    left = {group.count for group in head_groups(model)} - {model.config.num_attention_heads}
    return left.pop() if left else None


def _architecture(names: list[str] | None) -> type[PreTrainedModel]:
    found = getattr(transformers, (names or [""])[0], None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ValueError(f"the config names no architecture of transformers: {names}")
    return found
