"""XLNet with segment memory: two streams for permutation LM, one causal stream for Transformer-XL.

Memory enters and leaves `forward` as `carry`, a tuple of tensors `[B, M, H]`, one per layer, detached. It is never a
buffer: distributed training would overwrite one process's with another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, XLNetConfig

from ..objectives.permutation import permutation_mask, target_positions
from .pretraining import PretrainingModel

Carry = tuple[torch.Tensor, ...]


class _XLNetWithMemory(PretrainingModel):
    objective: Any
    main: Any

    def __init__(self, objective, main, heads=None):
        super().__init__(objective, main, heads)
        for layer in main.transformer.layer:
            layer.register_forward_pre_hook(_positions_in_dtype, with_kwargs=True)

    @classmethod
    def build(cls, objective, backbone):
        """From a backbone. Raises `ValueError` unless it is XLNet."""
        if not isinstance(backbone.config, XLNetConfig):
            raise ValueError(
                f"{objective.name} needs XLNet's attention over a memory, which {backbone.config.model_type} does not "
                "have; use an xlnet preset or checkpoint"
            )
        main = backbone.load(AutoModelForCausalLM, **cls.settings(objective))
        return cls(
            objective, main.to(backbone.dtype or torch.float32)
        )  # stock weights of attention are float32 whatever was asked for

    @staticmethod
    def settings(objective) -> dict[str, Any]:
        """Settings of the configuration that the objective decides."""
        raise NotImplementedError

    def transform(
        self, batch: Mapping[str, Any], carry: Carry | None, **arguments
    ) -> tuple[torch.Tensor, Carry | None]:
        """(hidden states of the predicting stream, memory for the next segment)."""
        kept = self._kept(carry, batch.get("stream_starts"))
        memory = None if kept is None else [m.transpose(0, 1) for m in kept]
        output = self.main.transformer(
            input_ids=batch["input_ids"], mems=memory, use_mems=self.objective.mem_len > 0, **arguments
        )
        if output.mems is None:
            return output.last_hidden_state, None
        return output.last_hidden_state, tuple(m.detach().transpose(0, 1) for m in output.mems)

    @staticmethod
    def _kept(carry: Carry | None, starts: torch.Tensor | None) -> Carry | None:
        """The memory without what is stale: none where all streams begin anew, zeros for single rows that do."""
        if carry is None or starts is None or not starts.any():
            return carry
        if starts.all():
            return None
        return tuple(m.masked_fill(starts.bool()[:, None, None], 0) for m in carry)


class PermutationModel(_XLNetWithMemory):
    """XLNet's two streams; logits of the query stream at the predicted positions."""

    @staticmethod
    def settings(objective) -> dict[str, Any]:
        """Memory of the reused part only, as in the released code; users' rows are all read forwards."""
        return {"mem_len": objective.mem_len or None, "attn_type": "bi", "bi_data": False}

    def run(self, batch, carry=None, want=()):
        """`logits` `[N, V]` of the labelled positions, `carry`."""
        ids = batch["input_ids"]
        order = _halves(len(ids), ids.device) if self.objective.bi_data else None
        row, column, number = target_positions(batch, ids.shape[1])
        targets = torch.zeros_like(ids, dtype=torch.bool)
        targets[row, column] = True
        most = int(number.max()) + 1 if len(number) else 1
        mapping = torch.zeros(len(ids), most, ids.shape[1], device=ids.device, dtype=self.main.dtype)
        mapping[row, number, column] = 1.0
        blocked = permutation_mask(batch["perm_ranks"], targets, batch["parts"])
        arguments = {
            "attention_mask": batch["attention_mask"].to(mapping.dtype),
            "perm_mask": blocked.to(mapping.dtype),
            "target_mapping": mapping,
            "token_type_ids": batch.get("token_type_ids"),
        }
        transformer = self.main.transformer
        transformer.reuse_len = int((batch["parts"][0] == 0).sum()) or None
        transformer.bi_data = self.objective.bi_data
        try:
            hidden, memory = self._in_order(order, batch, carry, arguments)
        finally:
            transformer.bi_data = False
        return {"logits": self.main.lm_loss(hidden[row, number]), "carry": memory}

    def _in_order(self, order, batch, carry, arguments):
        if order is None:
            return self.transform(batch, carry, **arguments)
        back = torch.argsort(order)
        moved = {k: v[order] for k, v in batch.items() if k in ("input_ids", "stream_starts")}
        arguments = {k: v if v is None else v[order] for k, v in arguments.items()}
        carry = None if carry is None else tuple(m[order] for m in carry)
        hidden, memory = self.transform(moved, carry, **arguments)
        return hidden[back], None if memory is None else tuple(m[back] for m in memory)


class RecurrentModel(_XLNetWithMemory):
    """A causal XLNet; logits at every position."""

    @staticmethod
    def settings(objective) -> dict[str, Any]:
        """Causal attention; all of a segment is remembered."""
        return {"mem_len": objective.mem_len, "attn_type": "uni", "reuse_len": None, "bi_data": False}

    def run(self, batch, carry=None, want=()):
        """`logits` `[N, V]` of the labelled positions, `carry`."""
        hidden, memory = self.transform(batch, carry)
        rows = hidden.flatten(0, 1).index_select(0, batch["label_positions"])
        return {"logits": self.main.lm_loss(rows), "carry": memory}


def _positions_in_dtype(layer, args, kwargs):
    """XLNet makes its position encodings in float32 whatever the weights are."""
    return args, {**kwargs, "r": kwargs["r"].to(layer.rel_attn.q.dtype)}


def _halves(rows: int, device: torch.device) -> torch.Tensor:
    """Order that puts even rows, read forwards, before odd ones: XLNet turns the positions of the second half round.

    Raises `ValueError` for an odd number of rows.
    """
    if rows % 2:
        raise ValueError("bi_data needs an even number of rows per device; change per_device_train_batch_size")
    return torch.cat([torch.arange(first, rows, 2, device=device) for first in (0, 1)])
