"""Slices, samples and models that tests of several rooms build."""

from typing import Any

import torch
from torch import Tensor

from mrirecon.models.base import ReconModel, with_sensitivities
from mrirecon.physics.sample import HybridSlice, Prediction, Sample, Slice, undersample


def slices(kspace: Tensor, mask: Tensor, size: tuple[int, int], **changes: Any) -> Slice:
    """Slices as read, without a target.  (b coil h w), (b|1 1 1|h w)"""
    b = len(kspace)
    fields: dict[str, Any] = {
        "kspace": kspace, "mask": mask.expand(b, -1, -1, -1), "acs_mask": mask.expand(b, -1, -1, -1),
        "loss_mask": None, "target": None, "size": torch.tensor(size).expand(b, 2), "data_range": torch.ones(b),
        "volume": torch.zeros(b, dtype=torch.int64), "slice_num": torch.arange(b),
        "affine": torch.eye(2, 3).expand(b, 2, 3),
    }  # fmt: skip
    if "acs_mask" in changes:
        changes["acs_mask"] = changes["acs_mask"].expand(b, -1, -1, -1)
    kind = HybridSlice if changes.pop("hybrid", False) else Slice
    return kind(**{**fields, **changes})


def sample_for(model: ReconModel, batch: Slice) -> Sample:
    """What a model is given of some slices."""
    return with_sensitivities(model, undersample(batch, model.needs))


def predict(
    model: ReconModel, kspace: Tensor, mask: Tensor, size: tuple[int, int], acs_mask: Tensor | None = None
) -> Tensor:
    """The magnitude image of slices, in the unit of their k-space.  -> (b y x)"""
    sample = sample_for(model, slices(kspace, mask, size, acs_mask=mask if acs_mask is None else acs_mask))
    return model(sample.measurement).magnitude * sample.scale[:, None, None]


class Needing(ReconModel):
    """A model that gives back the zero-filled image, whatever it says it needs."""

    def __init__(self, *needs: str, min_size: int = 1) -> None:
        super().__init__()
        self.needs, self.min_size = needs, min_size

    def forward(self, measurement: Any) -> Prediction:
        return Prediction(measurement.zero_filled)
