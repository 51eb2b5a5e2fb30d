"""How a run shows itself: a live bar on a terminal, plain lines anywhere else."""

import atexit
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class PlainProgress(ProgressBar):
    """One line at most every `every` seconds, and one per validation: for log files and dumb terminals."""

    def __init__(self, every: float) -> None:
        super().__init__()
        self.every = every
        self._last = 0.0

    def disable(self) -> None:
        """Lightning calls it on every rank but the first; `_say` speaks on the first only."""

    def enable(self) -> None:
        """There is nothing to bring back."""

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
            names = ("train/loss", "val/loss", "val/ssim", "val/psnr", "val/nmse", "slices/s")
            self._say(trainer, "validated", names)

    def _say(self, trainer: pl.Trainer, what: str, names: tuple[str, ...]) -> None:
        if trainer.is_global_zero:
            metrics = trainer.callback_metrics
            values = "  ".join(f"{name} {float(metrics[name]):.4g}" for name in names if name in metrics)
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {what}  {values}", flush=True)


def progress(every: float) -> ProgressBar:
    """The bar for this terminal. every: seconds between plain lines where there is none."""
    if sys.stdout.isatty():
        return RichProgressBar(refresh_rate=1, theme=RichProgressBarTheme(metrics_format=".4g"))
    return PlainProgress(every)


class CountProgress:
    """Shows counted work that is not training: a bar on a terminal, elsewhere a line at most every `every` seconds.

    Called as `progress(what, done, total)`.
    """

    def __init__(self, every: float = 5.0) -> None:
        self.every = every
        self._last = time.perf_counter()
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True
        )
        self._tasks: dict[str, TaskID] = {}
        atexit.register(self._bars.stop)  # an error on the way must not leave the terminal without its cursor

    def __call__(self, what: str, done: int, total: int) -> None:
        if sys.stdout.isatty():
            self._draw(what, done, total)
        elif time.perf_counter() - self._last >= self.every or (done == total and what in self._tasks):
            self._last = time.perf_counter()
            self._tasks[what] = TaskID(0)
            print(f"{what}  {done}/{total}", flush=True)

    def _draw(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.start()
        self._bars.update(self._tasks[what], completed=done)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(what))
            self._bars.stop()
