"""Models for fine-tuning: a backbone with the head of a task, loaded, frozen, adapted or quantised as asked, and saved.

args = TaskModelArguments(model_name_or_path="runs/mlm")
tokenizer = load_tokenizer(args)
model = load_task_model(args, tokenizer, "sequence_classification", num_labels=3)
optimizer = torch.optim.AdamW(optimizer_groups(model, 3e-4, 0.01, layer_lr_decay=0.8))
save_task_model(model, "runs/mnli")                 # loads with AutoModelForSequenceClassification
model = load_saved("runs/mnli")
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .presets import Backbone, backbone, list_presets, with_settings
from .settings import dtype_named, overrides_from

Task = Literal["sequence_classification", "question_answering"]
AUTO_CLASSES: dict[str, Any] = {
    "sequence_classification": AutoModelForSequenceClassification,
    "question_answering": AutoModelForQuestionAnswering,
}


@dataclass(kw_only=True)
class TaskModelArguments:
    """Which model is fine-tuned, and how much of it; an argument group for `HfArgumentParser`."""

    model_name_or_path: str = field(
        metadata={"help": "A local folder, a model of the Hub (owner/name) or a preset (bert-tiny, random weights)."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Folder or Hub name. Default: the model's; a preset needs one."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa, flash_attention_2, … (default: transformers chooses)."}
    )
    torch_dtype: str | None = field(
        default=None, metadata={"help": "Type of the weights: float32 (default), bfloat16 or float16."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "Settings of the model's config: classifier_dropout=0.1,attention_dropout=0."}
    )
    freeze_backbone: bool = field(
        default=False, metadata={"help": "Linear probe: train the head, and a pooler that has no weights yet, only."}
    )
    layer_lr_decay: float | None = field(
        default=None, metadata={"help": "Factor of the learning rate from each layer to the one below (ELECTRA: 0.8)."}
    )


def load_tokenizer(args: TaskModelArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of the model, or the one named, with a padding token.

    Where there is no padding token, the end token stands in (the attention mask tells padding). Raises `ValueError` for
    a preset without a tokenizer, or a tokenizer that has neither token.
    """
    name = args.tokenizer_name
    if name is None:
        if args.model_name_or_path in list_presets():
            raise ValueError(f"{args.model_name_or_path} is a preset and has no tokenizer; give --tokenizer_name")
        name = args.model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"the tokenizer {name} has no padding token, which batches of unlike lengths need")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_task_model(
    args: TaskModelArguments,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    num_labels: int | None = None,
    problem_type: str | None = None,
    label_names: list[str] | None = None,
    max_length: int | None = None,
) -> PreTrainedModel:
    """The model with the stock head of the task.

    Args:
        args: what to load, and what of it to train.
        tokenizer: gives the ids of special tokens and the size of a preset's vocabulary.
        task: "sequence_classification" or "question_answering" (start and end of the answer).
        num_labels: classes; 1 for a score. Of a checkpoint, its own if `None`.
        problem_type: "single_label_classification", "multi_label_classification" or "regression"; `None` lets
            transformers choose by the labels.
        label_names: names of the classes, saved with the model.
        max_length: most tokens a row will have.

    Raises:
        ValueError: for a backbone that has no head for the task, and whatever `backbone` refuses.
    """
    parts = backbone(
        args.model_name_or_path,
        tokenizer,
        max_length=max_length,
        attn_implementation=args.attn_implementation,
        dtype=dtype_named(args.torch_dtype),
        **overrides_from(args.config_overrides),
    )
    _check_task(parts.config, task)
    settings = _head_settings(task, num_labels, problem_type, label_names)
    model, fresh = _load(parts, AUTO_CLASSES[task], settings)
    if args.freeze_backbone:
        trained = task_modules(model, fresh)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = any(name.startswith(f"{module}.") for module in trained)
    return model


def _check_task(config: PreTrainedConfig, task: Task) -> None:
    if task not in AUTO_CLASSES:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(AUTO_CLASSES)}")
    if type(config) not in AUTO_CLASSES[task]._model_mapping:
        raise ValueError(
            f"transformers has no {config.model_type} model for {task.replace('_', ' ')}; use another backbone"
        )


def _head_settings(
    task: Task, num_labels: int | None, problem_type: str | None, label_names: list[str] | None
) -> dict[str, Any]:
    if task == "question_answering":
        if num_labels not in (None, 2) or label_names or problem_type:
            raise ValueError("question answering has two outputs per token, start and end, and no labels to be named")
        return {"num_labels": 2}
    settings: dict[str, Any] = {}
    if label_names is not None:
        if num_labels not in (None, len(label_names)):
            raise ValueError(f"num_labels is {num_labels}, and there are {len(label_names)} label names")
        settings["id2label"] = dict(enumerate(label_names))
        settings["label2id"] = {name: i for i, name in enumerate(label_names)}
    elif num_labels is not None:
        settings["num_labels"] = num_labels
    return settings | ({"problem_type": problem_type} if problem_type else {})


def _load(parts: Backbone, auto_class: Any, settings: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    """The model, and names of its parameters that no checkpoint had."""
    if parts.checkpoint is None:
        model = parts.load(auto_class, **settings)
        return model, {name for name, _ in model.named_parameters()}
    options: dict[str, Any] = {"dtype": parts.dtype or torch.float32}
    if parts.attn_implementation is not None:
        options["attn_implementation"] = parts.attn_implementation
    model, report = auto_class.from_pretrained(
        parts.checkpoint,
        config=with_settings(parts.config, settings),
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # a head for other labels is replaced
        output_loading_info=True,
        **options,
    )
    fresh = set(report["missing_keys"]) | {key[0] for key in report["mismatched_keys"]}
    heads = task_modules(model, set())
    lost = [name for name in fresh if not name.startswith(tuple(f"{head}." for head in heads)) and "pooler" not in name]
    if lost:
        raise ValueError(
            f"{parts.checkpoint} has no weights for {len(lost)} parameters of its backbone, among them {min(lost)}; "
            "it is incomplete, or of another architecture than its config says"
        )
    return model, fresh


def task_modules(model: PreTrainedModel, fresh: set[str]) -> list[str]:
    """Names of the modules that the task brings: heads outside the backbone, and a pooler in it that is `fresh`."""
    base: Any = model.base_model
    backbone_parts = (model.get_encoder(), model.get_decoder(), model.get_input_embeddings()) if base is model else ()
    heads = [
        name
        for name, child in model.named_children()
        if child is not base
        and all(child is not part for part in backbone_parts)
        and any(True for _ in child.parameters())
    ]
    poolers = {name.rpartition(".pooler.")[0] + ".pooler" for name in fresh if ".pooler." in name}
    return heads + sorted(poolers)


def optimizer_groups(
    model: torch.nn.Module, learning_rate: float, weight_decay: float, layer_lr_decay: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: no weight decay on biases and norms."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim < 2 or name.endswith("bias") else weight_decay
            groups.setdefault(decay, []).append(parameter)
    return [{"params": params, "lr": learning_rate, "weight_decay": decay} for decay, params in groups.items()]


def save_task_model(model: PreTrainedModel, folder: str | Path) -> None:
    """Write the model to a folder, in safetensors."""
    model.save_pretrained(folder)


def load_saved(folder: str | Path, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model that `save_task_model` wrote, in evaluation mode."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    task = "question_answering" if "QuestionAnswering" in config.architectures[0] else "sequence_classification"
    model = AUTO_CLASSES[task].from_pretrained(
        folder, config=config, use_safetensors=True, trust_remote_code=False, dtype=dtype or torch.float32
    )
    return model.eval()


def size_report(model: torch.nn.Module) -> dict[str, int]:
    """Sizes: parameters that are trained and all, bytes of weights in memory and of those that are saved."""
    weights = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    held = sum(t.numel() * t.element_size() for t in weights.values())
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "total": sum(p.numel() for p in model.parameters()),
        "memory_bytes": held,
        "saved_bytes": held,
    }
