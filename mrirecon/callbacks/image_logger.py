"""Logs the same validation slices after every epoch: zero-filled, reconstruction, target, error."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from mrirecon.data.sample import Sample
from mrirecon.data.sources import MaskedSlices
from mrirecon.physics.zero_filled import zero_filled
from mrirecon.pictures import panels, row, sheet


class ImageLogger(pl.Callback):
    """The middle slice of up to `num_images` validation volumes, spread over the set, in fixed windows."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self._chosen: dict[tuple[int, int], str] = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._chosen = _choose(trainer.datamodule.sets["val"], self.num_images)  # type: ignore[attr-defined]

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Sample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or not isinstance(trainer.logger, TensorBoardLogger):
            return
        keys = list(zip(batch.volume.tolist(), batch.slice_num.tolist(), strict=True))
        wanted = [(number, self._chosen[key]) for number, key in enumerate(keys) if key in self._chosen]
        if not wanted:
            return
        size = (batch.target.shape[-2], batch.target.shape[-1])
        baseline = zero_filled(batch.masked_kspace, size)
        for number, name in wanted:
            images = panels(baseline[number], outputs["pred"][number], batch.target[number])
            picture = sheet([row(images)], name)
            trainer.logger.experiment.add_image(f"val/{name}", picture[None], trainer.global_step)


def _choose(dataset: MaskedSlices, num_images: int) -> dict[tuple[int, int], str]:
    """(volume, slice) -> caption, of the slices to show."""
    volumes = dataset.source.volumes
    numbers = np.unique(np.linspace(0, len(volumes) - 1, min(num_images, len(volumes))).round().astype(int))
    chosen = {}
    for v in map(int, numbers):
        info, slice_num = volumes[v], volumes[v].num_slices // 2
        name = f"{dataset.source.label(info)} slice {slice_num}"
        chosen[v, slice_num] = f"{name}, {info.acquisition}, {dataset.acceleration(info):.2f}x"
    return chosen
