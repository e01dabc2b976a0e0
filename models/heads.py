"""Heads that transformers has no class for; each is called as `head(outputs, batch)` after the main model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PairHead(nn.Module):
    """Logits for a pair of texts from its first token: a tanh layer, then a linear one (BERT's pooler and classifier).

    Args:
        config: of the main model; gives width and the spread of initial weights.
        num_labels: classes.
    """

    def __init__(self, config: Any, num_labels: int = 2):
        super().__init__()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, num_labels)
        initialize(self, config)

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> Tensor:
        """`[B, num_labels]` from `outputs["hidden"]`, `[B, L, H]`; rows are padded on the right."""
        return self.classifier(torch.tanh(self.pooler(outputs["hidden"][:, 0])))


class SpanBoundaryHead(nn.Module):
    """Logits for the tokens of spans, from the two tokens around the span and the place in it (SpanBERT).

    Two layers (linear, GeLU, layer norm) over [left boundary; right boundary; position embedding], then the table of
    token embeddings, tied, with a bias of its own. Where tokens are embedded in less than the model's width (ALBERT),
    the second layer ends in that size.

    Args:
        embeddings: the main model's token embeddings.
        config: of the main model.
        max_targets: places in a span that have an embedding.
        position_size: size of that embedding.
    """

    def __init__(self, embeddings: nn.Embedding, config: Any, max_targets: int, position_size: int = 200):
        super().__init__()
        hidden, eps = config.hidden_size, getattr(config, "layer_norm_eps", 1e-12)
        self.positions = nn.Embedding(max_targets, position_size)
        self.first = nn.Linear(2 * hidden + position_size, hidden)
        self.first_norm = nn.LayerNorm(hidden, eps)
        self.second = nn.Linear(hidden, embeddings.embedding_dim)
        self.second_norm = nn.LayerNorm(embeddings.embedding_dim, eps)
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings))
        initialize(self, config)
        self.decoder = embeddings

    def forward(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> Tensor:
        """`[N, V]` for the targets whose boundaries and places are `sbo_left`, `sbo_right`, `sbo_offsets`, `[N]`."""
        hidden = outputs["hidden"].flatten(0, 1)
        left, right = hidden.index_select(0, batch["sbo_left"]), hidden.index_select(0, batch["sbo_right"])
        x = torch.cat([left, right, self.positions(batch["sbo_offsets"]).to(left.dtype)], -1)
        x = self.first_norm(F.gelu(self.first(x)))
        x = self.second_norm(F.gelu(self.second(x)))
        return F.linear(x, self.decoder.weight, self.bias)


def initialize(head: nn.Module, config: Any) -> None:
    """Weights of linear layers and embeddings normal with the model's own spread, biases zero."""
    std = getattr(config, "initializer_range", 0.02)
    for module in head.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
