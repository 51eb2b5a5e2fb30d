"""Overhead of the framework: its training step against a bare PyTorch loop with the same model and batches."""

import copy
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mrirecon.apps.benchmarks.measure import Row, compared
from mrirecon.models.image_domain import unet
from mrirecon.physics.sample import Measurement, Model, Sample
from mrirecon.training.callbacks.progress import PlainProgress
from mrirecon.training.callbacks.throughput import Throughput
from mrirecon.training.callbacks.update_ratio import UpdateRatio
from mrirecon.training.losses import L1Loss
from mrirecon.training.module import ReconModule

NOTES = [
    "Reference: forward, loss, backward and `torch.optim.Adam` in a loop, nothing logged. Ours: the same step through "
    "Lightning with `ReconModule` and the callbacks of a training run, TensorBoard events included. Both train a U-Net "
    "by L1 on the same four batches, which lie ready on the device, and take turns; their losses are equal. The ratio "
    "is the median of the turns' ratios; 0.97 is an overhead of 3 %.",
]
_ALLOWED = 0.03
_BATCH, _NUM_BATCHES, _WARM_UP = 4, 4, 2
_ADAM = partial(torch.optim.Adam, lr=1e-3)


def rows(device: str, chans: int = 32, size: int = 320) -> Iterator[Row]:
    """Times the step with every step logged, the worst case; on a GPU also with every tenth, the default."""
    yield _row(device, chans, size, every=1, num_turns=12)
    if device == "cuda":
        yield _row(device, chans, size, every=10, num_turns=30)


def _row(device: str, chans: int, size: int, every: int, num_turns: int) -> Row:
    """Result row; a turn is `every` steps, of which one is logged."""
    turns = Turns(device, every)
    batches = [_sample(number, size, device) for number in range(_NUM_BATCHES)]
    num_steps = every * (num_turns + _WARM_UP)
    with torch.enable_grad(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        trainer = pl.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu", devices=1, max_epochs=1, log_every_n_steps=every,
            logger=TensorBoardLogger(folder, name="", version="", default_hp_metric=False), enable_checkpointing=False,
            enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, limit_val_batches=0,
            callbacks=[UpdateRatio(), Throughput(20), PlainProgress(float("inf")), turns],
        )  # fmt: skip
        model = unet(chans, 4, 0.0, "instance", None, 6.0)
        ready = Ready([batches[number % _NUM_BATCHES] for number in range(num_steps)])
        trainer.fit(ReconModule(model, L1Loss(), _ADAM), ready)
    name = f"training step, U-Net {chans} channels, {_BATCH} x {size}x{size}, Adam, " + (
        "logging every step" if every == 1 else f"logging every {every} steps"
    )
    ours, reference = turns.ours[_WARM_UP:], turns.reference[_WARM_UP:]
    row = compared(name, ours, reference, 1 / (1 + _ALLOWED), 1e3 / every)
    return row._replace(goal=f"<= {100 * _ALLOWED:g} % over")


def _sample(seed: int, size: int, device: str) -> Sample:
    """A batch of noise, since the cost of a step does not depend on its content."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, _BATCH, size, size, generator=generator)
    mask, ones = torch.ones(_BATCH, 1, 1, size, dtype=torch.bool), torch.ones(_BATCH)
    numbers = torch.zeros(_BATCH, dtype=torch.int64)
    mask, image, ones, numbers = (tensor.to(device) for tensor in (mask, image, ones, numbers))
    measurement = Measurement(None, mask, mask, None, image[0], (size, size), "kspace")
    return Sample(measurement, image[1], None, None, ones, ones, 0 * ones, numbers, numbers)


class Ready(pl.LightningDataModule):
    """Datamodule of batches that are ready on the device."""

    seed = 0

    def __init__(self, batches: list[Sample]) -> None:
        super().__init__()
        self.batches = batches

    def serve(self, model: Model) -> None:
        """Accepts any model."""

    def train_dataloader(self) -> DataLoader[Sample]:
        return DataLoader(cast(Dataset[Sample], self.batches), batch_size=None)

    def val_dataloader(self) -> DataLoader[Sample]:
        return self.train_dataloader()  # not used; without one, Lightning warns


class Turns(pl.Callback):
    """Repeats every `every` steps of the framework in a bare loop, and times both.

    Must be the last callback. The framework's time runs from the end of one turn of the bare loop to the start of the
    next, so it includes fetching, hooks, logging and writing. The losses of both must agree in every step.
    """

    def __init__(self, device: str, every: int) -> None:
        self.device, self.every = device, every
        self.ours: list[float] = []
        self.reference: list[float] = []
        self._waiting: list[tuple[Sample, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ReconModule)
        self._model = copy.deepcopy(pl_module.model)
        self._optimizer = _ADAM(self._model.parameters())
        self._resumed = self._now()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Sample, batch_idx: int
    ) -> None:
        self._waiting.append((batch, outputs["loss"]))
        if len(self._waiting) < self.every:
            return
        started = self._now()
        self.ours.append(started - self._resumed)
        losses = [_bare_step(self._model, self._optimizer, sample) for sample, _ in self._waiting]
        self.reference.append(self._now() - started)
        self._compare(torch.stack(losses), torch.stack([loss for _, loss in self._waiting]))
        self._waiting.clear()
        self._resumed = self._now()

    def _compare(self, theirs: Tensor, ours: Tensor) -> None:
        if self.device == "cpu":
            assert torch.equal(ours, theirs), (ours, theirs)
        elif len(self.ours) == 1:
            # GPU sums have no fixed order, and Adam's first steps amplify rounding to steps of size lr.
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=0)

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _bare_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Sample) -> Tensor:
    optimizer.zero_grad()
    loss = L1Loss()(model(batch.measurement), batch).mean()
    loss.backward()
    optimizer.step()
    return loss.detach()
