"""Measures how many slices a second training really takes in, waiting for data included."""

import time
from typing import Any

import pytorch_lightning as pl

from mrirecon.data.sample import Sample


class Throughput(pl.Callback):
    """Logs `slices/s`, over all ranks, as the mean since it was last logged; validation does not count."""

    def __init__(self) -> None:
        self._slices = 0
        self._since = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._slices, self._since = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Sample, batch_idx: int
    ) -> None:
        self._slices += len(batch.target) * trainer.world_size
        last = batch_idx + 1 >= trainer.num_training_batches
        if not last and (batch_idx + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        rate = self._slices / (time.perf_counter() - self._since)
        pl_module.log("slices/s", rate, prog_bar=True, batch_size=1)
        self._slices, self._since = 0, time.perf_counter()
