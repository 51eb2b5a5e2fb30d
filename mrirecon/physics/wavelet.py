"""Orthogonal discrete wavelet transform of complex images with periodic borders, and its inverse."""

import pywt
import torch
from torch import Tensor

from mrirecon.errors import ConfigError


class Wavelet:
    """An orthogonal 2-D wavelet transform of images of one size: `pywt.wavedec2(mode="periodization")`.

    name: an orthogonal wavelet of PyWavelets, such as haar or db4.
    size: (h, w), multiples of 2^num_levels.

    One level along one axis is a matrix product: for images of a few hundred pixels that costs less than the Fourier
    transforms of a few coils, and the inverse is exactly the transpose.
    """

    def __init__(self, name: str, size: tuple[int, int], num_levels: int, device: torch.device | None = None) -> None:
        halved = [(size[0] >> level, size[1] >> level) for level in range(num_levels)]
        self._levels = [tuple(_one_level(name, n).to(device) for n in sides) for sides in halved]

    def analysis(self, image: Tensor) -> Tensor:
        """Wavelet coefficients, the approximation at the top left.  complex (*b h w) -> complex (*b h w)"""
        coefficients = image
        for rows, columns in self._levels:
            coefficients = _replace(coefficients, _apply(rows, columns, coefficients))
        return coefficients

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """The inverse, and the adjoint, of `analysis`.  complex (*b h w) -> same"""
        image = coefficients
        for rows, columns in reversed(self._levels):
            image = _replace(image, _apply(rows.mT, columns.mT, image))
        return image


def num_levels_of(name: str, size: tuple[int, int]) -> int:
    """How often the shorter side can be halved before it is shorter than the filter; at least once."""
    return max(1, pywt.dwt_max_level(min(size), pywt.Wavelet(name)))


def check_wavelet(name: str) -> None:
    """Raises ConfigError for a name that is no orthogonal wavelet of PyWavelets."""
    if name not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(name).orthogonal:
        raise ConfigError(f"model.wavelet={name!r}: expected an orthogonal wavelet of PyWavelets, such as haar or db4")


def _one_level(name: str, n: int) -> Tensor:
    """Orthogonal matrix of one level along one axis: approximation rows, then detail rows.  -> float32 (n n)"""
    bank = pywt.Wavelet(name).filter_bank[2:]  # for an orthogonal wavelet: the reversed analysis filters
    starts = 2 * torch.arange(n // 2) + 1 - len(bank[0]) // 2  # position of the first tap in PyWavelets
    matrix = torch.zeros(2, n // 2, n)
    for band, taps in enumerate(bank):
        for number, tap in enumerate(taps):
            # Taps are added one by one: on a short side a filter wraps around and meets a sample twice.
            matrix[band, torch.arange(n // 2), (starts + number) % n] += tap
    return matrix.flatten(0, 1)


def _apply(rows: Tensor, columns: Tensor, image: Tensor) -> Tensor:
    """rows @ corner @ columns.mT for the top left corner, with real matrices.  complex (*b h w) -> (*b m n)"""
    m, n = len(rows), len(columns)
    return _along_rows(columns, _along_rows(rows, image[..., :m, :n]).mT).mT


def _along_rows(matrix: Tensor, image: Tensor) -> Tensor:
    """Real matrix times complex matrix, without the products with zero imaginary parts.  (n n), (*b n w) -> (*b n w)"""
    real = torch.view_as_real(image.contiguous())
    return torch.view_as_complex((matrix @ real.flatten(-2)).unflatten(-1, real.shape[-2:]))


def _replace(image: Tensor, corner: Tensor) -> Tensor:
    if corner.shape == image.shape:
        return corner
    image = image.clone()  # not in place: autograd may still need the input
    image[..., : corner.shape[-2], : corner.shape[-1]] = corner
    return image
