"""Logs training speed in slices per second, the share of time spent waiting for data, and peak memory."""

import resource
import sys
import time
from collections import deque
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from mrirecon.physics.sample import Sample
from mrirecon.training.callbacks.dashboard import is_logged


class _Step(NamedTuple):
    end: float  # time at which it ended, seconds
    wait: float  # seconds between the previous step and this one
    num_slices: int


class Throughput(pl.Callback):
    """Logs the speed over the last `num_steps` training steps of an epoch, and the peak memory.

    `slices/s`: slices per second over all ranks, waiting included; validation is not.
    `speed/data_wait`: share of the time between steps, when the next batch is loaded, sent to the device and
    undersampled, and logs are written.
    `speed/memory_gb`: peak so far in GB; on a GPU torch's allocations, else this process without its workers.
    """

    def __init__(self, num_steps: int) -> None:
        self._steps: deque[_Step] = deque(maxlen=num_steps + 1)
        self._wait = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._steps.clear()
        self._steps.append(_Step(time.perf_counter(), 0.0, 0))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Sample, batch_idx: int
    ) -> None:
        self._wait = time.perf_counter() - self._steps[-1].end

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Sample, batch_idx: int
    ) -> None:
        self._steps.append(_Step(time.perf_counter(), self._wait, len(batch.scale) * trainer.world_size))
        first, *steps = self._steps
        seconds = steps[-1].end - first.end
        pl_module.log("slices/s", sum(step.num_slices for step in steps) / seconds, prog_bar=True, batch_size=1)
        if is_logged(trainer, trainer.global_step):
            pl_module.log("speed/data_wait", sum(step.wait for step in steps) / seconds, batch_size=1)
            pl_module.log("speed/memory_gb", _peak_memory(pl_module.device) / 1e9, batch_size=1)


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
