"""The zero-filled reconstruction: what the acquired k-space gives without any model."""

from torch import Tensor

from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import ifft2c


def zero_filled(masked_kspace: Tensor, size: tuple[int, int]) -> Tensor:
    """Root sum of squares of the cropped coil images.  (b coil h w) complex, (y, x) -> (b y x) real

    Inverse FFT, crop, absolute value, coil combination: in this order, as fastMRI's U-Net transform does.
    """
    return rss(center_crop(ifft2c(masked_kspace), size))
