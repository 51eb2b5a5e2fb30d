"""What travels from file to model, and the one step between: undersampling on the device.

b = batch, h = readout, w = phase encoding, y x = image. `Slice` is what a worker reads, in the units of the file;
`Sample` is what a model is given, divided by `scale`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mrirecon.physics.zero_filled import zero_filled


class Slice(NamedTuple):
    """One slice, or a batch of them, as read: k-space with everything that was acquired, and the mask to apply."""

    kspace: Tensor  # complex64 (b coil h w)
    mask: Tensor  # bool (b 1 1 w)
    acs_mask: Tensor  # bool (b 1 1 w), the fully sampled centre
    target: Tensor  # float32 (b y x)
    data_range: Tensor  # float32 (b), maximum of the target volume
    volume: Tensor  # int64 (b), index of the volume in its source
    slice_num: Tensor  # int64 (b)


class Sample(NamedTuple):
    """A batch for a model: `scale` and the zero-filled image's `mean` tell the way back to the units of the file."""

    masked_kspace: Tensor  # complex64 (b coil h w)
    mask: Tensor  # bool (b 1 1 w)
    acs_mask: Tensor  # bool (b 1 1 w)
    target: Tensor  # float32 (b y x), unclamped
    data_range: Tensor  # float32 (b)
    scale: Tensor  # float32 (b), file units per unit
    mean: Tensor  # float32 (b), mean of the zero-filled image
    volume: Tensor  # int64 (b)
    slice_num: Tensor  # int64 (b)


def undersample(batch: Slice) -> Sample:
    """Applies the mask and divides by the standard deviation of the zero-filled image."""
    masked_kspace, scale, mean = apply_mask(batch.kspace, batch.mask, tuple(batch.target.shape[-2:]))
    return Sample(
        masked_kspace=masked_kspace,
        mask=batch.mask,
        acs_mask=batch.acs_mask,
        target=batch.target / scale[:, None, None],
        data_range=batch.data_range / scale,
        scale=scale,
        mean=mean,
        volume=batch.volume,
        slice_num=batch.slice_num,
    )


def apply_mask(kspace: Tensor, mask: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Masked k-space in normalised units, its scale, and its zero-filled mean.  (b coil h w) -> (b coil h w), (b), (b)

    The scale is the unbiased standard deviation of the zero-filled image cropped to `size`, plus fastMRI's 1e-11; it is
    1 for an image without any variation, whose k-space then keeps its units.
    """
    masked = kspace * mask + 0.0  # fastMRI's + 0.0: no negative zeros
    image = zero_filled(masked, (size[0], size[1]))
    std = image.std(dim=(-2, -1))
    scale = torch.where(std > 0, std + 1e-11, 1.0)
    # Real by real: a complex number divided by a real one takes torch several times as long.
    normalised = torch.view_as_complex(torch.view_as_real(masked) / scale[:, None, None, None, None])
    return normalised, scale, image.mean(dim=(-2, -1)) / scale
