"""Logs the size of optimizer steps relative to the weights."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from mrirecon.training.callbacks.dashboard import is_logged


class UpdateRatio(pl.Callback):
    """Logs `weight_norm`, and `update_ratio`: norm of the step over norm of the weights before it.

    The step is the change of the weights, so it includes clipping, momentum, weight decay and learning rate. A copy of
    the weights is kept during logged steps only. Does not synchronise with the device.
    """

    def __init__(self) -> None:
        self._before: list[Tensor] | None = None

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # A line search calls this several times per step; only before the first call have the weights not moved.
        if self._before is None and is_logged(trainer, trainer.global_step + 1):
            self._before = [p.clone() for p in pl_module.parameters() if p.requires_grad]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._before is None:
            return
        after = [p for p in pl_module.parameters() if p.requires_grad]
        weight_norm = get_total_norm(self._before)
        step_norm = get_total_norm([new - old for new, old in zip(after, self._before, strict=True)])
        self._before = None
        pl_module.log_dict({"weight_norm": weight_norm, "update_ratio": step_norm / weight_norm}, batch_size=1)
