"""Finds a learning rate before the first step by Lightning's range test."""

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateFinder

from mrirecon.errors import ConfigError, DivergedError
from mrirecon.training.callbacks.record import Record

log = logging.getLogger(__name__)


class LRFinder(LearningRateFinder):
    """Tries `num_steps` rates from `min_lr` to `max_lr`, picks the one of the steepest fall of the loss, and restarts.

    The schedule is built for the rate found, which also replaces optimizer.lr in the config saved in checkpoints. A
    continued run keeps its rate.
    """

    def __init__(self, min_lr: float, max_lr: float, num_steps: int, early_stop_threshold: float | None) -> None:
        if not 0 < min_lr < max_lr:
            raise ConfigError(f"callbacks.lr_finder: expected 0 < min_lr < max_lr, not {min_lr} and {max_lr}")
        super().__init__(min_lr, max_lr, num_steps, "exponential", early_stop_threshold, update_attr=False)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.ckpt_path is not None:
            return
        try:
            super().on_fit_start(trainer, pl_module)
        except DivergedError as error:
            raise ConfigError(
                f"callbacks.lr_finder.max_lr={self._max_lr}: the range test met a loss that is not finite: lower it"
            ) from error
        found = self.optimal_lr.suggestion() if self.optimal_lr is not None else None
        if found is None:
            raise ConfigError(
                "callbacks.lr_finder: too few steps to see where the loss falls: raise callbacks.lr_finder.num_steps "
                f"(now {self._num_training_steps}) or lower max_lr (now {self._max_lr})"
            )
        log.info("The range test found the learning rate %.3g", found)
        pl_module.set_lr(found)
        trainer.strategy.setup_optimizers(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Record):
                callback.config = {**callback.config, "optimizer": {**callback.config["optimizer"], "lr": found}}
