"""The zero-filled reconstruction: what the acquired k-space gives without any model."""

from torch import Tensor

from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import ifft1c


def zero_filled(masked_kspace: Tensor, size: tuple[int, int]) -> Tensor:
    """Root sum of squares of the cropped coil images.  (b coil h w) complex, (y, x) -> (b y x) real

    Inverse FFT, crop, absolute value, coil combination: as fastMRI's U-Net transform does, but the rows that the crop
    drops (half of them, with the usual readout oversampling) are dropped before the second transform.
    """
    y, x = size
    rows = center_crop(ifft1c(masked_kspace, dim=-2), (y, masked_kspace.shape[-1]))
    return rss(center_crop(ifft1c(rows, dim=-1), (y, x)))
