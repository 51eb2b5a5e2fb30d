"""Measures how fast training takes in slices, how much of the time it waits for them, and the memory it needs."""

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
    end: float  # a time
    wait: float  # seconds before it began
    num_slices: int


class Throughput(pl.Callback):
    """Logs the speed of the last `num_steps` steps of an epoch, and `speed/memory_gb`; validation does not count.

    `slices/s`: over all ranks, all waiting included.
    `speed/data_wait`: the share of the time that lies between the steps. There the next batch is waited for, sent to
    the device and undersampled, and what was logged is written.
    `speed/memory_gb`: the most so far, on a GPU what torch has there, elsewhere this process without its workers.
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
    """In bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
