"""Parameter-efficient training through peft: what each method trains in each family, and what a family cannot do.

    method    trains, beside the task's head                        paper
    lora      low-rank updates of attention's matrices              Hu et al. 2021
    dora      the same, direction and magnitude apart               Liu et al. 2024
    adalora   low-rank updates, ranks shared out by importance      Zhang et al. 2023
    ia3       factors of keys, values and feed-forward activations  Liu et al. 2022
    prompt    embeddings of virtual tokens before the text          Lester et al. 2021
    p_tuning  the same, made by a small network                     Liu et al. 2021
    prefix    keys and values of virtual tokens in every layer      Li & Liang 2021

Virtual tokens stand before everything, so a head that reads the first position reads the first of them.
"""

from __future__ import annotations

import copy
import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.pytorch_utils import Conv1D

from .quantised import is_quantised

Method = Literal["lora", "dora", "adalora", "ia3", "prompt", "prefix", "p_tuning"]
VIRTUAL_TOKENS = ("prompt", "prefix", "p_tuning")
"""Methods that train what is put before the text rather than updates of weights; they cannot be merged."""

LORA_TARGETS = {
    "albert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "modernbert": ["attn.Wqkv"],  # query, key and value are one matrix
    "mpnet": ["attn.q", "attn.v"],
    "switch_transformers": ["q", "v"],
    "xlm": ["q_lin", "v_lin"],
    "xlnet": ["ff.layer_1", "ff.layer_2"],  # its attention holds bare parameters
}
"""Query and value, as in the paper, by `model_type` where peft has no default."""

IA3_TARGETS: dict[str, tuple[list[str], list[str]]] = {
    "albert": (["key", "value", "ffn_output"], ["ffn_output"]),
    "distilbert": (["k_lin", "v_lin", "lin2"], ["lin2"]),
    "electra": (["key", "value", "output.dense"], ["output.dense"]),
    "mixtral": (["k_proj", "v_proj"], []),  # its experts hold bare parameters
    "modernbert": (["attn.Wqkv", "mlp.Wo"], ["mlp.Wo"]),
    "mpnet": (["attn.k", "attn.v", "output.dense"], ["output.dense"]),
    "switch_transformers": (["k", "v"], []),
    "xlm": (["k_lin", "v_lin", "lin2"], ["lin2"]),
    "xlm-roberta": (["key", "value", "output.dense"], ["output.dense"]),
    "xlnet": (["ff.layer_2"], ["ff.layer_2"]),
}
"""Keys, values and the input of the second feed-forward matrix; the second list names those whose input is scaled."""


_FACTOR = re.compile(r"lora_[AB]\.")


@dataclass
class AdapterArguments:
    """What is trained instead of all weights; an argument group for `HfArgumentParser`."""

    peft: Method | None = field(
        default=None, metadata={"help": "Parameter-efficient method; default: train all weights."}
    )
    lora_r: int = field(default=8, metadata={"help": "Rank (lora, dora); mean rank at the end (adalora)."})
    lora_alpha: int = field(default=16, metadata={"help": "Updates are scaled by lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the low-rank matrices."})
    target_modules: str | None = field(
        default=None,
        metadata={"help": "Modules to adapt: names with commas, or all-linear. Default: by paper and architecture."},
    )
    num_virtual_tokens: int = field(default=20, metadata={"help": "Length of prompt or prefix."})

    @property
    def virtual_tokens(self) -> int:
        """Positions that prompt or prefix take."""
        return self.num_virtual_tokens if self.peft in VIRTUAL_TOKENS else 0


def check_adapter(args: AdapterArguments, model: PreTrainedModel, task: str | None = None) -> None:
    """Raise `ValueError`, with the reason, if the model cannot be trained this way.

    Args:
        args: the method.
        model: a model with head.
        task: "question_answering" or another.
    """
    kind, base = model.config.model_type, model.base_model
    reason = None
    if args.peft in VIRTUAL_TOKENS:
        if model.config.is_encoder_decoder:
            reason = "its head finds end tokens, and its decoder the input, by token ids, and virtual tokens have none"
        elif args.peft == "prefix" and "past_key_values" not in inspect.signature(base.forward).parameters:
            reason = "prefixes are keys and values, and its attention takes none from outside (no past_key_values)"
        elif args.peft != "prefix" and task == "question_answering":
            reason = "virtual tokens before the text would shift the answers' positions; use prefix, or lora"
    if reason:
        what = f"{kind} in {task.replace('_', ' ')}" if task == "question_answering" else kind
        raise ValueError(f"--peft {args.peft} does not work with {what}: {reason}")


def add_adapter(model: PreTrainedModel, args: AdapterArguments, task: str | None, trained: list[str]) -> Any:
    """The model with adapters, all else frozen but the modules named in `trained`, which are saved with them.

    Args:
        model: a model with head, changed in place; possibly quantised.
        args: method and settings.
        task: "sequence_classification", "question_answering", or `None` for pretraining.
        trained: modules that the task brings, trained in full.

    Returns: a `peft.PeftModel`. Raises `ValueError` for what cannot work, with the reason, `ImportError` without peft.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("--peft needs peft: pip install 'pretrain-zoo[finetune]'") from error
    check_adapter(args, model, task)
    common: dict[str, Any] = {"modules_to_save": list(trained) or None}
    if args.peft in VIRTUAL_TOKENS:
        common["task_type"] = "QUESTION_ANS" if task == "question_answering" else "SEQ_CLS"
        config = _virtual_token_config(args, model, common)
    else:  # peft's class for question answering drops token types, so the plain one is used, which passes all on
        config = _weight_config(args, model, common)
    adapted = peft.get_peft_model(model, config)
    config.base_model_name_or_path = _origin(model)  # peft has written the name as it was given
    return adapted


def _origin(model: PreTrainedModel) -> str | None:
    """Where the weights are from: a Hub name, or a folder by its full path; `None` for random ones."""
    name = model.config._name_or_path
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name or None


def _weight_config(args: AdapterArguments, model: PreTrainedModel, common: dict[str, Any]) -> Any:
    import peft

    targets, scaled_inputs = _targets(args, model.config.model_type)
    common |= {"target_modules": targets, "fan_in_fan_out": any(isinstance(m, Conv1D) for m in model.modules())}
    if args.peft == "ia3":
        return peft.IA3Config(feedforward_modules=scaled_inputs, **common)
    common |= {"lora_alpha": args.lora_alpha, "lora_dropout": args.lora_dropout}
    if args.peft == "adalora":  # the schedule is set when the number of steps is known
        first = args.lora_r + (args.lora_r + 1) // 2
        return peft.AdaLoraConfig(target_r=args.lora_r, init_r=first, total_step=1, **common)
    return peft.LoraConfig(r=args.lora_r, use_dora=args.peft == "dora", **common)


def _targets(args: AdapterArguments, kind: str) -> tuple[Any, list[str]]:
    """Modules to adapt, and those of them whose input IA3 scales."""
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_INPUTS,
    )
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_DEFAULTS,
    )
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as LORA_DEFAULTS,
    )

    ia3 = IA3_TARGETS.get(kind) or (IA3_DEFAULTS.get(kind), IA3_INPUTS.get(kind, []))
    if args.target_modules == "all-linear":
        return "all-linear", []
    if args.target_modules is not None:
        names = [name.strip() for name in args.target_modules.split(",") if name.strip()]
        return names, [name for name in names if name in ia3[1]]
    targets, inputs = ia3 if args.peft == "ia3" else (LORA_TARGETS.get(kind) or LORA_DEFAULTS.get(kind), [])
    if targets is None:
        raise ValueError(
            f"no modules to adapt are known for {kind}; name them, such as --target_modules q_proj,v_proj, or give "
            "--target_modules all-linear"
        )
    return targets, inputs


def _virtual_token_config(args: AdapterArguments, model: PreTrainedModel, common: dict[str, Any]) -> Any:
    import peft

    common["num_virtual_tokens"] = args.num_virtual_tokens
    common["num_layers"] = model.config.num_hidden_layers
    common["num_attention_heads"] = model.config.num_attention_heads  # peft does not know every config's names
    if args.peft == "prefix":
        return peft.PrefixTuningConfig(**common)
    embeddings: Any = model.get_input_embeddings()
    common["token_dim"] = embeddings.embedding_dim  # not the hidden size, in ALBERT and ELECTRA
    if args.peft == "prompt":
        return peft.PromptTuningConfig(**common)
    return peft.PromptEncoderConfig(encoder_hidden_size=model.config.hidden_size, **common)


def save_adapter(model: Any, folder: str | Path, **options: Any) -> None:
    """Write the adapters, with the modules trained beside them, in peft's layout; options are `save_pretrained`'s."""
    model.save_pretrained(folder, save_embedding_layers=False, **options)


def read_adapter(model: Any, folder: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a folder that `save_adapter` wrote of such a model. Raises `ValueError` if they are of another."""
    import peft

    tensors = load_file(Path(folder, "adapter_model.safetensors"))
    own = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    if {name: t.shape for name, t in tensors.items()} != {name: t.shape for name, t in own.items()}:
        raise ValueError("its adapters are not those of this model")
    return tensors


def set_adapter(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Take over what `read_adapter` read."""
    import peft

    peft.set_peft_model_state_dict(model, tensors)


def load_adapter(model: PreTrainedModel, folder: str | Path) -> Any:
    """The model with the adapters of a folder, in evaluation mode."""
    import peft

    return peft.PeftModel.from_pretrained(model, str(folder)).eval()


def merge(model: Any) -> PreTrainedModel:
    """The plain model that computes what the adapted one does: updates are added to the weights. Changes `model`.

    peft's own `model.merge_adapter()` and `model.unmerge_adapter()` go there and back.

    Raises `ValueError` for methods that do not update weights, and for quantised weights, whose rounding would lose
    updates; load the adapters on weights in full precision first (`load_saved(folder, quantised=False)`).
    """
    method = model.active_peft_config
    if method.is_prompt_learning:
        raise ValueError(
            f"{method.peft_type.value.lower()} trains virtual tokens and leaves the weights as they are; there is "
            "nothing to merge, use the saved folder as it is"
        )
    if is_quantised(model):
        raise ValueError(
            "the weights are quantised, and merging would round the updates away; load them in full precision first: "
            "merge(load_saved(folder, quantised=False))"
        )
    return _unwrapped(model, merge=True)


def without_adapter(model: Any) -> PreTrainedModel:
    """A copy of the plain model as it was before adapters were put on it, heads as they are now."""
    return _unwrapped(copy.deepcopy(model), merge=False)


def _unwrapped(model: Any, merge: bool) -> PreTrainedModel:
    from peft.utils import ModulesToSaveWrapper

    stock = model.get_base_model()
    for name, module in list(stock.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # peft's IA3 cannot take off those of several parameters
            stock.set_submodule(name, module.modules_to_save[model.active_adapter])
    if not model.active_peft_config.is_prompt_learning:
        stock = model.merge_and_unload() if merge else model.unload()
    for parameter in stock.parameters():
        parameter.requires_grad = True
    return stock


def training_callbacks(model: nn.Module) -> list[TrainerCallback]:
    """What the method needs of the `Trainer`, for AdaLoRA and P-tuning; empty for others."""
    config = getattr(model, "active_peft_config", None)
    kind = config.peft_type.value if config is not None else None
    needed: dict[str, list[TrainerCallback]] = {"ADALORA": [_ShareOutRanks()], "P_TUNING": [_KeepPromptEncoder()]}
    return needed.get(str(kind), [])


class _ShareOutRanks(TrainerCallback):
    """AdaLoRA's schedule and regulariser (Zhang et al. 2023, sections 3.2 and 3.3).

    Full ranks for a tenth of the run, then falling ones, final ones for the last third. The regulariser's gradient is
    added here, so that it does not depend on who computes the loss, and evaluation is free of it.
    """

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        config = model.active_peft_config
        config.total_step = state.max_steps
        config.tinit, config.tfinal = state.max_steps // 10, state.max_steps // 3

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        factors = [p for name, p in model.named_parameters() if p.requires_grad and _FACTOR.search(name)]
        penalty = orthogonality(factors) * model.active_peft_config.orth_reg_weight
        for factor, gradient in zip(factors, torch.autograd.grad(penalty, factors), strict=True):
            if factor.grad is not None:
                factor.grad += gradient

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.base_model.update_and_allocate(state.global_step + 1)  # while there are gradients, which it ranks by


def orthogonality(factors: list[nn.Parameter]) -> torch.Tensor:
    """Mean distance of the factors' Gram matrices, of rank × rank, from the identity (Frobenius)."""
    grams = [f @ f.T if len(f) < f.shape[1] else f.T @ f for f in factors]
    return torch.stack([(g - torch.eye(len(g), device=g.device, dtype=g.dtype)).norm() for g in grams]).mean()


class _KeepPromptEncoder(TrainerCallback):
    """P-tuning's checkpoints hold the virtual tokens, not the network that makes them."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step:
            raise ValueError(
                "p_tuning cannot resume: checkpoints hold its virtual tokens, not the network that makes them; "
                "start anew, or use prompt"
            )

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if args.load_best_model_at_end and state.best_model_checkpoint:
            model.active_peft_config.inference_mode = True  # the best checkpoint's tokens are used as they are
