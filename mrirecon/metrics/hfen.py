"""HFEN, the high-frequency error norm: how far the edges of a reconstruction are off.

Ravishankar and Bresler 2011, doi:10.1109/TMI.2010.2090538: the norm of the difference after a Laplacian of Gaussian of
15x15 pixels, sigma 1.5; here relative to the target's norm, and over all slices of a volume.
"""

import math

import torch
from torch import Tensor

from mrirecon.metrics.functional import require_pair, sum_pixels

SIGMA, RADIUS = 1.5, 7


def edge_error(pred: Tensor, target: Tensor) -> Tensor:
    """Sum over each slice of the squared difference of the edges.  (b y x), (b y x) -> (b) float64"""
    require_pair(pred, target)
    padded = (mirror(image, RADIUS) for image in (pred, target))
    # A linear filter: the difference of the edges is the edges of the difference.
    return sum_pixels(lambda p, t: laplacian_of_gaussian(p - t).square(), *padded, overlap=2 * RADIUS)


def edge_norm(target: Tensor) -> Tensor:
    """Sum over each slice of the squared edges.  (b y x) -> (b) float64"""
    return sum_pixels(lambda t: laplacian_of_gaussian(t).square(), mirror(target, RADIUS), overlap=2 * RADIUS)


def hfen(edge_error: float, edge_norm: float) -> float:
    """||LoG(pred) - LoG(target)|| / ||LoG(target)|| of a volume, from its sums over all slices."""
    return math.sqrt(edge_error / edge_norm)


def mirror(image: Tensor, radius: int) -> Tensor:
    """The image between its mirror images, whose outermost pixel is its own.  (*b y x) -> (*b y+2r x+2r)

    scipy's `reflect`; torch has no such padding.
    """
    rows, columns = (_mirrored(n, radius, image.device) for n in image.shape[-2:])
    return image[..., rows[:, None], columns]


def _mirrored(length: int, radius: int, device: torch.device) -> Tensor:
    index = torch.arange(-radius, length + radius, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def laplacian_of_gaussian(image: Tensor) -> Tensor:
    """The sum of both second derivatives after smoothing, where the filter fits.  (*b y x) -> (*b y-14 x-14)"""
    smooth = gaussian(SIGMA, RADIUS)
    curved = [value * ((i / SIGMA) ** 2 - 1) / SIGMA**2 for i, value in enumerate(smooth)]
    along_y = symmetric_filter(symmetric_filter(image, curved, -2), smooth, -1)
    return along_y + symmetric_filter(symmetric_filter(image, smooth, -2), curved, -1)


def gaussian(sigma: float, radius: int) -> list[float]:
    """Samples of a Gaussian from the middle outwards, which sum to 1 over both sides."""
    values = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(radius + 1)]
    total = values[0] + 2 * sum(values[1:])
    return [value / total for value in values]


def symmetric_filter(image: Tensor, taps: list[float], dim: int) -> Tensor:
    """A filter given from its middle outwards, along one axis, where it fits: that axis loses 2 (len(taps) - 1).

    Additions one by one: the bits of torch's convolutions depend on the batch, and in float64 they are slow.
    """
    radius = len(taps) - 1
    length = image.shape[dim] - 2 * radius
    out = image.narrow(dim, radius, length) * taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        out.add_(image.narrow(dim, radius - i, length) + image.narrow(dim, radius + i, length), alpha=tap)
    return out
