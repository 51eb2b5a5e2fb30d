"""Optimizers and helpers that torch.optim lacks; contract: `optimizer(params) -> Optimizer`.

Attributes read by the training: `full_batch`: one step per epoch, on the gradient over the whole training set;
`reevaluates`: evaluates loss and gradient several times per step.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS as TorchLBFGS
from torch.optim import SGD, Optimizer

Params = Iterable[Tensor]


class GradientDescent(SGD):
    """Full-batch gradient descent: x <- x - lr grad f(x), f the mean loss over all training slices.

    One step per epoch. params, lr, weight_decay: as in torch.optim.SGD.
    """

    full_batch = True
    reevaluates = False

    def __init__(
        self,
        params: Params,
        lr: float,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, foreach=foreach, fused=fused)


class LBFGS(TorchLBFGS):
    """torch's L-BFGS on the mean loss over all training slices: one step of up to `max_iter` iterations per epoch."""

    full_batch = True
    reevaluates = True


class HeavyBall(Optimizer):
    """Polyak's heavy ball: x_1 = x_0 - lr grad f(x_0) + momentum (x_0 - x_-1).

    doi:10.1016/0041-5553(64)90137-5. torch.optim.SGD with momentum keeps v <- momentum v + grad and steps by -lr v.
    Both agree at constant lr; after a change of lr the previous step keeps its length here, and is rescaled there.
    """

    def __init__(self, params: Params, lr: float, momentum: float, weight_decay: float = 0.0) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"lr={lr}, momentum={momentum}, weight_decay={weight_decay}: expected lr and weight_decay of at least "
                "0 and momentum from 0 to below 1"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step. Returns the closure's value."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._move(params, group["lr"], group["momentum"], group["weight_decay"])
        return loss

    def _move(self, params: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        if weight_decay:
            grads = list(torch._foreach_add(grads, params, alpha=weight_decay))
        moves = [self.state[p].setdefault("move", torch.zeros_like(p)) for p in params]
        torch._foreach_mul_(moves, momentum)
        torch._foreach_add_(moves, grads, alpha=-lr)
        torch._foreach_add_(params, moves)


def muon(
    params: Params,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    ns_steps: int,
    use_adjusted_lr: bool,
    adamw_lr: float,
    adamw_betas: Sequence[float],
    adamw_eps: float,
    foreach: bool | None,
) -> Optimizer:
    """pytorch_optimizer's Muon for convolution weights, AdamW for the rest.

    A weight (out, in, *kernel) is treated as a matrix (out, in*kernel). AdamW takes biases, parameters of norms, and
    weights with a single input or output channel, which are the first and the last layer
    (https://kellerjordan.github.io/posts/muon/).
    """
    from pytorch_optimizer import Muon  # takes a second to import, so only where it is used

    params = list(params)
    groups = [
        {"params": [p for p in params if _is_matrix(p)], "use_muon": True},
        {"params": [p for p in params if not _is_matrix(p)], "use_muon": False},
    ]
    return Muon(
        [group for group in groups if group["params"]],
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        ns_steps=ns_steps,
        use_adjusted_lr=use_adjusted_lr,
        adamw_lr=adamw_lr,
        adamw_betas=(adamw_betas[0], adamw_betas[1]),
        adamw_wd=weight_decay,
        adamw_eps=adamw_eps,
        foreach=foreach,
    )


def _is_matrix(p: Tensor) -> bool:
    return p.ndim >= 2 and min(p.shape[:2]) > 1


def exempt_from_decay(optimizer: Optimizer) -> Optimizer:
    """Moves biases, parameters of norms and scalars into groups without weight decay (arXiv:1812.01187, section 3.1).

    Groups without weight decay are unchanged. Returns the optimizer, which must not have taken a step yet.
    """
    for group in list(optimizer.param_groups):
        exempt = [p for p in group["params"] if p.ndim <= 1]
        kept = [p for p in group["params"] if p.ndim > 1]
        if not group.get("weight_decay") or not exempt:
            continue
        if kept:
            group["params"] = kept
            optimizer.add_param_group({**group, "params": exempt, "weight_decay": 0.0})
        else:
            group["weight_decay"] = 0.0
    return optimizer


def switches_weights(optimizer: Optimizer) -> bool:
    """Whether training and evaluation use different weights, as in schedule-free optimizers (arXiv:2405.15682)."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def is_training(optimizer: Optimizer) -> bool:
    """Whether an optimizer that switches weights has the training weights in place."""
    return any(bool(group["train_mode"]) for group in optimizer.param_groups)


class Accumulation:
    """Accumulates the mean loss over the slices of several batches, and its gradient; batch sizes may differ."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Resets the sums."""
        self._num_slices = 0
        self._total: Tensor | float = 0.0

    def weight(self, loss: Tensor, num_slices: int) -> Tensor:
        """Sum of the loss over a batch's slices, to call backward on.  () -> ()"""
        self._num_slices += num_slices
        self._total = self._total + loss.detach() * num_slices
        return loss * num_slices

    def finish(self, params: Iterable[Tensor]) -> Tensor:
        """Divides the accumulated gradients by the number of slices. Returns the mean loss.  -> ()"""
        grads = [p.grad for p in params if p.grad is not None]
        torch._foreach_div_(grads, self._num_slices)
        mean = torch.as_tensor(self._total / self._num_slices)
        self.clear()
        return mean
