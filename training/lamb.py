"""LAMB, the optimizer that ALBERT was trained with: Adam's update, rescaled for each weight matrix.

PyTorch and transformers have none, and bitsandbytes' needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

LAMB = "lamb"
"""Its name for `--optim`."""


class Lamb(torch.optim.Optimizer):
    """You et al. 2019 (arXiv 1904.00962), algorithm 2, with φ the identity.

    With Adam's update r (bias-corrected) of a weight matrix x: x ← x − lr · ‖x‖ / ‖r + λ·x‖ · (r + λ·x). The ratio is 1
    where either norm is 0.

    ALBERT's released code (google-research/albert: lamb_optimizer.py) does not correct the bias; this class does, as
    the paper. As there, biases and the weights of norms, that is tensors of one dimension, have ratio 1: they begin at
    0 or 1, which says nothing about the size of their steps.

    Sharded tensors (FSDP2) are measured whole, with one sum over the processes for each group and step. Optimizers
    that flatten parameters (DeepSpeed, FSDP1) leave no matrices to measure, and do not go with it.

    Args:
        params: parameters or groups.
        lr, betas, eps: as Adam's.
        weight_decay: λ.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in params:
            state = self.state[parameter]
            if not state:
                state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1
        states = [self.state[p] for p in params]
        steps = [state["step"].item() for state in states]
        weights, grads = _local(params), _local([p.grad for p in params])  # type: ignore[misc]
        means, squares = _local([s["exp_avg"] for s in states]), _local([s["exp_avg_sq"] for s in states])
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        roots = torch._foreach_div(squares, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        updates = list(torch._foreach_div(means, [1 - beta1**step for step in steps]))
        torch._foreach_div_(updates, roots)
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        if matrices := [i for i, parameter in enumerate(params) if parameter.ndim > 1]:
            scaled = [updates[i] for i in matrices]
            ratios = _ratios([params[i] for i in matrices], [weights[i] for i in matrices], scaled)
            torch._foreach_mul_(scaled, list(ratios.unbind()))
        torch._foreach_add_(weights, updates, alpha=-group["lr"])


def _local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What this process holds of each tensor; views, so that changes in place reach them."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def _ratios(params: Sequence[Tensor], weights: list[Tensor], updates: list[Tensor]) -> Tensor:
    """‖weights‖ / ‖update‖ of each parameter."""
    norms = torch.stack(torch._foreach_norm([*weights, *updates]))
    if isinstance(params[0], DTensor):
        norms = norms.square()
        dist.all_reduce(norms, group=params[0].device_mesh.get_group())
        norms = norms.sqrt()
    of_weights, of_updates = norms.chunk(2)
    return torch.where((of_weights > 0) & (of_updates > 0), of_weights / of_updates, 1.0)
