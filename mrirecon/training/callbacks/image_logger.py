"""Logs the same validation slices after every epoch: zero-filled, reconstruction, target, error."""

from collections.abc import Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from mrirecon.data.datamodule import ReconDataModule
from mrirecon.data.sources import Draw, MaskedSlices
from mrirecon.physics.sample import collate
from mrirecon.reports.pictures import FONT_SIZE, panels, row
from mrirecon.training.callbacks.dashboard import writer_of

# TensorBoard shows a picture of two panels about 350 points wide, and letters of 11 points are legible.
_COLUMNS_PER_POINT = 16


class ImageLogger(pl.Callback):
    """Logs the middle slice of up to `num_images` validation volumes, spread over the set, in fixed windows.

    The first rank reads and reconstructs them itself, independently of how batches are distributed.
    """

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    @torch.no_grad()
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = writer_of(trainer)
        if trainer.sanity_checking or writer is None:
            return
        data: ReconDataModule = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.sets["val"]
        for item, name in _choose(dataset, self.num_images).items():
            read = data.transfer_batch_to_device(collate([dataset[Draw(item, 0)]]), pl_module.device, 0)
            batch = data.on_after_batch_transfer(read, 0)
            assert batch.target is not None
            with trainer.precision_plugin.forward_context():
                pred = pl_module(batch).magnitude[0]
            picture = _picture(panels(batch.measurement.zero_filled[0], pred, batch.target[0]))
            writer.add_image(f"val/{name}", picture[None], trainer.global_step)


def _picture(images: Sequence[tuple[str, Tensor]]) -> np.ndarray:
    """Four panels two by two, with captions that stay legible at the width of TensorBoard's cards.

    [(caption, (y x) in 0..1)] -> uint8 (h w)
    """
    font_size = max(FONT_SIZE, images[0][1].shape[1] // _COLUMNS_PER_POINT)
    return np.concatenate([row(images[start : start + 2], font_size=font_size) for start in (0, 2)])


def _choose(dataset: MaskedSlices, num_images: int) -> dict[int, str]:
    """Index in the data set -> caption, for the slices to show."""
    num_volumes = len(dataset.source.volumes) * len(dataset.masks)
    numbers = set(np.linspace(0, num_volumes - 1, min(num_images, num_volumes)).round().astype(int).tolist())
    chosen = {}
    for item in range(len(dataset)):
        mask_name, index = dataset.split(item)
        info, volume, slice_num = dataset.source.where(index)
        if dataset.number(mask_name, volume) in numbers and slice_num == info.num_slices // 2:
            acceleration = dataset.volume_sampling(info, mask_name).acceleration
            chosen[item] = f"{dataset.source.name(index)}, {info.acquisition}, {acceleration:.2f}x"
    return chosen
