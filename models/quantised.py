"""Backbones whose weights are held in 8 or 4 bits (bitsandbytes), to be used as they are or trained through adapters.

int8: Dettmers et al. 2022, "LLM.int8()". NF4 with double quantisation: Dettmers et al. 2023, "QLoRA". The task's heads
stay in full precision, since they are trained. Works on GPUs and, more slowly, on CPUs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .settings import dtype_named

BITSANDBYTES = ("int8", "nf4", "fp4")
"""Kinds of weights that bitsandbytes has."""
TASK_HEADS = ["classifier", "pre_classifier", "pooler", "score", "head", "classification_head", "logits_proj"]
"""Names of modules above the body of a classifier: small, and of sizes that 4-bit kernels do not take."""
_PLAIN = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d)
"""Modules that hold matrices in the open: the first two are quantised, the others are kept."""


@dataclass
class QuantisationArguments:
    """How the backbone's weights are held; an argument group for `HfArgumentParser`."""

    load_in_8bit: bool = field(default=False, metadata={"help": "Hold the backbone's weights in int8."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Hold the backbone's weights in 4 bits (QLoRA)."})
    bnb_4bit_quant_type: str = field(default="nf4", metadata={"help": "4-bit type: nf4 or fp4."})
    bnb_4bit_use_double_quant: bool = field(default=True, metadata={"help": "Quantise the 4-bit scales too."})
    bnb_4bit_compute_dtype: str | None = field(
        default=None,
        metadata={
            "help": "Type that 4-bit weights are computed in. Default: bfloat16 on GPUs that have it, else float32."
        },
    )


def check_trainable(args: Any) -> None:
    """Raise `ValueError` if the weights are to be quantised and nothing is put beside them that can be trained."""
    if (args.load_in_8bit or args.load_in_4bit) and not args.peft:
        flag = "--load_in_4bit" if args.load_in_4bit else "--load_in_8bit"
        raise ValueError(f"{flag}: quantised weights cannot be trained; train adapters beside them: --peft lora")


def quantisation_config(args: QuantisationArguments, skip: list[str] | None) -> BitsAndBytesConfig | None:
    """What `from_pretrained` takes as `quantization_config`; `None` if nothing is to be quantised.

    Args:
        args: 8 or 4 bits, and details.
        skip: modules that are kept in full precision; `None`: the output embeddings are.

    Raises `ValueError` for both widths at once or an unknown 4-bit type, `ImportError` without bitsandbytes.
    """
    if not (args.load_in_8bit or args.load_in_4bit):
        return None
    if args.load_in_8bit and args.load_in_4bit:
        raise ValueError("--load_in_8bit and --load_in_4bit exclude each other; give one")
    if args.bnb_4bit_quant_type not in ("nf4", "fp4"):
        raise ValueError(f"--bnb_4bit_quant_type must be nf4 or fp4, not {args.bnb_4bit_quant_type!r}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError("quantisation needs bitsandbytes: pip install 'pretrain-zoo[finetune]'") from error
    return BitsAndBytesConfig(
        load_in_8bit=args.load_in_8bit,
        load_in_4bit=args.load_in_4bit,
        bnb_4bit_quant_type=args.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=args.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=dtype_named(args.bnb_4bit_compute_dtype) or _compute_dtype(),
        llm_int8_skip_modules=skip,
    )


def bitsandbytes_config(kind: str, skip: list[str] | None = None) -> BitsAndBytesConfig:
    """The config that loads a checkpoint with "int8", "nf4" or "fp4" weights, each scale held as it is.

    `skip` names modules that keep their weights; `None`: the output embeddings do. Raises `ValueError` for another
    kind, `ImportError` where bitsandbytes is not installed.
    """
    if kind not in BITSANDBYTES:
        raise ValueError(f"bitsandbytes has weights in {', '.join(BITSANDBYTES)}, not {kind!r}")
    args = QuantisationArguments(load_in_8bit=kind == "int8", load_in_4bit=kind != "int8")
    if kind != "int8":
        args.bnb_4bit_quant_type, args.bnb_4bit_use_double_quant = kind, False
    config = quantisation_config(args, skip)
    assert config is not None
    return config


def _compute_dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32


def check_quantisable(model: PreTrainedModel) -> None:
    """Raise `ValueError` for a model with weights that quantisation would miss; it may be on the meta device.

    Only `Linear` and GPT-2's `Conv1D` are quantised. XLNet's attention and the experts of mixtures hold their matrices
    as bare parameters.
    """
    missed: dict[str, int] = {}
    for module in model.modules():
        if not isinstance(module, _PLAIN):
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim >= 2 and "bias" not in name:
                    kind = f"{type(module).__name__}.{name}"
                    missed[kind] = missed.get(kind, 0) + parameter.numel()
    total = sum(p.numel() for p in model.parameters())
    if sum(missed.values()) > 0.05 * total:
        raise ValueError(
            f"{model.config.model_type} cannot be quantised: {sum(missed.values()) / total:.0%} of its weights are "
            f"bare parameters ({', '.join(sorted(missed, key=lambda k: -missed[k])[:3])}), which bitsandbytes "
            "does not see; use another backbone, or --peft without --load_in_8bit and --load_in_4bit"
        )


def check_widths(model: PreTrainedModel, kind: str, skip: list[str] | None = None) -> None:
    """Raise `ValueError` for layers whose 4-bit weights this machine would not give back.

    On CPUs, bitsandbytes 0.50 reads matrices of some widths that are no multiple of 64 with an error of 20 % and more
    where NF4's is 9 %. A matrix of each width is tried.

    Args:
        model: what is to be quantised, or is.
        kind: "nf4" or "fp4"; others pass.
        skip: modules that are kept in full precision.
    """
    if kind not in ("nf4", "fp4") or torch.cuda.is_available():
        return
    kept = tuple(f"{name}." for name in skip or [])
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and not f"{name}.".startswith(kept)
    ]
    quantised = [module for module in layers if type(module).__name__ == "Linear4bit"]
    for width in sorted({_width(module) for module in quantised or layers}):
        if _error_of_4_bits(width, kind) > 0.15:
            raise ValueError(
                f"bitsandbytes misreads 4-bit matrices {width} wide on this CPU; take int8 weights, a GPU, or a "
                "backbone whose widths are multiples of 64"
            )


def _width(module: nn.Module) -> int:
    return module.weight.shape[0] if isinstance(module, Conv1D) else int(module.in_features)  # type: ignore[arg-type]


@lru_cache
def _error_of_4_bits(width: int, quant_type: str) -> float:
    """Relative error of normal weights after a round trip."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    found = dequantize_4bit(*quantize_4bit(weight, quant_type=quant_type, blocksize=64))
    return float((found - weight).norm() / weight.norm())


def settle(model: PreTrainedModel) -> None:
    """Have 4-bit weights on a CPU stay as they were read, whatever is computed with them.

    On CPUs with AVX512-BF16, bitsandbytes repacks them at the first pass in evaluation mode, with coarser scales, for a
    kernel that has no gradient: training after an evaluation would then go wrong in silence. Its message for each
    product of 8-bit weights with float32 inputs goes too.
    """
    import bitsandbytes

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def is_quantised(model: Any) -> bool:
    """Whether the model, or what a PEFT model wraps, holds quantised weights."""
    stock = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bool(getattr(stock, "is_quantized", False))
