"""Progress of a run: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme

from mrirecon.metrics.scores import MAIN_SCORES


class PlainProgress(ProgressBar):
    """Prints a line at most every `every` seconds, and one per validation; for log files."""

    def __init__(self, every: float) -> None:
        super().__init__()
        self.every = every
        self._last = 0.0

    def disable(self) -> None:
        """Does nothing: `_say` prints on the first rank only."""

    def enable(self) -> None:
        """Does nothing, see `disable`."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.perf_counter() - self._last >= self.every:
            self._last = time.perf_counter()
            self._say(trainer, f"step {batch_idx + 1}/{trainer.num_training_batches}", ("train/loss", "slices/s"))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            names = ("train/loss", "val/loss", *(f"val/{name}" for name in MAIN_SCORES), "slices/s")
            self._say(trainer, "validated", names)

    def _say(self, trainer: pl.Trainer, what: str, names: tuple[str, ...]) -> None:
        if trainer.is_global_zero:
            metrics = trainer.callback_metrics
            values = "  ".join(f"{name} {float(metrics[name]):.4g}" for name in names if name in metrics)
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {what}  {values}", flush=True)


def progress(every: float) -> ProgressBar:
    """Progress bar on a terminal, else plain lines. every: seconds between plain lines."""
    if sys.stdout.isatty():
        return RichProgressBar(refresh_rate=1, theme=RichProgressBarTheme(metrics_format=".4g"))
    return PlainProgress(every)
