"""Logs the same validation slices after every epoch: zero-filled, reconstruction, target, error."""

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import default_collate

from mrirecon.data.sample import Slice, undersample
from mrirecon.data.sources import Draw, MaskedSlices
from mrirecon.physics.zero_filled import zero_filled
from mrirecon.pictures import panels, row, sheet


class ImageLogger(pl.Callback):
    """The middle slice of up to `num_images` validation volumes, spread over the set, in fixed windows.

    The first rank reads and reconstructs them itself: which rank a batch is dealt to does not matter.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    @torch.no_grad()
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return
        dataset: MaskedSlices = trainer.datamodule.sets["val"]  # type: ignore[attr-defined]
        for item, name in _choose(dataset, self.num_images).items():
            batch = undersample(_moved(default_collate([dataset[Draw(item, 0)]]), pl_module.device))
            with trainer.precision_plugin.forward_context():
                pred = pl_module(batch)[0]
            size = (batch.target.shape[-2], batch.target.shape[-1])
            images = panels(zero_filled(batch.masked_kspace, size)[0], pred, batch.target[0])
            picture = sheet([row(images)], name)
            trainer.logger.experiment.add_image(f"val/{name}", picture[None], trainer.global_step)


def _moved(batch: Slice, device: torch.device) -> Slice:
    return Slice(*(tensor.to(device) for tensor in batch))


def _choose(dataset: MaskedSlices, num_images: int) -> dict[int, str]:
    """Number in the data set -> caption, of the slices to show."""
    volumes = dataset.source.volumes
    numbers = set(np.linspace(0, len(volumes) - 1, min(num_images, len(volumes))).round().astype(int).tolist())
    chosen = {}
    for item in range(len(dataset)):
        info, volume, slice_num = dataset.source.where(item)
        if volume in numbers and slice_num == info.num_slices // 2:
            name = f"{dataset.source.label(info)} slice {slice_num}"
            chosen[item] = f"{name}, {info.acquisition}, {dataset.acceleration(info):.2f}x"
    return chosen
