"""Two networks trained at once: a generator, and a main model that reads the generator's samples.

The generator is a smaller masked LM of the main model's architecture, and predicts selected positions only. Its
samples, drawn with numbers that the collator provides, make the main model's input. See `objectives.replaced_tokens`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .masked_positions import LabelledRows, attach
from .presets import Backbone
from .pretraining import PretrainingModel

if TYPE_CHECKING:
    from ..objectives.replaced_tokens import GeneratorObjective

_PROJECTS_UNSAID = ("deberta", "deberta-v2")  # they read `embedding_size`, and their configs do not list it


class GeneratorDiscriminator(PretrainingModel):
    """A generator and a discriminator of tokens; `main` is the discriminator.

    Outputs: "generator_logits" `[N, V]` at the selected positions; "original_ids", "input_ids" (what the main model
    reads) and "replaced" (where they differ), each `[B, L]`; and what the main model gives, "logits" `[B, L]` here.

    Args:
        objective: a `GeneratorObjective`.
        main: `ElectraForPreTraining`, or an encoder without head, for which there is a head "discriminator".
        generator: a masked LM over the same vocabulary.
        heads: the main model's extra heads.

    Raises `ValueError` when embeddings are to be tied and their sizes differ.
    """

    def __init__(
        self,
        objective: GeneratorObjective,
        main: PreTrainedModel,
        generator: PreTrainedModel,
        heads: Mapping[str, nn.Module] | None = None,
    ):
        tied = {} if objective.tie == "none" else tie_embeddings(main, generator, objective.tie)
        super().__init__(objective, main, {"generator": generator, **(heads or {})})
        self.temperature = objective.temperature
        self.generator_rows = attach(generator)
        self.generator_accepts = frozenset(inspect.signature(generator.forward).parameters)
        self.deltas = tuple(name for name, module in main.named_modules() if isinstance(module, DeltaEmbedding))
        ties = {f"heads.generator.{theirs}": f"main.{ours}" for theirs, ours in tied.items()}
        self.all_tied_weights_keys = ties | self.all_tied_weights_keys  # first, others hang on them

    @classmethod
    def build(cls, objective: GeneratorObjective, backbone: Backbone) -> GeneratorDiscriminator:
        """Both networks: main from the backbone, generator from its own checkpoint or random.

        Raises `ValueError` for backbones without a masked LM and for sizes that do not fit (see `generator_config`).
        """
        if objective.generator_checkpoint is None:
            config = generator_config(backbone.config, objective)
        elif backbone.checkpoint is None:
            raise ValueError("generator_checkpoint goes with a checkpoint as backbone, not with random weights")
        else:
            config = AutoConfig.from_pretrained(objective.generator_checkpoint, trust_remote_code=False)
        main, heads = cls.load_main(backbone)
        parts = replace(backbone, config=config, checkpoint=objective.generator_checkpoint)
        generator = parts.load(AutoModelForMaskedLM)
        if objective.tie == "gdes" and objective.generator_checkpoint is None:  # differences begin at 0
            tables = dict(_embeddings(generator)[1].named_parameters())
            for name, parameter in _embeddings(main)[1].named_parameters():
                if name in tables and tables[name].shape == parameter.shape:
                    tables[name].data.copy_(parameter.data)
        return cls(objective, main, generator, heads)

    @classmethod
    def load_main(cls, backbone: Backbone) -> tuple[PreTrainedModel, dict[str, nn.Module]]:
        """The main model and its extra heads."""
        if backbone.config.model_type == "electra":
            return backbone.load(AutoModelForPreTraining), {}
        main = backbone.load(AutoModel)
        if getattr(main, "pooler", None) is not None:
            main.pooler.requires_grad_(False)  # no loss reaches it, and DDP waits for the gradients of what is trained
        head = DetectionHead(backbone.config, with_first=backbone.config.model_type == "deberta-v2")
        return main, {"discriminator": head.to(main.dtype)}

    def attach_rows(self, main: nn.Module) -> LabelledRows:
        """An idle one: this main model predicts no vocabulary."""
        return LabelledRows()

    def run(self, batch: Mapping[str, Tensor], carry: Any, want: tuple[str, ...]) -> dict[str, Any]:
        """See the class."""
        inputs = self.inputs(batch)
        logits = self.generate(inputs, batch["label_positions"])
        with torch.no_grad():
            sampled = sample_tokens(logits, batch["sampling_uniforms"], self.temperature)
            original = put(batch["input_ids"], batch["label_positions"], batch["label_ids"], batch["label_ids"])
            fake = put(batch["input_ids"], batch["label_positions"], batch["label_ids"], sampled)
        outputs = {
            "generator_logits": logits,
            "original_ids": original,
            "input_ids": fake,
            "replaced": fake != original,
        }
        inputs["input_ids"] = fake
        for name in ("hidden_states", "attentions"):
            if name in want:
                inputs[f"output_{name}"] = True
        return outputs | self.run_main(inputs, batch)

    def generate(self, inputs: Mapping[str, Any], positions: Tensor) -> Tensor:
        """The generator's logits `[N, V]` at positions `[N]` of the flattened batch."""
        self.generator_rows.positions = positions
        try:
            accepted = {name: value for name, value in inputs.items() if name in self.generator_accepts}
            return self.heads["generator"](**accepted).logits[0]
        finally:
            self.generator_rows.positions = self.generator_rows.hidden = None

    def run_main(self, inputs: dict[str, Any], batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """The main model's outputs on the generator's samples."""
        outputs = dict(self.main(**inputs).items())
        if "discriminator" in self.heads:
            outputs["logits"] = self.heads["discriminator"](outputs["last_hidden_state"], batch["attention_mask"])
        return outputs

    # checkpoints

    def plain_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The main model's state with the generator's tables added to its differences."""
        plain = super().plain_state(state)
        for name in self.deltas:
            base = state[self._base_name(name)]
            plain[f"{name}.weight"] = plain[f"{name}.weight"] + base
        return plain

    def _base_name(self, delta: str) -> str:
        """Name in this model's state of the generator's table that belongs to a table of differences."""
        base = self.main.get_submodule(delta).base
        generator = self.heads["generator"]
        return "heads.generator." + next(n for n, m in generator.named_modules() if m is base) + ".weight"

    def _outside(self) -> dict[str, Tensor]:
        """Also the differences themselves: the sums in the main checkpoint do not give them back exactly."""
        parameters = dict(self.named_parameters())
        names = [f"main.{name}.weight" for name in self.deltas]
        return super()._outside() | {name: parameters[name] for name in names}

    def plain_models(self) -> dict[str, PreTrainedModel]:
        """Main model ("") and generator as stock models."""
        main = self.main
        if self.deltas:
            main = copy.deepcopy(main)
            for name in self.deltas:
                parent, _, child = name.rpartition(".")
                setattr(main.get_submodule(parent), child, self.main.get_submodule(name).plain())
        return {"": main, "generator": self.heads["generator"]}


class GeneratorMaskedLM(GeneratorDiscriminator):
    """A generator and a masked LM that predicts the selected positions from the samples; "logits" are `[N, V]`."""

    @classmethod
    def load_main(cls, backbone: Backbone) -> tuple[PreTrainedModel, dict[str, nn.Module]]:
        """A masked LM."""
        return backbone.load(AutoModelForMaskedLM), {}

    def attach_rows(self, main: nn.Module) -> LabelledRows:
        """Those of the main model, as in the base class."""
        return attach(main)

    def run_main(self, inputs: dict[str, Any], batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Logits at the selected positions."""
        return self.predict(inputs, batch["label_positions"])

    def predict(self, inputs: dict[str, Any], positions: Tensor) -> dict[str, Any]:
        """The main model's outputs with "logits" `[N, V]` at these positions and the last hidden state, "hidden"."""
        self.rows.positions = positions
        try:
            outputs = dict(self.main(**inputs).items())
            return outputs | {"logits": outputs["logits"][0], "hidden": self.rows.hidden}
        finally:
            self.rows.positions = self.rows.hidden = None


class GeneratorAllTokens(GeneratorMaskedLM):
    """As `GeneratorMaskedLM`, for all tokens: "logits" `[B, L, V]` and "copy_logits" `[B, L]`."""

    @classmethod
    def load_main(cls, backbone: Backbone) -> tuple[PreTrainedModel, dict[str, nn.Module]]:
        """A masked LM, and a head for the probability of copying the input."""
        main, _ = super().load_main(backbone)
        return main, {"copy": initialized(nn.Linear(main.config.hidden_size, 1), main.config).to(main.dtype)}

    def run_main(self, inputs: dict[str, Any], batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Logits of the vocabulary and of copying, at every position."""
        shape = inputs["input_ids"].shape
        outputs = self.predict(inputs, torch.arange(shape.numel(), device=inputs["input_ids"].device))
        outputs["logits"] = outputs["logits"].unflatten(0, shape)
        return outputs | {"copy_logits": self.heads["copy"](outputs["hidden"]).squeeze(-1)}


class DetectionHead(nn.Module):
    """Whether each token was replaced: dense, activation, one logit (ELECTRA).

    Args:
        config: of the encoder.
        with_first: read the layer norm of a token's state plus the first token's (DeBERTaV3).
    """

    def __init__(self, config: Any, with_first: bool = False):
        super().__init__()
        names = ("hidden_act", "hidden_activation", "activation")
        activation = next((getattr(config, name) for name in names if hasattr(config, name)), "gelu")
        self.dense = initialized(nn.Linear(config.hidden_size, config.hidden_size), config)
        self.activation = ACT2FN[activation]
        self.LayerNorm = (
            nn.LayerNorm(config.hidden_size, eps=getattr(config, "layer_norm_eps", 1e-12)) if with_first else None
        )
        self.classifier = initialized(nn.Linear(config.hidden_size, 1), config)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits `[B, L]` from states `[B, L, H]`; the mask tells each row's first token."""
        if self.LayerNorm is not None:
            first = attention_mask.argmax(1)
            hidden = self.LayerNorm(hidden + hidden[torch.arange(len(hidden), device=hidden.device), first, None])
        return self.classifier(self.activation(self.dense(hidden))).squeeze(-1)


class DeltaEmbedding(nn.Embedding):
    """A table that differs from another by what it has learned: `base` without gradient, plus `weight`.

    Args:
        embedding: the table to take over; its difference from `base` is where `weight` begins.
        base: the other table, held outside module registration.
    """

    def __init__(self, embedding: nn.Embedding, base: nn.Embedding):
        weight = (embedding.weight - base.weight).detach()
        rows, width = weight.shape
        super().__init__(rows, width, padding_idx=embedding.padding_idx, _weight=weight)
        self._base = (base,)

    @property
    def base(self) -> nn.Embedding:
        """The other table."""
        return self._base[0]

    def forward(self, input: Tensor) -> Tensor:
        """Rows of `base` plus rows of `weight`."""
        return F.embedding(input, self.base.weight.detach()) + super().forward(input)

    def plain(self) -> nn.Embedding:
        """The sums as a stock table."""
        weight = (self.base.weight + self.weight).detach()
        return nn.Embedding(self.num_embeddings, self.embedding_dim, padding_idx=self.padding_idx, _weight=weight)


@torch.no_grad()
def sample_tokens(logits: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
    """A token per row from softmax(logits / temperature), by the inverse of its distribution function; int64 `[N]`.

    Args:
        logits: `[N, V]`; half precision is widened to float32.
        uniforms: `[N]` in [0, 1).
        temperature: positive; towards 0 the likeliest token is drawn.

    Tokens of probability 0 are never drawn, whatever the rounding.
    """
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    cumulated = (wide - wide.amax(-1, keepdim=True)).div_(temperature).exp_().cumsum_(-1)
    total = cumulated[:, -1:].contiguous()
    token = torch.searchsorted(cumulated, uniforms.to(total.dtype)[:, None] * total, right=True)
    last = torch.searchsorted(cumulated, total)  # uniforms · total may round to total
    return torch.minimum(token, last).squeeze(-1)


def put(ids: Tensor, positions: Tensor, labels: Tensor, tokens: Tensor) -> Tensor:
    """`ids`, `[B, L]`, with `tokens` at flat positions, where there is a label."""
    flat = ids.flatten()
    return flat.index_copy(0, positions, torch.where(labels != -100, tokens, flat[positions])).view_as(ids)


def generator_config(config: Any, objective: GeneratorObjective) -> Any:
    """The main model's config made smaller by `generator_size` and `generator_depth`.

    Width and feed-forward size shrink alike; heads are 64 wide, at least one. Where embeddings are tied they keep the
    main model's size, and a narrower generator projects them, which takes an architecture that does so.

    Raises `ValueError` for architectures without a masked LM, encoder-decoders, and a narrower generator with tied
    embeddings where the architecture has no projection.
    """
    kind = config.model_type
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{objective.name} needs an encoder with a masked LM, from which to make a generator; {kind} is none. "
            "Use electra, deberta-v3, bert or another encoder"
        )
    projects = hasattr(config, "embedding_size") or kind in _PROJECTS_UNSAID
    narrow = objective.tie == "none" or (projects and objective.tie == "shared")
    size = objective.generator_size or (0.25 if narrow else 1.0)
    depth = objective.generator_depth or (0.5 if size == 1 else 1.0)
    if size != 1 and objective.tie != "none" and not projects:
        raise ValueError(
            f"{kind} does not project its embeddings to its width, so a generator of {size:g} times the width cannot "
            "share them; use generator_size=1 with a smaller generator_depth, or tie='none', or an electra backbone"
        )
    small = copy.deepcopy(config)
    small.num_hidden_layers = max(1, round(config.num_hidden_layers * depth))
    if isinstance(getattr(config, "layer_types", None), list):
        small.layer_types = config.layer_types[: small.num_hidden_layers]
    if size == 1:
        return small
    heads = max(1, round(config.hidden_size * size) // 64)
    if projects:
        small.embedding_size = getattr(config, "embedding_size", config.hidden_size)
    small.num_attention_heads = heads
    small.hidden_size = 2 * heads * max(1, round(config.hidden_size * size / (2 * heads)))  # even, for rotary positions
    for name in ("intermediate_size", "hidden_dim"):
        if hasattr(config, name):
            setattr(small, name, max(1, round(getattr(config, name) * size)))
    for name, value in (("attention_head_size", small.hidden_size // heads), ("pooler_hidden_size", small.hidden_size)):
        if hasattr(config, name):
            setattr(small, name, value)
    return small


def tie_embeddings(main: PreTrainedModel, generator: PreTrainedModel, how: str) -> dict[str, str]:
    """Tie the generator's embeddings to the main model's, in place.

    "shared": every parameter of the embedding modules that has the same name and shape, but projections, becomes one.
    "gdes": the main model's tables of tokens and positions become `DeltaEmbedding`s over the generator's.

    Returns names of the generator's parameters with the names of the main model's that they now are. Raises
    `ValueError` where the tables of tokens cannot be tied.
    """
    ours = main.get_input_embeddings()
    sizes = [tuple(model.get_input_embeddings().weight.shape) for model in (generator, main)]  # type: ignore[arg-type]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the generator's embeddings are {sizes[0]} and the main model's {sizes[1]}, so they cannot be tied; "
            "use tie='none', or a generator that fits"
        )
    (prefix, own), (other_prefix, other) = _embeddings(main), _embeddings(generator)
    tied = {}
    if how == "shared":
        parameters = dict(other.named_parameters())
        for name, parameter in own.named_parameters():
            if name in parameters and parameters[name].shape == parameter.shape and "proj" not in name:
                module, _, leaf = name.rpartition(".")
                setattr(other.get_submodule(module), leaf, parameter)
                tied[other_prefix + name] = prefix + name
        generator.tie_weights()
        return tied
    for name, table in list(own.named_children()):
        if isinstance(table, nn.Embedding) and (table is ours or name == "position_embeddings"):
            setattr(own, name, DeltaEmbedding(table, getattr(other, name)))
    if isinstance(main.get_input_embeddings(), DeltaEmbedding):
        return tied
    raise ValueError(f"{main.config.model_type} keeps its embeddings elsewhere than other encoders; use another tie")


def _embeddings(model: PreTrainedModel) -> tuple[str, nn.Module]:
    """Prefix of the names of a model's embeddings, and their module."""
    base = model.base_model
    embeddings = getattr(base, "embeddings", None)
    if not isinstance(embeddings, nn.Module):
        raise ValueError(f"{type(model).__name__} keeps its embeddings elsewhere than other encoders; use tie='none'")
    return ("embeddings." if base is model else f"{model.base_model_prefix}.embeddings."), embeddings


def initialized(linear: nn.Linear, config: Any) -> nn.Linear:
    """The layer with weights drawn as the model's own, biases 0."""
    nn.init.normal_(linear.weight, std=getattr(config, "initializer_range", 0.02))
    nn.init.zeros_(linear.bias)
    return linear
