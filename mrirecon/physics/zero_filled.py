"""Zero-filled reconstruction: inverse Fourier transform of masked k-space and root sum of squares.

Hybrid space is image along the readout and k-space along the phase encoding. A mask of columns acts on it as it does
on k-space, so the transform along the readout and the crop of rows can be done once, before any mask.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import ifft1c


def to_hybrid(kspace: Tensor, num_rows: int) -> Tensor:
    """Hybrid space: the middle `num_rows` rows after an inverse FFT along the readout.  complex (*b h w) -> (*b y w)"""
    return center_crop(ifft1c(kspace, dim=-2), (num_rows, kspace.shape[-1]))


def zero_filled(kspace: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Root sum of squares of the cropped coil images.  (b coil h w) complex, (b 1 1|h w) bool, (y, x) -> (b y x) real

    Mask, inverse FFT, crop, magnitude, coil combination, as in fastMRI's U-Net transform. Its shifts of the input are
    left out, since they change only the phase; rows outside the crop are dropped before the second transform.
    """
    if kspace.device.type == "cpu" and mask.shape[-2] == 1:
        return _coil_by_coil(kspace, mask, partial(_rows_of_columns, num_rows=size[0]), size[1])
    rows = _middle(torch.fft.ifft(kspace * mask, dim=-2, norm="ortho"), size[0], dim=-2)
    return _middle(rss(torch.fft.ifft(rows, dim=-1, norm="ortho")), size[1], dim=-1)


def zero_filled_hybrid(hybrid: Tensor, mask: Tensor, num_cols: int) -> Tensor:
    """`zero_filled` from hybrid space, see `to_hybrid`.  (b coil y w) complex, (b 1 1 w) bool -> (b y x) real

    Raises ValueError for a mask that is not one of columns.
    """
    if mask.shape[-2] != 1:
        raise ValueError(f"expected a mask of columns, (b, 1, 1, w), but it has shape {tuple(mask.shape)}")
    if hybrid.device.type == "cpu":
        return _coil_by_coil(hybrid, mask, torch.mul, num_cols)
    return _middle(rss(torch.fft.ifft(hybrid * mask, dim=-1, norm="ortho")), num_cols, dim=-1)


def _coil_by_coil(kspace: Tensor, mask: Tensor, rows_of: Callable[[Tensor, Tensor], Tensor], num_cols: int) -> Tensor:
    """Zero-filled images, coil by coil, so that the data fit a CPU's cache.  (b coil h|y w) -> (b y x)

    rows_of: masks a coil and transforms it along the readout.  (h|y w), (w) bool -> (y w)
    """
    images = []
    for coils, columns in zip(kspace, mask.expand(len(kspace), 1, 1, -1).flatten(1), strict=True):
        power = _power(rows_of(coils[0], columns))
        for coil in coils[1:]:
            power += _power(rows_of(coil, columns))
        images.append(_middle(power, num_cols, dim=-1).sqrt_())
    return torch.stack(images)


def _power(rows: Tensor) -> Tensor:
    """Squared magnitude of a coil image.  (y w) complex -> (y w) real"""
    squares = torch.view_as_real(torch.fft.ifft(rows, dim=-1, norm="ortho")).square_()
    return squares[..., 0] + squares[..., 1]


def _rows_of_columns(kspace: Tensor, columns: Tensor, num_rows: int) -> Tensor:
    """Hybrid space of a coil; only sampled columns are transformed.  (h w), (w) bool -> (y w)"""
    index = columns.nonzero()[:, 0]
    image = torch.fft.ifft(kspace.index_select(-1, index), dim=-2, norm="ortho")
    rows = kspace.new_zeros(num_rows, kspace.shape[-1])
    return rows.index_copy_(-1, index, _middle(image, num_rows, dim=-2))


def _middle(image: Tensor, length: int, dim: int) -> Tensor:
    """Centre crop along one axis of an image that was not fftshifted: its centre is at index 0."""
    total = image.shape[dim]
    start = ((total - length) // 2 + (total + 1) // 2) % total
    first = min(length, total - start)
    parts = (image.narrow(dim, start, first), image.narrow(dim, 0, length - first))
    return torch.cat(parts, dim=dim)
