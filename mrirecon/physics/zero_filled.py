"""The zero-filled reconstruction: what the sampled k-space gives without any model.

Hybrid space is image along the readout and k-space along the phase encoding. A mask of columns acts there as it does on
k-space, so the transform along the readout, and the crop of its rows, can be done before the mask, and once for all.
"""

import torch
from torch import Tensor

from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import ifft1c


def to_hybrid(kspace: Tensor, num_rows: int) -> Tensor:
    """The middle `num_rows` rows of the image along the readout.  (*b h w) complex -> (*b y w) complex"""
    return center_crop(ifft1c(kspace, dim=-2), (num_rows, kspace.shape[-1]))


def zero_filled(kspace: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Root sum of squares of the cropped coil images.  (b coil h w) complex, (b 1 1|h w) bool, (y, x) -> (b y x) real

    Mask, inverse FFT, crop, absolute value, coil combination: as fastMRI's U-Net transform does. Without its shifts of
    the input, which change the phase of an image only; rows outside the crop are dropped before the second transform.
    """
    if kspace.device.type == "cpu" and mask.shape[-2] == 1:
        # Only columns that were sampled need the first transform; on a GPU, to ask which they are would mean to wait.
        each = zip(kspace.split(1), mask.expand(len(kspace), -1, -1, -1).split(1), strict=True)
        rows = torch.cat([_rows_of_columns(one, columns.flatten(), size[0]) for one, columns in each])
    else:
        rows = _middle(torch.fft.ifft(kspace * mask, dim=-2, norm="ortho"), size[0], dim=-2)
    return _image(rows, size[1])


def zero_filled_hybrid(hybrid: Tensor, mask: Tensor, num_cols: int) -> Tensor:
    """`zero_filled` from what `to_hybrid` gave.  (b coil y w) complex, (b 1 1 w) bool -> (b y x) real"""
    return _image(hybrid * mask, num_cols)


def _rows_of_columns(kspace: Tensor, columns: Tensor, num_rows: int) -> Tensor:
    """The rows of one slice's image along the readout.  (1 coil h w), (w) bool -> (1 coil y w)"""
    # The transform is fastest along an axis whose values lie side by side.
    sampled = kspace[..., columns].transpose(-1, -2).contiguous()
    image = _middle(torch.fft.ifft(sampled, dim=-1, norm="ortho"), num_rows, dim=-1)
    rows = kspace.new_zeros(*kspace.shape[:-2], num_rows, kspace.shape[-1])
    rows[..., columns] = image.transpose(-1, -2)
    return rows


def _image(rows: Tensor, num_cols: int) -> Tensor:
    return _middle(rss(torch.fft.ifft(rows, dim=-1, norm="ortho")), num_cols, dim=-1)


def _middle(image: Tensor, length: int, dim: int) -> Tensor:
    """The centre crop along one axis of what a Fourier transform gives, whose middle comes first."""
    total = image.shape[dim]
    start = ((total - length) // 2 + (total + 1) // 2) % total
    first = min(length, total - start)
    parts = (image.narrow(dim, start, first), image.narrow(dim, 0, length - first))
    return torch.cat(parts, dim=dim)
