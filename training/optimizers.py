"""Optimizers that `Trainer` does not make from its arguments: LAMB, and Adafactor as T5 was trained with it."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from transformers import Adafactor, TrainingArguments

from ..models.settings import overrides_from
from .lamb import LAMB, Lamb

ADAFACTOR = "adafactor"
ADAFACTOR_SETTINGS = {"scale_parameter": bool, "clip_threshold": float, "decay_rate": float, "beta1": float}
"""What `--optim_args` may say of Adafactor, and of which type."""


def own_optimizer(args: TrainingArguments) -> tuple[type[Optimizer], dict[str, Any]] | None:
    """Class and settings of LAMB, and of Adafactor with `--optim_args`; `None` for what `Trainer` makes itself.

    `Trainer` leaves out Adafactor's scaling of updates by the size of each tensor, and drops its `--optim_args`. T5 and
    its relatives were trained with it, at a rate of 0.01 (arXiv 1910.10683, section 3.1.2): one rate suits neither
    their embeddings, of size 1, nor their queries, of 1/√(d_model · d_kv).

    Raises `ValueError` for settings that neither has.
    """
    rate: dict[str, Any] = {"lr": args.learning_rate}
    if args.optim == LAMB:
        if args.optim_args:
            raise ValueError(
                "--optim_args: lamb takes none (--optim_args= leaves out a recipe's); its settings are adam_beta1, "
                "adam_beta2 and adam_epsilon"
            )
        return Lamb, rate | {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    if args.optim == ADAFACTOR and args.optim_args:
        rate |= {"scale_parameter": False, "relative_step": False}
        return Adafactor, rate | adafactor_settings(args.optim_args)
    return None


def adafactor_settings(text: str) -> dict[str, Any]:
    """`scale_parameter=true,clip_threshold=1.0` as a dictionary. Raises `ValueError` for unknown settings."""
    settings = overrides_from(text, "--optim_args")
    for name, value in settings.items():
        kind = ADAFACTOR_SETTINGS.get(name)
        if kind is None:
            raise ValueError(f"--optim_args: adafactor takes {', '.join(ADAFACTOR_SETTINGS)}, not {name!r}")
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, (bool, int, float)):
            raise ValueError(f"--optim_args: {name} must be {'true or false' if kind is bool else 'a number'}")
    return settings


def refuse_shards(args: TrainingArguments, flattened: bool) -> None:
    """Raise `ValueError` for an optimizer that cannot train a model in shards.

    Args:
        flattened: whether the shards are of tensors laid end to end (DeepSpeed, FSDP1), or of single ones (FSDP2).
    """
    own = own_optimizer(args)
    if flattened and own is not None and (own[0] is Lamb or own[1]["scale_parameter"]):
        name = LAMB if own[0] is Lamb else ADAFACTOR
        raise ValueError(
            f"--optim {name} measures weight matrices, which DeepSpeed and FSDP1 flatten; use FSDP2 with --optim lamb, "
            "or --optim adamw_torch"
        )
    if args.optim == ADAFACTOR and not flattened:
        raise ValueError("--optim adafactor does not know FSDP2's sharded tensors; use --optim lamb or adamw_torch")
