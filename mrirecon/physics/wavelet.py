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
        return to_complex(self.analyse(to_lines(image)))

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """The inverse, and the adjoint, of `analysis`.  complex (*b h w) -> same"""
        return to_complex(self.synthesise(to_lines(coefficients)))

    def analyse(self, lines: Tensor) -> Tensor:
        """`analysis` of what `to_lines` gives: no axis is turned between the matrix products.  (*b h 2 w) -> same"""
        for rows, columns in self._levels:
            lines = _replace(lines, _apply(rows, columns.mT, lines[..., : len(rows), :, : len(columns)]))
        return lines

    def synthesise(self, lines: Tensor) -> Tensor:
        """`synthesis` of what `to_lines` gives.  (*b h 2 w) -> same"""
        for rows, columns in reversed(self._levels):
            lines = _replace(lines, _apply(rows.mT, columns, lines[..., : len(rows), :, : len(columns)]))
        return lines


def to_lines(image: Tensor) -> Tensor:
    """Real and imaginary part of every row, one after the other.  complex (*b h w) -> real (*b h 2 w)"""
    return torch.view_as_real(image).transpose(-1, -2).contiguous()


def to_complex(lines: Tensor) -> Tensor:
    """The inverse of `to_lines`.  real (*b h 2 w) -> complex (*b h w)"""
    return torch.view_as_complex(lines.transpose(-1, -2).contiguous())


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


def _apply(rows: Tensor, columns: Tensor, lines: Tensor) -> Tensor:
    """rows @ image @ columns, for real and imaginary part.  (m m), (n n), (*b m 2 n) -> (*b m 2 n)"""
    along_rows = (rows @ lines.flatten(-2)).unflatten(-1, lines.shape[-2:])
    return along_rows @ columns


def _replace(lines: Tensor, corner: Tensor) -> Tensor:
    """The lines with another top left corner.  (*b h 2 w), (*b m 2 n) -> (*b h 2 w)"""
    if corner.shape == lines.shape:
        return corner
    lines = lines.clone()  # not in place: autograd keeps the original
    lines[..., : corner.shape[-3], :, : corner.shape[-1]] = corner
    return lines
