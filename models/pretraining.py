"""The model that is trained: a stock Hugging Face model, extra heads, and the objective's loss in one forward pass."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .adapters import read_adapter, save_adapter, set_adapter
from .attention_masks import document_positions, model_masks
from .families import FAMILIES
from .masked_positions import LabelledRows, attach, stock_model
from .router_losses import Routers

if TYPE_CHECKING:
    from ..objectives.base import Objective, Term

HEADS_FILE = "pretraining_heads.safetensors"
"""File of a checkpoint with the parameters outside the main model; there only if there are any."""

_WRAPPERS = re.compile(r"(^|\.)(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_POSITIONS_AFTER_PAD = {family.model_type for family in FAMILIES.values() if family.positions_after_pad}


@dataclass
class PretrainingOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        sums: each loss term's sum over its items, with gradient.
        metrics: (sum, count) of each metric, detached.
        carry: memory for the next segment of the same streams, if the model has any.
        outputs: the outputs that `want` named.
    """

    sums: dict[str, Tensor]
    metrics: dict[str, tuple[Tensor, Tensor]] | None = None  # ModelOutput wants defaults after the first
    carry: Any = None
    outputs: dict[str, Any] | None = None


class PretrainingModel(PreTrainedModel):
    """A stock model with its head, trained on an objective.

    Its forward pass computes logits for labelled positions only (see `masked_positions`), then the extra heads, then
    the objective's loss, so that DDP and FSDP see one forward. Wrapping changes neither weights nor config of `main`.

    Models of several networks are subclasses that override `run` and leave the rest as it is:

        class GeneratorDiscriminator(PretrainingModel):          # main: discriminator, heads: {"generator": …}
            def run(self, batch, carry, want):
                generated = self.heads["generator"](…)           # any module; saved beside the main checkpoint
                return {"logits": …, "discriminator_logits": self.main(…).logits}

    and objectives whose users get more than `main` override `Objective.export`.

    Args:
        objective: turns outputs into sums by `objective.loss(outputs, batch)`.
        main: a Hugging Face model with head, or a PEFT model around one; its checkpoint is what users get.
        heads: extra modules by name. Each is called as `head(outputs, batch)` after `main`, in order, and what it
            returns becomes the output of its name.

    Raises `ValueError` for a `main` whose head cannot be given labelled positions only.
    """

    main: Any
    heads: nn.ModuleDict
    base_model_prefix = "main"
    supports_gradient_checkpointing = True

    def __init__(self, objective: Objective, main: Any, heads: Mapping[str, nn.Module] | None = None):
        stock = stock_model(main)
        super().__init__(stock.config)
        self.objective = objective
        self.main = main
        self.heads = nn.ModuleDict(heads or {})
        self.main_input_name = stock.main_input_name
        self.supports_gradient_checkpointing = stock.supports_gradient_checkpointing
        self.accepts = frozenset(inspect.signature(stock.forward).parameters)
        self.rows = self.attach_rows(main)
        self.routers = Routers(main)
        self.post_init()
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)

    def attach_rows(self, main: nn.Module) -> LabelledRows:
        """The hook that gives `main`'s head labelled positions only; idle for a main without a vocabulary head."""
        return attach(main)

    @property
    def terms(self) -> dict[str, Term]:
        """Loss terms by name: the objective's, and those of routers if `main` is a mixture of experts."""
        return self.objective.terms | self.routers.terms

    # forward

    def forward(self, carry: Any = None, want: tuple[str, ...] = (), **batch: Tensor) -> PretrainingOutput:
        """Sums of the objective's terms on a batch, and the routers' losses.

        Args:
            carry: memory that the pass before returned for these streams.
            want: names of outputs to return beside the sums: "logits", "hidden", "hidden_states", "attentions", a
                head's name, or any other that `run` gives.
            batch: columns of the objective, among them `label_positions`, `[N]`, indices into the flattened `[B, L]`.

        Raises `ValueError` for a name in `want` that the model has not.
        """
        if self.routers.terms:
            with self.routers:
                outputs = self.run(batch, carry, want)
        else:  # torch.compile has no graph for a context
            outputs = self.run(batch, carry, want)
        sums, metrics = self.objective.loss(outputs, batch)
        sums = {**sums, **self.routers.losses(batch)}
        missing = [name for name in want if name not in outputs]
        if missing:
            raise ValueError(f"the model has no output {missing[0]!r}; it has {', '.join(sorted(outputs))}")
        return PretrainingOutput(
            sums=sums,
            metrics={name: (total.detach(), count.detach()) for name, (total, count) in metrics.items()},
            carry=outputs.get("carry"),
            outputs={name: outputs[name] for name in want} if want else None,
        )

    def run(self, batch: Mapping[str, Tensor], carry: Any, want: tuple[str, ...]) -> dict[str, Any]:
        """Named outputs on a batch, all that `main` gives under its own names, and:

        - "logits": `[N, V]` for the labelled positions, or as `main` gives them for a batch without labels;
        - "hidden": `[B, L, H]`, the last hidden state (the decoder's, of an encoder-decoder), given labels;
        - each head's, by its name.
        """
        positions = batch.get("label_positions")
        inputs = self.inputs(batch)
        for name in ("hidden_states", "attentions"):
            if name in want:
                inputs[f"output_{name}"] = True
        self.rows.positions = positions
        try:
            outputs = dict(self.main(**inputs).items())
            hidden = self.rows.hidden
        finally:
            self.rows.positions = self.rows.hidden = None
        if "prediction_logits" in outputs:  # models with several heads (BertForPreTraining)
            outputs["logits"] = outputs.pop("prediction_logits")
        if positions is not None:
            if outputs["logits"].shape[:-1] != (1, len(positions)):
                raise ValueError(
                    f"the head of {type(stock_model(self.main)).__name__} does not read the last hidden state of its "
                    "base model alone; use another backbone"
                )
            outputs |= {"logits": outputs["logits"].squeeze(0), "hidden": hidden}  # indexing would copy gradients
        for name, head in self.heads.items():
            outputs[name] = head(outputs, batch)
        return outputs

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """What `main` gets of a batch: the columns its forward accepts but labels, and masks for `document_ids`."""
        inputs: dict[str, Any] = {k: v for k, v in batch.items() if k in self.accepts and "label" not in k}
        if "use_cache" in self.accepts:
            inputs["use_cache"] = False  # a cache of keys and values only costs memory here
        if "document_ids" in batch:
            if "attention_mask" not in self.accepts:
                raise ValueError(f"{type(stock_model(self.main)).__name__} takes no attention mask")
            documents, causal = batch["document_ids"], self.objective.architecture == "causal_lm"
            inputs["attention_mask"] = model_masks(self.config, documents, self.dtype, causal=causal)
            if causal and "position_ids" in self.accepts:
                offset = self.config.pad_token_id + 1 if self.config.model_type in _POSITIONS_AFTER_PAD else 0
                inputs["position_ids"] = document_positions(documents) + offset
        return inputs

    def network_of(self, parameter: str) -> str:
        """Name of the network that a parameter belongs to; networks of other names are clipped apart."""
        return "main"

    # checkpoints

    def _outside(self) -> dict[str, Tensor]:
        """Tensors of the state that `main` does not hold, by name; what several names share is there once."""
        state = {k: v for k, v in self.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
        seen = {id(v) for k, v in state.items() if k.startswith("main.")}
        outside = {}
        for name, value in state.items():
            if id(value) not in seen:
                seen.add(id(value))
                outside[name] = value
        return outside

    def plain_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State of `main` as its plain checkpoint holds it, from the state of this model."""
        return {name.removeprefix("main."): value for name, value in state.items() if name.startswith("main.")}

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        state_dict: Mapping[str, Tensor] | None = None,
        is_main_process: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write `main` as a plain checkpoint, and what lies outside it, if anything, to `HEADS_FILE` beside it.

        Of a `main` with adapters these alone are written, since the rest is in the checkpoint they were put on.

        Args:
            save_directory: the folder, made if it is not there.
            state_dict: state of this model to write instead of its own, gathered by FSDP or DeepSpeed; prefixes of
                wrappers are taken off.
            is_main_process: whether this process writes.
            kwargs: passed on to the main model's `save_pretrained`.
        """
        outside = self._outside()
        state = self.state_dict() if state_dict is None else state_dict
        state = {_WRAPPERS.sub("", f".{name}").lstrip("."): value for name, value in state.items()}
        main = self.plain_state(state)
        save = save_adapter if hasattr(self.main, "peft_config") else type(self.main).save_pretrained
        save(self.main, save_directory, state_dict=main, is_main_process=is_main_process, **kwargs)
        if not is_main_process:
            return
        file = Path(save_directory) / HEADS_FILE
        file.unlink(missing_ok=True)
        tensors = {name: state[name].detach().cpu().contiguous() for name in outside if name in state}
        if tensors:
            save_file(tensors, file, metadata={"format": "pt"})

    def load_checkpoint(self, directory: str | Path) -> None:
        """Restore weights that `save_pretrained` wrote, exactly, into this model, on its devices.

        Raises `ValueError`, the model being left as it was, if the folder is not such a checkpoint, a file is corrupt,
        or its tensors are not those of this model.
        """
        directory = Path(directory)
        try:
            main = self._read_main(directory)
            extra = self._read_outside(directory)
        except Exception as error:  # safetensors and transformers raise many kinds
            raise ValueError(
                f"cannot load the checkpoint {directory}: {error}. "
                "It is incomplete, corrupt or of another model; use another checkpoint"
            ) from error
        if hasattr(self.main, "peft_config"):
            set_adapter(self.main, main)
        else:
            self.main.load_state_dict(main)
        with torch.no_grad():
            for name, parameter in self._outside().items():
                parameter.copy_(extra[name])

    def load_heads(self, directory: str | Path) -> list[str]:
        """Take over heads' parameters from a checkpoint of any objective, where name and shape agree; their names."""
        file = Path(directory) / HEADS_FILE
        tensors = load_file(file) if file.is_file() else {}
        loaded = [n for n, v in self._outside().items() if n in tensors and tensors[n].shape == v.shape]
        with torch.no_grad():
            for name in loaded:
                self._outside()[name].copy_(tensors[name])
        return loaded

    def _read_main(self, directory: Path) -> dict[str, Tensor]:
        if hasattr(self.main, "peft_config"):
            return read_adapter(self.main, directory)
        if not (directory / "config.json").is_file():
            raise ValueError("it has no config.json")
        stock: Any = stock_model(self.main)
        options = {"dtype": stock.dtype, "use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        loaded, report = type(stock).from_pretrained(directory, config=stock.config, **options)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if report[kind]:
                names = sorted(map(str, report[kind]))
                raise ValueError(f"{kind.replace('_', ' ')} ({len(names)}), among them {', '.join(names[:3])}")
        return loaded.state_dict()

    def _read_outside(self, directory: Path) -> dict[str, Tensor]:
        expected, file = self._outside(), directory / HEADS_FILE
        tensors = load_file(file) if file.is_file() else {}
        for kind, names in (("missing", expected.keys() - tensors), ("unexpected", tensors.keys() - expected)):
            if names:
                raise ValueError(f"{kind} in {HEADS_FILE}: {', '.join(sorted(names))}")
        for name, value in expected.items():
            if value.shape != tensors[name].shape:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}")
        return tensors

    # what PreTrainedModel asks of a model

    def init_weights(self) -> None:
        """Nothing: `main` and heads come with their weights, drawn or loaded, and tied."""

    def _check_and_adjust_attn_implementation(self, attn_implementation, *args, **kwargs):
        return attn_implementation  # main's own check has settled it

    def _check_and_adjust_experts_implementation(self, experts_implementation, *args, **kwargs):
        return experts_implementation

    def get_input_embeddings(self) -> nn.Module:
        """The main model's."""
        return stock_model(self.main).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Sets the main model's."""
        stock_model(self.main).set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The main model's."""
        return stock_model(self.main).get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Sets the main model's."""
        stock_model(self.main).set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resizes the main model's."""
        return stock_model(self.main).resize_token_embeddings(*args, **kwargs)
