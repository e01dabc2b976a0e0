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
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining, PreTrainedModel
from transformers.activations import ACT2FN

from .generator import generator_config, put, sample_tokens
from .masked_positions import LabelledRows, attach
from .presets import Backbone
from .pretraining import PretrainingModel
from .tied_embeddings import DeltaEmbedding, copy_embeddings, tie_embeddings

if TYPE_CHECKING:
    from ..objectives.replaced_tokens import GeneratorObjective


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

    ties: Mapping[str, str] = {}
    tie_mode: str = "none"

    def __init__(
        self,
        objective: GeneratorObjective,
        main: PreTrainedModel,
        generator: PreTrainedModel,
        heads: Mapping[str, nn.Module] | None = None,
    ):
        tied = {} if objective.tie == "none" else tie_embeddings(main, generator, objective.tie)
        super().__init__(objective, main, {"generator": generator, **(heads or {})})
        self.temperature, self.tie_mode = objective.temperature, objective.tie
        self.generator_rows = attach(generator)
        self.generator_accepts = frozenset(inspect.signature(generator.forward).parameters)
        self.deltas = tuple(name for name, module in main.named_modules() if isinstance(module, DeltaEmbedding))
        self.ties = {f"heads.generator.{theirs}": f"main.{ours}" for theirs, ours in tied.items()}
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)

    def network_of(self, parameter: str) -> str:
        """The generator is a network of its own where the two share no gradient (DeBERTaV3)."""
        return "generator" if parameter.startswith("heads.generator.") and self.tie_mode != "shared" else "main"

    @classmethod
    def build(cls, objective: GeneratorObjective, backbone: Backbone) -> GeneratorDiscriminator:
        """Both networks: main from the backbone, generator from its own checkpoint, the earlier run's or random.

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
        if objective.tie == "gdes" and objective.generator_checkpoint is None:
            copy_embeddings(main, generator)  # so that differences begin at 0
        model = cls(objective, main, generator, heads)
        if backbone.checkpoint is not None and objective.generator_checkpoint is None:
            model.load_heads(backbone.checkpoint)  # a folder of an earlier run has the generator and the heads, too
        return model

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

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Also the generator's parameters that are the main model's: first, for others hang on them."""
        return {**self.ties, **super().get_expanded_tied_weights_keys(all_submodels)}

    def attach_rows(self, main: nn.Module) -> LabelledRows:
        """An idle one: this main model predicts no vocabulary."""
        return LabelledRows()

    def run(self, batch: Mapping[str, Tensor], carry: Any, want: tuple[str, ...]) -> dict[str, Any]:
        """See the class."""
        inputs = self.inputs(batch)
        logits = self.generate(inputs, batch["label_positions"])
        with torch.no_grad():
            sampled = sample_tokens(logits, batch["sampling_bits"].float() * 2.0**-24, self.temperature)
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
            return outputs | {"logits": outputs["logits"].squeeze(0), "hidden": self.rows.hidden}
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


def initialized(linear: nn.Linear, config: Any) -> nn.Linear:
    """The layer with weights drawn as the model's own, biases 0."""
    nn.init.normal_(linear.weight, std=getattr(config, "initializer_range", 0.02))
    nn.init.zeros_(linear.bias)
    return linear
