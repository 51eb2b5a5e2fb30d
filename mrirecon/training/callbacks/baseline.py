"""Logs the scores of the zero-filled images as a constant line beside those of the model."""

from typing import Any

import pytorch_lightning as pl

from mrirecon.metrics.scores import MAIN_SCORES
from mrirecon.metrics.volume import VolumeScores
from mrirecon.training.callbacks.dashboard import writer_of


class ZeroFilledLine(pl.Callback):
    """Logs `zero_filled/ssim`, `psnr` and `nmse` over a run, for the validation slices and masks.

    Scored once, in the first validation.
    """

    def __init__(self) -> None:
        self._first_step = 0
        self.scores: dict[str, float] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first_step = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking and self.scores is None:
            pl_module.baseline = VolumeScores().to(pl_module.device)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        if self.scores is None:
            assert pl_module.baseline is not None
            results = pl_module.baseline.compute()  # on every rank: it gathers
            self.scores = {name: results[name] for name in MAIN_SCORES if results[name] is not None}
            pl_module.baseline = None
            self._draw(trainer, self._first_step)
        self._draw(trainer, trainer.global_step)

    def _draw(self, trainer: pl.Trainer, step: int) -> None:
        writer = writer_of(trainer)
        if writer is not None:
            for name, value in (self.scores or {}).items():
                writer.add_scalar(f"zero_filled/{name}", value, step)
