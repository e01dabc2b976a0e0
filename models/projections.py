"""Queries, keys and values of chosen layers, caught on their way by hooks.

Attention modules return probabilities at most, and only without fused kernels; the linear layers before them are the
same under every attention implementation. Architectures differ in their names, hence a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from .masked_positions import stock_model

_SELF = ("encoder.layer", "attention.self", ("query", "key", "value"))
PROJECTIONS: dict[str, tuple[str, str, tuple[str, str, str]]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), _SELF),
    "distilbert": ("transformer.layer", "attention", ("q_lin", "k_lin", "v_lin")),
    "deberta-v2": ("encoder.layer", "attention.self", ("query_proj", "key_proj", "value_proj")),
}
"""Model type → list of layers in the base model, attention module in a layer, its linear layers for q, k and v."""

MORE_THAN_DOT_PRODUCTS = {"deberta-v2": "positions relative to each other"}
"""Model types whose attention scores are not only the dot products of queries and keys, and what else is in them."""


class Projections:
    """Outputs of the linear layers for queries, keys and values in a model's layers, kept while it is entered.

        with projections:
            model(**inputs)
        queries, keys = projections.pair(3, "qk", heads=12)

    Args:
        model: a Hugging Face model of a type in `PROJECTIONS`.
        layers: counted from 0.

    Raises `ValueError` for other models.
    """

    def __init__(self, model: Any, layers: Iterable[int]):
        self.active = False
        self.caught: dict[tuple[int, str], Tensor] = {}
        stock = stock_model(model)
        kind = stock.config.model_type
        if kind not in PROJECTIONS:
            raise ValueError(
                f"queries, keys and values of {kind} cannot be told apart from outside; "
                f"attention and relations can be compared for {', '.join(PROJECTIONS)}"
            )
        stack, attention, names = PROJECTIONS[kind]
        for layer in sorted(set(layers)):
            parent = stock.base_model.get_submodule(f"{stack}.{layer}.{attention}")
            for letter, name in zip("qkv", names, strict=True):
                parent.get_submodule(name).register_forward_hook(_Catch(self, (layer, letter)))

    def __enter__(self) -> Projections:
        self.active = True
        return self

    def __exit__(self, *error: Any) -> None:
        self.active = False

    def pair(self, layer: int, letters: str, heads: int) -> tuple[Tensor, Tensor]:
        """Two of a layer's projections, such as "qk", split into heads: `[B, heads, L, size]` each."""
        first, second = (self.caught[layer, letter].unflatten(-1, (heads, -1)).transpose(1, 2) for letter in letters)
        return first, second

    def clear(self) -> None:
        """Let go of what was caught."""
        self.caught = {}


class _Catch:
    """Forward hook that keeps a module's first output: DeBERTa also sends embeddings of positions through it."""

    def __init__(self, owner: Projections, key: tuple[int, str]):
        self.owner, self.key = owner, key

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self.owner.active:
            self.owner.caught.setdefault(self.key, output)
