"""Models for fine-tuning: a backbone with the head of a task, loaded, frozen, adapted or quantised as asked, and saved.

args = TaskModelArguments(model_name_or_path="runs/mlm")
tokenizer = load_tokenizer(args)
model = load_task_model(args, tokenizer, "sequence_classification", num_labels=3)
optimizer = torch.optim.AdamW(optimizer_groups(model, 3e-4, 0.01, layer_lr_decay=0.8))
save_task_model(model, "runs/mnli")                 # loads with AutoModelForSequenceClassification
model = load_saved("runs/mnli")
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GenericForSequenceClassification

from .adapters import AdapterArguments, add_adapter
from .compressed import is_compressed
from .families import FAMILIES
from .optimizer_groups import optimizer_groups
from .pooled_classifier import Pooling, pooled_classifier, stock_pooling
from .presets import Backbone, backbone, list_presets, with_settings
from .quantised import QuantisationArguments, check_quantisable, check_widths, quantisation_config
from .settings import dtype_named, overrides_from
from .task_checkpoints import AUTO_CLASSES, Task, from_checkpoint, is_adapter, load_saved, save_task_model, size_report

__all__ = [
    "TaskModelArguments",
    "load_saved",
    "load_task_model",
    "load_tokenizer",
    "optimizer_groups",
    "save_task_model",
    "size_report",
    "task_modules",
]


@dataclass(kw_only=True)
class TaskModelArguments(AdapterArguments, QuantisationArguments):
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
    pooling: Pooling | None = field(
        default=None,
        metadata={
            "help": "What a sequence's head reads: cls, mean, max or last token. Default: the architecture's own. "
            "Where the stock head cannot, a linear head over the pooled states stands in."
        },
    )
    freeze_backbone: bool = field(
        default=False, metadata={"help": "Linear probe: train the head, and a pooler that has no weights yet, only."}
    )
    layer_lr_decay: float | None = field(
        default=None, metadata={"help": "Factor of the learning rate from each layer to the one below (ELECTRA: 0.8)."}
    )


def load_tokenizer(args: TaskModelArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of the model, or the one named, with a padding token.

    Where there is no padding token, the end token stands in (the attention mask tells padding). XLNet, whose stock head
    reads the last position, is padded on the left. Raises `ValueError` for a preset without a tokenizer, or a tokenizer
    that has neither token.
    """
    model, name = args.model_name_or_path, args.tokenizer_name
    if name is None:
        if model in list_presets():
            raise ValueError(f"{model} is a preset and has no tokenizer; give --tokenizer_name")
        name = model
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"the tokenizer {name} has no padding token, which rows of unlike lengths need")
        tokenizer.pad_token = tokenizer.eos_token
    if model in list_presets():
        kind = FAMILIES[model.rpartition("-")[0]].model_type
    elif is_adapter(model):
        kind = ""  # its tokenizer was saved with the side it was trained with
    else:
        kind = AutoConfig.from_pretrained(model, trust_remote_code=False).model_type
    if kind == "xlnet":
        tokenizer.padding_side = "left"
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
) -> Any:
    """The model with the stock head of the task, frozen, quantised and adapted as `args` says.

    Args:
        args: what to load, and what of it to train.
        tokenizer: gives the ids of special tokens and the size of a preset's vocabulary.
        task: "sequence_classification" or "question_answering" (start and end of the answer).
        num_labels: classes; 1 for a score. Of a checkpoint, its own if `None`.
        problem_type: "single_label_classification", "multi_label_classification" or "regression"; `None` lets
            transformers choose by the labels.
        label_names: names of the classes, saved with the model.
        max_length: most tokens a row will have; virtual tokens come on top.

    Returns: a `PreTrainedModel`, or a `peft.PeftModel` around one, whose own forward has the names of the columns it
    takes (`get_base_model().forward`). `adapters.training_callbacks` has what the method needs of a `Trainer`.

    Raises:
        ValueError: for a backbone that has no head for the task, or cannot be pooled, adapted or quantised as asked,
            and whatever `backbone` refuses.
    """
    if args.peft and args.freeze_backbone:
        raise ValueError("--peft freezes the backbone already; leave --freeze_backbone out")
    if not Path(args.model_name_or_path, "config.json").is_file() and is_adapter(args.model_name_or_path):
        raise ValueError(
            f"{args.model_name_or_path} holds adapters, not a model; merge them first: "
            "merge(load_saved(folder)).save_pretrained(other)"
        )
    parts = backbone(
        args.model_name_or_path,
        tokenizer,
        max_length=None if max_length is None else max_length + args.virtual_tokens,
        attn_implementation=args.attn_implementation,
        dtype=dtype_named(args.torch_dtype),
        **overrides_from(args.config_overrides),
    )
    settings = _head_settings(task, num_labels, problem_type, label_names)
    model_class, pooled = _model_class(parts.config, task, args)
    model, fresh = _load(parts, model_class, settings, pooled, args)
    trained = task_modules(model, fresh)
    if args.peft:
        return add_adapter(model, args, task, trained)
    if args.freeze_backbone:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith(tuple(f"{module}." for module in trained))
    return model


def _model_class(config: PreTrainedConfig, task: Task, args: TaskModelArguments) -> tuple[Any, dict[str, Any]]:
    """The class of the model, and settings of its config that say how it pools."""
    if task not in AUTO_CLASSES:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(AUTO_CLASSES)}")
    stock = AUTO_CLASSES[task]._model_mapping.get(type(config), None)
    if stock is None:
        raise ValueError(
            f"transformers has no {config.model_type} model for {task.replace('_', ' ')}; use another backbone"
        )
    if task == "question_answering":
        if args.pooling:
            raise ValueError("question answering reads every token; leave --pooling out")
        return stock, {}
    pooling = args.pooling or getattr(config, "pooled_classifier", None)
    by_ids = config.model_type == "gpt2" or issubclass(stock, GenericForSequenceClassification)
    if by_ids and args.peft in ("prompt", "p_tuning") and pooling in (None, "last"):
        pooling = "last"  # the stock head finds the last token by its id, and virtual tokens come as embeddings
    elif pooling is None or stock_pooling(config, pooling) is not None:
        return stock, stock_pooling(config, pooling) or {} if pooling else {}
    config = copy.copy(config)
    config.pooled_classifier = pooling
    return pooled_classifier(config), {"pooled_classifier": pooling}


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


def _load(
    parts: Backbone, model_class: Any, settings: dict[str, Any], pooled: dict[str, Any], args: TaskModelArguments
) -> tuple[PreTrainedModel, set[str]]:
    """The model, and the names of its parameters that no checkpoint had."""
    config = with_settings(parts.config, settings)
    for name, value in pooled.items():
        setattr(config, name, value)
    quantise = args.load_in_8bit or args.load_in_4bit
    if parts.checkpoint is None:
        if quantise:
            raise ValueError(
                f"{args.model_name_or_path} is a preset with random weights, which there is no use in quantising; give "
                "a checkpoint"
            )
        model = Backbone(config, None, parts.attn_implementation, parts.dtype).load(model_class)
        return model, {name for name, _ in model.named_parameters()}
    if is_compressed(parts.checkpoint, parts.config):
        raise ValueError(
            f"{parts.checkpoint} holds compressed weights, which cannot be fine-tuned; fine-tune first, then compress"
        )
    options: dict[str, Any] = {"dtype": parts.dtype or torch.float32}
    if parts.attn_implementation is not None:
        options["attn_implementation"] = parts.attn_implementation
    if quantise:
        with torch.device("meta"):
            shell = model_class._from_config(copy.deepcopy(config))
        check_quantisable(shell)
        skip = task_modules(shell, {name for name, _ in shell.named_parameters()})
        options["quantization_config"] = quantisation_config(args, skip)
        check_widths(shell, args.bnb_4bit_quant_type if args.load_in_4bit else "int8", skip)
    model, fresh = from_checkpoint(model_class, parts.checkpoint, config, **options)
    own = tuple(f"{module}." for module in task_modules(model, fresh))
    lost = [name for name in fresh if not name.startswith(own)]
    if lost:
        raise ValueError(
            f"{parts.checkpoint} has no weights for {len(lost)} parameters of the backbone, among them {min(lost)}; it "
            "is incomplete, or of another architecture than its config says"
        )
    return model, fresh


def task_modules(model: PreTrainedModel, fresh: set[str]) -> list[str]:
    """Names of the modules that the task brings: those outside the backbone, and poolers in it that are `fresh`.

    Args:
        model: a stock model with head.
        fresh: names of parameters that were drawn, not loaded.
    """
    base: Any = model.base_model
    # T5's question answering has no module for the backbone as a whole
    backbones = (
        [base] if base is not model else [model.get_encoder(), model.get_decoder(), model.get_input_embeddings()]
    )
    heads = [
        name
        for name, child in model.named_children()
        if all(child is not part for part in backbones) and any(True for _ in child.parameters())
    ]
    poolers = {name.partition(".pooler.")[0] + ".pooler" for name in fresh if ".pooler." in name}
    return heads + sorted(poolers)
