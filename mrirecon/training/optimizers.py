"""Optimizers, and rules for optimizers, that torch.optim lacks; one contract: `optimizer(params) -> Optimizer`.

Two attributes tell the training what an optimizer needs: `full_batch`, one step per epoch with the gradient of the
whole training set; `reevaluates`, that it asks for the loss and its gradient several times within a step.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS as TorchLBFGS
from torch.optim import SGD, Optimizer

Params = Iterable[Tensor]


class GradientDescent(SGD):
    """Gradient descent in the strict sense: x <- x - lr grad f(x), f the mean loss over all training slices.

    An optimizer step per epoch. params, lr, weight_decay: as in torch.optim.SGD.
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
    """torch's L-BFGS on the mean loss over all training slices: a step per epoch, of up to `max_iter` iterations."""

    full_batch = True
    reevaluates = True


class HeavyBall(Optimizer):
    """Gradient descent with a memory of the last move: x_1 = x_0 - lr grad f(x_0) + momentum (x_0 - x_-1).

    Polyak, doi:10.1016/0041-5553(64)90137-5. torch.optim.SGD with momentum keeps v <- momentum v + grad and moves by
    -lr v. Both are one method while lr stays; after a change of lr the last move here keeps its length, there it is
    scaled with the new lr.
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
        """One step; gives what the closure gives."""
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
    """pytorch_optimizer's Muon for the matrices of the convolutions, AdamW for the rest.

    A weight of (out, in, *kernel) is taken as the matrix (out, in*kernel). Weights with one channel on either side are
    vectors, as are biases and the parameters of norms: those go to AdamW, as the first and the last layer should
    (https://kellerjordan.github.io/posts/muon/).
    """
    from pytorch_optimizer import Muon  # takes a second to import: only who chooses it waits

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
    """Gives biases, the parameters of norms and single numbers a group of their own without weight decay.

    A penalty on their size does not limit what the network can do, it only moves it (arXiv:1812.01187, section 3.1).
    Groups that do not decay stay as they are. Gives the optimizer, which must not have taken a step.
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
    """Whether it trains at one point and is evaluated at another, as the schedule-free ones do (arXiv:2405.15682)."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def is_training(optimizer: Optimizer) -> bool:
    """Whether the weights stand where an optimizer that switches them takes its gradients."""
    return any(bool(group["train_mode"]) for group in optimizer.param_groups)


class Accumulation:
    """The mean loss over the slices of several batches, and its gradient, however many slices each batch has."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets what was added."""
        self._num_slices = 0
        self._total: Tensor | float = 0.0

    def weight(self, loss: Tensor, num_slices: int) -> Tensor:
        """A batch's sum over its slices, whose gradient is to be added up.  () -> ()"""
        self._num_slices += num_slices
        self._total = self._total + loss.detach() * num_slices
        return loss * num_slices

    def finish(self, params: Iterable[Tensor]) -> Tensor:
        """Divides the added gradients by the number of slices; the mean loss.  -> ()"""
        grads = [p.grad for p in params if p.grad is not None]
        torch._foreach_div_(grads, self._num_slices)
        mean = torch.as_tensor(self._total / self._num_slices)
        self.clear()
        return mean
