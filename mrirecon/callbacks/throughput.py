"""Measures how many slices a second training really takes in, waiting for data included."""

import time
from collections import deque
from typing import Any

import pytorch_lightning as pl

from mrirecon.data.sample import Sample


class Throughput(pl.Callback):
    """Logs `slices/s` over all ranks, the mean of the last `num_steps` steps of an epoch; validation does not count."""

    def __init__(self, num_steps: int) -> None:
        self._ends: deque[tuple[float, int]] = deque(maxlen=num_steps + 1)  # (time, slices taken in that step)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ends.clear()
        self._ends.append((time.perf_counter(), 0))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Sample, batch_idx: int
    ) -> None:
        self._ends.append((time.perf_counter(), len(batch.target) * trainer.world_size))
        slices = sum(count for _, count in list(self._ends)[1:])
        pl_module.log("slices/s", slices / (self._ends[-1][0] - self._ends[0][0]), prog_bar=True, batch_size=1)
