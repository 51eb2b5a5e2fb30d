"""Exponential moving average of the weights, used for validation, pictures and checkpoints."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging


class WeightEMA(EMAWeightAveraging):
    """Lightning's EMAWeightAveraging, keeping the average in place through `on_validation_end`.

    Lightning swaps it out earlier, before pictures are made. List it after the callbacks that use the model in
    `on_validation_end`.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Does nothing: the average is swapped out in `on_validation_end`."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
