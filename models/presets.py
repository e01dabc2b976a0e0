"""Backbones by name: a preset with random weights ("bert-tiny"), a local folder or a checkpoint of the Hub.

    backbone("bert-tiny", tokenizer).load(AutoModelForMaskedLM)                         random weights
    backbone("FacebookAI/roberta-base", tokenizer).load(AutoModelForMaskedLM)           the Hub's
    backbone("./runs/mlm", tokenizer).load(AutoModelForSequenceClassification, num_labels=3)

A name that holds a slash, or is a folder, is a checkpoint; every other name is a preset.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .families import FAMILIES, Family

_POSITIONS_AFTER_PAD = {family.model_type for family in FAMILIES.values() if family.positions_after_pad}
_HEAD_SETTINGS = {"num_labels", "id2label", "label2id", "problem_type"}  # every config has them, listed or not


@dataclass(frozen=True)
class Backbone:
    """What a model is built from.

    Attributes:
        config: config of the model to build.
        checkpoint: local folder or Hub name the weights come from; `None` for random weights, drawn from torch's
            global generator.
        attn_implementation: "eager", "sdpa", "flash_attention_2", …; `None` lets transformers choose.
        dtype: dtype of the weights; `None` is float32, whatever the checkpoint was saved in.
        quantization_config: for `from_pretrained` (`BitsAndBytesConfig`); `None` leaves the weights as they are.
    """

    config: PreTrainedConfig
    checkpoint: str | None = None
    attn_implementation: str | None = None
    dtype: torch.dtype | None = None
    quantization_config: Any = None

    def load(self, auto_class: Any, **config_overrides: Any) -> PreTrainedModel:
        """A model of `auto_class` (`AutoModelForMaskedLM`, … or a concrete class such as `BertForPreTraining`).

        Each call gives a model with a config of its own. Checkpoints are read from safetensors only, and no code that
        comes with them is run. Raises `ValueError` for a setting the config does not have and what `check` refuses,
        `OSError` if the checkpoint cannot be read.
        """
        self.check(auto_class)
        config = with_settings(self.config, config_overrides)
        options: dict[str, Any] = {"dtype": self.dtype or torch.float32}
        if self.attn_implementation is not None:
            options["attn_implementation"] = self.attn_implementation
        if self.checkpoint is not None:
            if self.quantization_config is not None:
                options["quantization_config"] = self.quantization_config
            return auto_class.from_pretrained(
                self.checkpoint, config=config, use_safetensors=True, trust_remote_code=False, **options
            )
        build = getattr(auto_class, "from_config", None) or auto_class._from_config
        return build(config, **options)

    def check(self, auto_class: Any) -> None:
        """Raise `ValueError`, with the presets that would do, if the family has no model of `auto_class`."""
        known = getattr(auto_class, "_model_mapping", None)
        if known is None or type(self.config) in known:
            return
        fitting = [name for name, family in FAMILIES.items() if CONFIG_MAPPING[family.model_type] in known]
        raise ValueError(
            f"{self.checkpoint or 'the preset'} is of the family {self.config.model_type}, of which transformers has "
            f"no {auto_class.__name__}; take another objective, or a model of a family that has one, such as "
            f"{', '.join(f'{name}-{next(iter(FAMILIES[name].sizes))}' for name in fitting)}"
        )


def list_presets() -> list[str]:
    """Names of all presets, family by family, small to large."""
    return [f"{name}-{size}" for name, family in FAMILIES.items() for size in family.sizes]


def backbone(
    name_or_path: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    attn_implementation: str | None = None,
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> Backbone:
    """The backbone of this name, its config fitted to the tokenizer and to rows of `max_length` tokens.

    Args:
        name_or_path: a preset (`list_presets()`), a local folder, or "owner/name" on the Hub.
        tokenizer: gives the ids of special tokens and the size of a preset's vocabulary (largest id + 1).
        max_length: most tokens a row will have, special tokens included. A preset's table of positions grows to hold
            them; it is never smaller than published.
        attn_implementation, dtype: see `Backbone`.
        overrides: settings of the config, by its own names or by the common ones (`num_hidden_layers`). A larger
            `vocab_size` than the tokenizer's pads a preset's vocabulary.

    Raises:
        ValueError: unknown preset or setting (with the nearest known ones), a vocabulary or positions too small for
            tokenizer or `max_length`, or special tokens missing that the architecture needs.
    """
    if "/" in name_or_path or (name_or_path not in list_presets() and Path(name_or_path).is_dir()):
        checkpoint = name_or_path
        config = with_settings(AutoConfig.from_pretrained(checkpoint, trust_remote_code=False), overrides)
        _check_checkpoint(checkpoint, config, tokenizer, max_length, resized="max_position_embeddings" in overrides)
        _set(config, _special_ids(config, tokenizer, keep=True))
        return Backbone(config, checkpoint, attn_implementation, dtype)
    config = _preset_config(name_or_path, tokenizer, max_length, overrides)
    return Backbone(config, None, attn_implementation, dtype)


def with_settings(config: PreTrainedConfig, settings: dict[str, Any]) -> PreTrainedConfig:
    """A copy of the config with these settings. Raises `ValueError` for one it does not have, with the nearest."""
    config = copy.deepcopy(config)
    _set(config, _known(config, settings))
    return config


def _set(config: PreTrainedConfig, settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        setattr(config, key, value)


def _known(config: PreTrainedConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings by the config's own names (`n_layer` for GPT-2's `num_hidden_layers`)."""
    own = {key for key in config.to_dict() if not key.startswith("_")} - {"model_type", "transformers_version"}
    names = own | set(config.attribute_map) | _HEAD_SETTINGS
    for key in settings:
        if key not in names:
            raise ValueError(f"{config.model_type} has no setting {key!r}; {_nearest(key, names)}")
    return {config.attribute_map.get(key, key): value for key, value in settings.items()}


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(sorted(known))}"


def _vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    return max(tokenizer.get_vocab().values()) + 1


def _special_ids(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, keep: bool) -> dict[str, int | None]:
    """Ids of special tokens that the config has a place for; `keep`: leave those that the tokenizer lacks alone."""
    ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")}
    for one, other in (("bos", "cls"), ("eos", "sep")):
        found = {one: ids[one] if ids[one] is not None else ids[other]}
        found[other] = ids[other] if ids[other] is not None else ids[one]
        ids |= found
    entries = config.to_dict()
    return {
        f"{name}_token_id": value
        for name, value in ids.items()
        if f"{name}_token_id" in entries and not (keep and value is None)
    }


def _preset_config(
    name: str, tokenizer: PreTrainedTokenizerBase, max_length: int | None, overrides: dict[str, Any]
) -> PreTrainedConfig:
    family, size = _find(name)
    published = AutoConfig.for_model(family.model_type, **family.common, **size)
    needed = _vocabulary_size(tokenizer)
    ids = _special_ids(published, tokenizer, keep=False)
    if ids.get("pad_token_id") is None and (family.positions_after_pad or family.decoder_start == "pad"):
        raise ValueError(
            f"{name} needs a padding token and the tokenizer has none; "
            'add one: tokenizer.add_special_tokens({"pad_token": "<pad>"})'
        )
    if family.decoder_start:
        start = ids.get(f"{family.decoder_start}_token_id")
        if start is None:
            raise ValueError(
                f"{name} begins its output with the end token and the tokenizer has none; "
                'add one: tokenizer.add_special_tokens({"eos_token": "</s>"})'
            )
        ids["decoder_start_token_id"] = start
    if "forced_eos_token_id" in published.to_dict():
        ids["forced_eos_token_id"] = ids["eos_token_id"]
    positions = _position_rows(published, max_length, ids.get("pad_token_id"))
    # Built anew rather than changed in place: configs derive entries (layer types, head sizes) from others.
    settings = family.common | size | {"vocab_size": needed} | ids | positions | _known(published, overrides)
    if settings["vocab_size"] < needed:
        raise ValueError(
            f"vocab_size {settings['vocab_size']} is too small: the tokenizer's ids go up to {needed - 1}; "
            f"leave vocab_size out or give at least {needed}"
        )
    config = AutoConfig.for_model(family.model_type, **settings)
    _check_positions(name, config, max_length, fix=f"or leave max_position_embeddings out, which makes {name} fit")
    return config


def _find(name: str) -> tuple[Family, dict[str, Any]]:
    for prefix, family in FAMILIES.items():
        size = name.removeprefix(f"{prefix}-")
        if size != name and size in family.sizes:
            return family, family.sizes[size]
    raise ValueError(
        f"unknown preset {name!r}; {_nearest(name, list_presets())} "
        "A checkpoint is given as a folder (./name) or by its full name on the Hub (owner/name)."
    )


def _positions(config: PreTrainedConfig) -> tuple[str, int | None]:
    """Name and value of the setting for the longest row; `None` where the architecture has no such limit."""
    name = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    return name, config.to_dict().get(name)  # XLNet has a property of this name, -1


def _position_rows(config: PreTrainedConfig, max_length: int | None, pad_id: int | None) -> dict[str, int]:
    """Size of a preset's table of positions; empty for architectures without such a setting."""
    name, rows = _positions(config)
    if rows is None:
        return {}
    rows = max(rows, max_length or 0)
    if config.model_type in _POSITIONS_AFTER_PAD:
        assert pad_id is not None
        rows += pad_id + 1
    return {name: rows}


def max_row_length(config: PreTrainedConfig) -> int | None:
    """Longest row, in tokens, that the config has positions for; `None` without a limit."""
    rows = _positions(config)[1]
    if rows is not None and config.model_type in _POSITIONS_AFTER_PAD and config.pad_token_id is not None:
        rows -= config.pad_token_id + 1
    return rows


def _check_positions(name: str, config: PreTrainedConfig, max_length: int | None, fix: str) -> None:
    capacity = max_row_length(config)
    if max_length is not None and capacity is not None and capacity < max_length:
        raise ValueError(
            f"{name} has positions for {capacity} tokens (max_position_embeddings={config.max_position_embeddings}), "
            f"and rows have up to {max_length}; use max_length={capacity} or less, {fix}"
        )


def _check_checkpoint(
    checkpoint: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int | None, resized: bool
) -> None:
    needed = _vocabulary_size(tokenizer)
    if config.vocab_size < needed:
        raise ValueError(
            f"{checkpoint} has embeddings for {config.vocab_size} tokens, and the tokenizer's ids go up to "
            f"{needed - 1}: it is another model's tokenizer, or tokens were added to it. Use the checkpoint's own "
            f"tokenizer, or extend the checkpoint first (model.resize_token_embeddings({needed}), "
            "model.save_pretrained) and give the extended one"
        )
    pad_id = tokenizer.pad_token_id
    if config.model_type in _POSITIONS_AFTER_PAD and pad_id is not None and pad_id != config.pad_token_id:
        raise ValueError(
            f"{checkpoint} counts positions from its padding id {config.pad_token_id}, the tokenizer's is {pad_id}: "
            "every position would be off; use the checkpoint's own tokenizer, or one with the same padding id"
        )
    if not resized:
        fix = (
            "or a checkpoint with more positions (max_position_embeddings=… lifts the limit of relative or rotary ones)"
        )
        _check_positions(checkpoint, config, max_length, fix)
