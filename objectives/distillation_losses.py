"""What a student is compared by with its teacher: predictions, hidden states, attention and self-attention relations.

All are sums over tokens (or pairs of tokens) that are exactly zero where student and teacher are the same; padding
enters none of them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Divergence = Literal["forward", "reverse", "jensen_shannon"]
Pair = tuple[Tensor, Tensor]
"""Two projections of one layer, `[B, heads, L, size]`: queries and keys, or values twice."""


def wide(x: Tensor) -> Tensor:
    """Half precision as float32, other types as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0, kind: Divergence = "forward") -> Tensor:
    """Divergence of two distributions given as logits, `[…, V]` → `[…]`, in nats, without a factor T².

    "forward" is KL(teacher ‖ student), "reverse" KL(student ‖ teacher), "jensen_shannon" the mean of both against
    their mean. Raises `ValueError` for another kind.

    >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[50.0, 0.0]]), kind="jensen_shannon")
    tensor([0.2158])
    """
    if kind not in ("forward", "reverse", "jensen_shannon"):
        raise ValueError(f"divergence must be 'forward', 'reverse' or 'jensen_shannon', not {kind!r}")
    rows = _Divergence.apply(student.flatten(0, -2), teacher.detach().flatten(0, -2), temperature, kind)
    return rows.unflatten(0, student.shape[:-1])


class _Divergence(torch.autograd.Function):
    """Divergence of each row and its gradient in one go, some rows at a time.

    Operators one by one write some ten tensors of the size of the logits; this one writes the gradient alone, and on a
    CPU the rest stays in the cache.
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, temperature: float, kind: str) -> Tensor:
        ctx.dtype = student.dtype
        # as wide as the loss, since what loss scaling saves from vanishing in float16 would vanish here before it
        kept = wide(student[:0]).dtype
        gradient = torch.empty(student.shape, dtype=kept, device=student.device) if ctx.needs_input_grad[0] else None
        rows = (1 << 18 if student.device.type == "cpu" else 1 << 26) // max(student.shape[1], 1) + 1
        found = []
        for start in range(0, len(student), rows):
            part = slice(start, start + rows)
            q, p = (F.log_softmax(wide(x[part]) / temperature, -1) for x in (student, teacher))
            if kind == "forward":
                divergences = p.exp().mul_(p - q).sum(-1)
            elif kind == "reverse":
                divergences = q.exp().mul_(q - p).sum(-1)
            else:
                # log((exp(p) + exp(q)) / 2), written so that it is p where p equals q, and neither over- nor underflows
                mean = torch.maximum(p, q) + torch.log1p(torch.expm1(-(p - q).abs()) / 2)
                reverse = q.exp().mul_(q - mean).sum(-1)
                divergences = (p.exp().mul_(p - mean).sum(-1) + reverse) / 2
            found.append(divergences)
            if gradient is None:
                continue
            if kind == "forward":
                change = q.exp_().sub_(p.exp_())
            elif kind == "reverse":
                change = (q - p).sub_(divergences[:, None]).mul_(q.exp_())
            else:
                change = (q - mean).sub_(reverse[:, None]).mul_(q.exp_()).div_(2)
            gradient[part] = change.div_(temperature)
        ctx.save_for_backward(gradient)
        return torch.cat(found) if found else wide(student.new_zeros(0))

    @staticmethod
    def backward(ctx, *along: Tensor):
        (gradient,) = ctx.saved_tensors
        return (gradient * along[0][:, None]).to(ctx.dtype), None, None, None


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over tokens of 1 − cos of `[N, H]` states, as half the squared distance of the unit vectors."""
    unit_student, unit_teacher = (F.normalize(wide(x), dim=-1) for x in (student, teacher))
    return (unit_student - unit_teacher).square().sum() / 2


def squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over tokens of the mean squared difference of `[N, H]` states."""
    return (wide(student) - wide(teacher)).square().mean(-1).sum()


def scores(pair: Pair) -> Tensor:
    """Scaled dot products `[B, heads, L, L]`, in float32 or wider under autocast, too."""
    left, right = (wide(x) for x in pair)
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.transpose(-1, -2) / math.sqrt(left.shape[-1])


def attention_distance(student: Pair, teacher: Pair, mask: Tensor, probabilities: bool = False) -> Tensor:
    """Sum over pairs of tokens of the squared difference of attention, mean over heads (TinyBERT).

    Args:
        student, teacher: queries and keys.
        mask: bool `[B, L]`, false on padding.
        probabilities: compare after the softmax rather than before it.
    """
    ours, theirs = scores(student), scores(teacher)
    if probabilities:
        ours, theirs = (_without_padding(x, mask).softmax(-1) for x in (ours, theirs))
    inside = mask[:, None, :] & mask[:, :, None]
    return torch.where(inside, (ours - theirs).square().mean(1), 0).sum()


def relation_divergence(student: Pair, teacher: Pair, mask: Tensor) -> Tensor:
    """Sum over tokens of KL(teacher ‖ student) of relations softmax(A·Bᵀ / √size), mean over heads (MiniLM)."""
    ours, theirs = (_without_padding(scores(pair), mask) for pair in (student, teacher))
    apart = divergence(ours, theirs)
    return torch.where(mask, apart.mean(1), 0).sum()


def _without_padding(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
