"""Keeps losses, validation scores and step times of a training in memory."""

import time
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch

from mrirecon.metrics.scores import MAIN_SCORES
from mrirecon.physics.sample import Sample


class Curves(pl.Callback):
    """Records a training.

    `losses`: training loss of every optimizer step, before the step. `validations`: scores of each validation with the
    step, the passes over the training data and the number of slices trained on so far.
    """

    def __init__(self) -> None:
        self.validations: list[dict[str, Any]] = []
        self.num_slices = 0
        self._losses: list[torch.Tensor] = []
        self._seconds: list[float] = []  # per optimizer step, of each epoch
        self._last_step = self._first_step = 0
        self._start = 0.0

    @property
    def losses(self) -> list[float]:
        """Training loss of every optimizer step."""
        return [float(loss) for loss in self._losses]

    @property
    def seconds_per_step(self) -> float | None:
        """Median over epochs, without the first (warm-up) where there are others; None before an epoch ended."""
        return median(self._seconds[1:] or self._seconds) if self._seconds else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first_step, self._start = trainer.global_step, _now(pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Sample, batch_idx: int
    ) -> None:
        self.num_slices += len(batch.scale) * trainer.world_size
        if trainer.global_step > self._last_step:
            self._last_step = trainer.global_step
            self._losses.append(pl_module.step_loss)
        if trainer.is_last_batch and trainer.global_step > self._first_step:
            seconds = _now(pl_module.device) - self._start
            self._seconds.append(seconds / (trainer.global_step - self._first_step))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or pl_module.validated is None:
            return
        step, results = pl_module.validated
        scores = {name: results[name] for name in (*MAIN_SCORES, "loss")}
        passes = trainer.current_epoch + 1 if self.num_slices else 0
        self.validations.append({"step": step, "passes": passes, "num_slices": self.num_slices, **scores})


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
