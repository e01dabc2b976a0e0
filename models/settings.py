"""Settings of models as they are written on a command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils.hub import cached_file, is_offline_mode


def check_checkpoint(name: str, role: str) -> None:
    """Raise `ValueError` for a name that is no folder and cannot be a model of the Hub.

    That is one that is not written owner/name or, offline (`HF_HUB_OFFLINE=1`), one that was never fetched.
    """
    if Path(name).is_dir():
        return
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise ValueError(f"{role}: there is no folder {name!r}; a model of the Hub is written owner/name")
    if is_offline_mode() and not _fetched(name):
        raise ValueError(
            f"{role}: there is no folder {name!r} (in {Path.cwd()}), and no model of that name was fetched from the "
            "Hub, which HF_HUB_OFFLINE=1 keeps out of reach"
        )


def _fetched(name: str) -> bool:
    for file in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        try:
            cached_file(name, file, local_files_only=True)
            return True
        except OSError:
            pass
    return False


def dtype_named(name: str | None) -> torch.dtype | None:
    """torch's type of this name; `None` for none. Raises `ValueError` for a name that no weights are kept in."""
    if name is None:
        return None
    if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--torch_dtype must be float32, bfloat16 or float16, not {name!r}")
    return getattr(torch, name)


def overrides_from(text: str | None, flag: str = "--config_overrides") -> dict[str, Any]:
    """`hidden_size=256,num_hidden_layers=4`, or a JSON object, as a dictionary; values are read as YAML.

    Raises `ValueError` for malformed ones.
    """
    text = text or ""
    if text.startswith("{"):
        return json.loads(text)
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ValueError(f"{flag} must read name=value,name=value, not {text!r}")
    return {name.strip(): yaml.safe_load(value) for name, _, value in pairs}
