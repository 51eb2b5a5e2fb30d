"""An L1 penalty on the weights, added to the gradient before each step."""

import math

import pytorch_lightning as pl
import torch
from torch.optim import Optimizer

from mrirecon.errors import ConfigError


class L1Penalty(pl.Callback):
    """Adds the gradient of `weight` times the sum of |w|; biases and parameters of norms are excluded.

    An L2 penalty needs no callback: use `optimizer.weight_decay`, where that is not decoupled.
    """

    def __init__(self, weight: float) -> None:
        if not 0 <= weight < math.inf:
            raise ConfigError(f"callbacks.penalty.weight={weight}: expected a finite number of 0 or more")
        self.weight = weight

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        for p in pl_module.parameters():
            if p.grad is not None and p.ndim > 1:
                p.grad.add_(p.sign(), alpha=self.weight)
