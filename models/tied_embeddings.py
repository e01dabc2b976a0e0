"""Embeddings shared by two networks: one set for both, or a table of differences from the other's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel


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
    (prefix, own), (other_prefix, other) = embedding_module(main), embedding_module(generator)
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


def copy_embeddings(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Copy the embeddings of `source` that have name and shape in common with `target`'s."""
    parameters = dict(embedding_module(target)[1].named_parameters())
    for name, parameter in embedding_module(source)[1].named_parameters():
        if name in parameters and parameters[name].shape == parameter.shape:
            parameters[name].data.copy_(parameter.data)


def embedding_module(model: PreTrainedModel) -> tuple[str, nn.Module]:
    """Prefix of the names of a model's embeddings, and their module."""
    base = model.base_model
    embeddings = getattr(base, "embeddings", None)
    if not isinstance(embeddings, nn.Module):
        raise ValueError(f"{type(model).__name__} keeps its embeddings elsewhere than other encoders; use tie='none'")
    return ("embeddings." if base is model else f"{model.base_model_prefix}.embeddings."), embeddings


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
