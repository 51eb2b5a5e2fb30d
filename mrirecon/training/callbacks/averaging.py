"""An exponential moving average of the weights, which is what is validated, shown and kept."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging


class WeightEMA(EMAWeightAveraging):
    """Lightning's EMAWeightAveraging, with the average in place until all of validation is over.

    Lightning's takes it away before `on_validation_end`, where pictures are made. It has to come after the callbacks
    that look at the model there.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing yet."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
