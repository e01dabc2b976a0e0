"""Fine-tuned models on disk: plain checkpoints, or adapters beside the config of the task."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from .adapters import load_adapter, save_adapter, without_adapter
from .masked_positions import stock_model
from .pooled_classifier import pooled_classifier
from .quantised import is_quantised, settle

Task = Literal["sequence_classification", "question_answering"]
AUTO_CLASSES: dict[str, Any] = {
    "sequence_classification": AutoModelForSequenceClassification,
    "question_answering": AutoModelForQuestionAnswering,
}
TASK_CONFIG = "task_config.json"
"""Config of the adapted model, beside its adapters; not `config.json`, which would say that the weights are there."""
BASE = "base"
"""Folder of the frozen weights beside the adapters, where no checkpoint has them."""


def from_checkpoint(
    model_class: Any, source: str, config: PreTrainedConfig, **options: Any
) -> tuple[PreTrainedModel, set[str]]:
    """`from_pretrained`, and the names of the parameters that were drawn, for the checkpoint has none that fit.

    Classes that call their backbone otherwise than the family's other models (LLaMA's for question answering) find its
    weights too; by itself `from_pretrained` would draw them all anew.
    """
    base_class: Any = AutoModel._model_mapping[type(config)]
    usual, own = base_class.base_model_prefix, model_class.base_model_prefix
    renamed = {rf"^{usual}\.": f"{own}."} if usual and usual != own else None
    model, report = model_class.from_pretrained(
        source,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # a head for other labels gives way to a new one
        key_mapping=renamed,
        **options,
    )
    if renamed:
        model._weight_conversions = None  # else saving renames them back, and the class does not find them again
    if is_quantised(model):
        settle(model)
    return model, set(report["missing_keys"]) | {key[0] for key in report["mismatched_keys"]}


def is_adapter(folder: str | Path) -> bool:
    """Whether the folder holds adapters rather than a model."""
    return Path(folder, "adapter_config.json").is_file()


def save_task_model(model: Any, folder: str | Path) -> None:
    """Write the model to a folder, in safetensors.

    A plain model loads with `AutoModelForSequenceClassification` or `AutoModelForQuestionAnswering` (a pooling that the
    stock head has not: with `load_saved`, and the backbone with `AutoModel`). Of an adapted one the adapters and the
    task's modules are written, in peft's layout, with the config of the task, and the frozen weights only if no
    checkpoint has them.
    """
    folder = Path(folder)
    if not hasattr(model, "peft_config"):
        model.save_pretrained(folder)
        return
    save_adapter(model, folder)
    stock = stock_model(model)
    config = copy.deepcopy(stock.config)
    config.architectures = [type(stock).__name__]
    config.to_json_file(folder / TASK_CONFIG)
    if model.active_peft_config.base_model_name_or_path is None:
        without_adapter(model).save_pretrained(folder / BASE)


def load_saved(folder: str | Path, *, quantised: bool = True, dtype: torch.dtype | None = None) -> Any:
    """The model that `save_task_model` wrote, in evaluation mode.

    Args:
        folder: where it is.
        quantised: whether weights that were quantised in training are so again; otherwise adapters are put on the
            checkpoint as it is.
        dtype: of the weights; float32 if `None`.

    Raises `OSError` for a folder that holds no model, or if the checkpoint that adapters refer to is gone, `ValueError`
    for one that lacks weights.
    """
    folder = Path(folder)
    adapted = is_adapter(folder)
    config = AutoConfig.from_pretrained(folder / TASK_CONFIG if adapted else folder, trust_remote_code=False)
    options: dict[str, Any] = {"dtype": dtype or torch.float32}
    source = str(folder)
    if adapted:
        import peft

        base = peft.PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
        source = str(folder / BASE) if base is None else base
        quantisation = config.__dict__.pop("quantization_config", None)
        if quantisation is not None and quantised:
            if isinstance(quantisation, dict):
                quantisation = BitsAndBytesConfig.from_dict(quantisation)
            options["quantization_config"] = quantisation
    name = (config.architectures or [""])[0]
    task = "question_answering" if "QuestionAnswering" in name else "sequence_classification"
    model_class = AUTO_CLASSES[task]._model_mapping[type(config)]
    if getattr(config, "pooled_classifier", None):
        model_class = pooled_classifier(config)
    model, drawn = from_checkpoint(model_class, source, config, **options)
    if drawn and not adapted:
        raise ValueError(f"{folder} has no weights for {min(drawn)} ({len(drawn)} in all): it is not a whole model")
    return load_adapter(model, folder) if adapted else model.eval()


def size_report(model: Any) -> dict[str, int]:
    """Sizes of a model: "trainable" and "total" parameters, "memory_bytes" of its weights and "saved_bytes".

    The weights of a 4-bit model count with their scales. Of an adapted one, adapters and the task's modules are saved.
    """
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    held = sum(_nbytes(t) for t in tensors.values())
    saved = held
    if hasattr(model, "peft_config"):
        import peft

        state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
        saved = sum(t.numel() * t.element_size() for t in state.values())
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total": sum(_elements(p) for p in model.parameters()),
        "memory_bytes": held,
        "saved_bytes": saved,
    }


def _elements(parameter: torch.Tensor) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _nbytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor and of what bitsandbytes keeps beside it."""
    state = getattr(tensor, "quant_state", None)
    scales = [getattr(tensor, "SCB", None)]
    while state is not None:
        scales += [state.absmax, state.code]
        state = state.state2
    return sum(t.numel() * t.element_size() for t in (tensor, *scales) if t is not None)
