"""What a student is compared by with its teacher: predictions, hidden states, attention and self-attention relations.

All are sums over tokens (or pairs of tokens) that are exactly zero where student and teacher are the same; padding
enters none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    nothing = torch.empty(0, dtype=torch.long, device=student.device)
    flat = divergence_and_rows(student.flatten(0, -2), teacher.flatten(0, -2), nothing, temperature, kind)[0]
    return flat.unflatten(0, student.shape[:-1])


def divergence_and_rows(
    student: Tensor, teacher: Tensor, rows: Tensor, temperature: float = 1.0, kind: Divergence = "forward"
) -> Pair:
    """`divergence` of logits `[N, V]`, and `student[rows]`, for another loss on some of them; `rows` are distinct.

    The gradients of both meet in one tensor of the logits' size, where indexing would make another, mostly of zeros.
    """
    if kind not in ("forward", "reverse", "jensen_shannon"):
        raise ValueError(f"divergence must be 'forward', 'reverse' or 'jensen_shannon', not {kind!r}")
    return _Divergence.apply(student, teacher.detach(), rows, temperature, kind)


def same_choice(student: Tensor, teacher: Tensor) -> Tensor:
    """Whether the student, too, gives its greatest logit to the teacher's choice, `[N, V]` → bool `[N]`."""
    chosen = teacher.max(-1, keepdim=True).indices  # on a CPU argmax takes twice as long
    return student.gather(-1, chosen).squeeze(-1) == student.amax(-1)


def _parts(like: Tensor, count: int) -> Iterator[slice]:
    """`count` rows, each as large as those of `like`, some at a time: on a CPU few enough for its caches."""
    rows = max((1 << 16 if like.device.type == "cpu" else 1 << 26) // max(like[:1].numel(), 1), 1)
    return (slice(start, start + rows) for start in range(0, count, rows))


class _Divergence(torch.autograd.Function):
    """Divergence of each row, some rows at a time; the way back computes the distributions anew.

    Operators one by one write some ten tensors of the size of the logits; this one writes the gradient alone.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, rows: Tensor, temperature: float, kind: Divergence) -> Pair:
        ctx.save_for_backward(student, teacher, rows)
        ctx.temperature, ctx.kind = temperature, kind
        found = [wide(student.new_zeros(0))]
        for part in _parts(student, len(student)):
            q, p = (F.log_softmax(wide(x[part]) / temperature, -1) for x in (student, teacher))
            if kind == "forward":
                found.append(p.exp().mul_(p.sub_(q)).sum(-1))
            elif kind == "reverse":
                found.append(q.exp().mul_(q.sub_(p)).sum(-1))
            else:
                mean = _log_mean(p, q)
                found.append((p.exp().mul_(p - mean).sum(-1) + q.exp().mul_(q - mean).sum(-1)) / 2)
        return torch.cat(found), student.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor, along_rows: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, rows = ctx.saved_tensors
        gradient, scale = torch.empty_like(student), (along / ctx.temperature)[:, None]
        for part in _parts(student, len(student)):
            scaled = [wide(x[part]) / ctx.temperature for x in (student, teacher)]
            if ctx.kind == "forward":
                q, p = (F.softmax(x, -1) for x in scaled)
                change = q.sub_(p)
            else:
                q, p = (F.log_softmax(x, -1) for x in scaled)
                change = q - (p if ctx.kind == "reverse" else _log_mean(p, q))
                weights = q.exp_() if ctx.kind == "reverse" else q.exp_().div_(2)
                # Σ q = 1, and half of it under Jensen–Shannon, where the mean of `change` by q needs it twice
                own = (change * weights).sum(-1, keepdim=True)
                change = change.sub_(own if ctx.kind == "reverse" else 2 * own).mul_(weights)
            # multiplied before it is narrowed: what loss scaling saves from vanishing in float16 would vanish
            gradient[part] = change.mul_(scale[part])
        return gradient.index_add_(0, rows, along_rows), None, None, None, None


def _log_mean(p: Tensor, q: Tensor) -> Tensor:
    """log((exp(p) + exp(q)) / 2), written so that it is p where p equals q, and neither over- nor underflows."""
    return torch.maximum(p, q) + torch.log1p(torch.expm1(-(p - q).abs()) / 2)


def cosine_distance(student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
    """Sum over tokens, or over those of `rows`, all distinct, of 1 − cos of `[N, H]` states: half |unit − unit|²."""
    return _Distance.apply(student, teacher.detach(), rows, _cosine)


def squared_distance(student: Tensor, teacher: Tensor, rows: Tensor | None = None) -> Tensor:
    """Sum over tokens, or over those of `rows`, all distinct, of the mean squared difference of `[N, H]` states."""
    return _Distance.apply(student, teacher.detach(), rows, _squared)


def _cosine(student: Tensor, teacher: Tensor) -> Pair:
    norms = student.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    unit = student / norms
    apart = unit - teacher / teacher.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return apart.square().sum() / 2, (apart - unit * (unit * apart).sum(-1, keepdim=True)).div_(norms)


def _squared(student: Tensor, teacher: Tensor) -> Pair:
    apart = student - teacher
    return _square(apart) / apart.shape[-1], apart.mul_(2 / apart.shape[-1])


def _square(x: Tensor) -> Tensor:
    """Sum of squares, in one pass."""
    flat = x.flatten()
    return torch.dot(flat, flat)


class _Distance(torch.autograd.Function):
    """Sum of a distance over rows, some at a time, and its gradient with it, the one tensor of the states' size."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, rows: Tensor | None, distance: Callable) -> Tensor:
        ctx.dtype, gradient = student.dtype, wide(torch.zeros_like(student))
        if rows is None or len(rows) == len(student):  # all of them, whose order does not matter: slices are views
            places: Any = list(_parts(student, len(student)))
        else:
            places = [rows[part] for part in _parts(student, len(rows))]
        total = gradient.new_zeros(())
        for at in places:
            value, change = distance(wide(student[at]), wide(teacher[at]))
            gradient[at] = change
            total += value
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * along).to(ctx.dtype), None, None, None


def scores(pair: Pair) -> Tensor:
    """Scaled dot products `[B, heads, L, L]`, in float32 or wider under autocast, too."""
    left, right = (wide(x) for x in pair)
    with torch.autocast(left.device.type, enabled=False):
        return (left / math.sqrt(left.shape[-1])) @ right.transpose(-1, -2)


def attention_distance(student: Pair, teacher: Pair, mask: Tensor, probabilities: bool = False) -> Tensor:
    """Sum over pairs of tokens of the squared difference of attention, mean over heads (TinyBERT).

    Args:
        student, teacher: queries and keys.
        mask: bool `[B, L]`, false on padding.
        probabilities: compare after the softmax rather than before it.
    """
    inside = mask[:, None, :] & mask[:, :, None]
    if probabilities:
        ours, theirs = (_without_padding(scores(pair), mask).softmax(-1) for pair in (student, teacher))
        return torch.where(inside, (ours - theirs).square().mean(1), 0).sum()
    return 2 * _compare_scores(student, teacher, mask, _half_scores_apart)


def relation_divergence(student: Pair, teacher: Pair, mask: Tensor) -> Tensor:
    """Sum over tokens of KL(teacher ‖ student) of relations softmax(A·Bᵀ / √size), mean over heads (MiniLM)."""
    return _compare_scores(student, teacher, mask, _relations_apart)


def _half_scores_apart(ours: Tensor, theirs: Tensor, mask: Tensor) -> Pair:
    outside = ~(mask[:, None, :] & mask[:, :, None])
    apart = ours.sub_(theirs).masked_fill_(outside[:, None], 0)
    return _square(apart) / 2, apart


def _relations_apart(ours: Tensor, theirs: Tensor, mask: Tensor) -> Pair:
    q, p = (F.log_softmax(_without_padding(x, mask), -1) for x in (ours, theirs))
    weights = p.exp()
    apart = p.sub_(q).mul_(weights).sum(-1)
    padding = ~mask[:, None]
    return apart.masked_fill_(padding, 0).sum(), q.exp_().sub_(weights).masked_fill_(padding[..., None], 0)


def _compare_scores(student: Pair, teacher: Pair, mask: Tensor, compare: Callable) -> Tensor:
    left, right = (wide(x) for x in student)
    return _ScoreLoss.apply(left, right, *(x.detach() for x in teacher), mask, compare) / left.shape[1]


class _ScoreLoss(torch.autograd.Function):
    """A loss on two models' scores, some rows at a time, and its gradient with it.

    `compare` takes scores of both and the mask, and gives the loss and its gradient for the first. No tensor has the
    size of the scores of a batch, neither here nor on the way back.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, *others: Any) -> Tensor:
        teacher_left, teacher_right, mask, compare = others
        gradients, total = [torch.empty_like(x) for x in (left, right)], left.new_zeros(())
        ctx.scale = 1 / math.sqrt(left.shape[-1])
        for part in _parts(left[..., :1].expand(-1, -1, -1, left.shape[2]), len(left)):
            pair = left[part].contiguous(), right[part].contiguous()  # as products of matrices want them
            value, change = compare(scores(pair), scores((teacher_left[part], teacher_right[part])), mask[part])
            total += value
            if not any(ctx.needs_input_grad):  # evaluation
                continue
            with torch.autocast(change.device.type, enabled=False):
                gradients[0][part], gradients[1][part] = change @ pair[1], change.transpose(-1, -2) @ pair[0]
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor | None, ...]:
        scale = along * ctx.scale
        return *(gradient * scale for gradient in ctx.saved_tensors), None, None, None, None


def _without_padding(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
