"""What travels from file to model, and the one step between: undersampling on the device.

b = batch, h = readout, w = phase encoding, y x = image. `Slice` is what a worker reads, in the units of the file;
`Sample` is what a model is given, divided by `scale`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mrirecon.physics.zero_filled import zero_filled, zero_filled_hybrid


class Slice(NamedTuple):
    """One slice, or a batch of them, as read: k-space with everything that was acquired, and the mask to apply."""

    kspace: Tensor  # complex64 (b coil h w)
    mask: Tensor  # bool (b 1 1 w), or (b 1 h w) for a pattern in both directions
    acs_mask: Tensor  # bool, as mask: the fully sampled centre
    target: Tensor  # float32 (b y x)
    data_range: Tensor  # float32 (b), maximum of the target volume
    volume: Tensor  # int64 (b), index of the volume in its data set
    slice_num: Tensor  # int64 (b)
    movement: Tensor  # float32 (b 2 3), of `augmentation`: how the image is moved first


class HybridSlice(Slice):
    """A slice whose readout is an image already, cropped to the target's rows: `kspace` is (b coil y w).

    Masks of columns only. It holds what a model of the image needs, in half the bytes and without the larger transform.
    """


class Sample(NamedTuple):
    """A batch for a model: `scale` and the zero-filled image's `mean` tell the way back to the units of the file."""

    masked_kspace: Tensor | None  # complex64 (b coil h w); None for a model that does not ask for it
    mask: Tensor  # bool (b 1 1 w) or (b 1 h w)
    acs_mask: Tensor  # bool, as mask
    zero_filled: Tensor  # float32 (b y x), of standard deviation 1
    target: Tensor  # float32 (b y x), unclamped
    data_range: Tensor  # float32 (b)
    scale: Tensor  # float32 (b), file units per unit
    mean: Tensor  # float32 (b), of the zero-filled image
    volume: Tensor  # int64 (b)
    slice_num: Tensor  # int64 (b)


def undersample(batch: Slice, needs_kspace: bool = True) -> Sample:
    """Applies the mask and divides by the standard deviation of the zero-filled image.

    needs_kspace: give the masked k-space, too. Raises ValueError where that is asked of hybrid slices.
    """
    if isinstance(batch, HybridSlice):
        if needs_kspace:
            raise ValueError("a HybridSlice holds no k-space of the whole readout: read it from the scan's own file")
        image = zero_filled_hybrid(batch.kspace, batch.mask, batch.target.shape[-1])
    else:
        image = zero_filled(batch.kspace, batch.mask, (batch.target.shape[-2], batch.target.shape[-1]))
    image, scale, mean = normalise(image)
    return Sample(
        masked_kspace=masked(batch.kspace, batch.mask, scale) if needs_kspace else None,
        mask=batch.mask,
        acs_mask=batch.acs_mask,
        zero_filled=image,
        target=batch.target / scale[:, None, None],
        data_range=batch.data_range / scale,
        scale=scale,
        mean=mean,
        volume=batch.volume,
        slice_num=batch.slice_num,
    )


def normalise(zero_filled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The image divided by its scale, the scale, and the mean of the result.  (b y x) -> (b y x), (b), (b)

    The scale is the unbiased standard deviation plus fastMRI's 1e-11; it is 1 for an image without any variation.
    """
    num_pixels = zero_filled.shape[-2] * zero_filled.shape[-1]
    mean = (_sum(zero_filled) / num_pixels).to(zero_filled.dtype)
    squares = _sum((zero_filled - mean[:, None, None]).square_())
    std = (squares / max(1, num_pixels - 1)).sqrt().to(zero_filled.dtype)
    scale = torch.where(std > 0, std + 1e-11, 1.0)
    return zero_filled / scale[:, None, None], scale, mean / scale


def _sum(images: Tensor) -> Tensor:
    """The sum of each image, by rows: no batch and no number of threads changes a bit.  (b y x) -> (b) float64"""
    return images.sum(dim=-1).double().sum(dim=-1)


def masked(kspace: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
    """Masked k-space in normalised units.  (b coil h w), (b 1 1|h w), (b) -> (b coil h w)"""
    sampled = kspace * mask + 0.0  # fastMRI's + 0.0: no negative zeros
    # Real by real: a complex number divided by a real one takes torch several times as long.
    return torch.view_as_complex(torch.view_as_real(sampled) / scale[:, None, None, None, None])
