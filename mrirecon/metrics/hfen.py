"""HFEN, the high-frequency error norm: the error of a reconstruction's edges.

Ravishankar and Bresler 2011, doi:10.1109/TMI.2010.2090538: norm of the difference after a 15x15 Laplacian of Gaussian
of sigma 1.5. Here it is divided by the norm of the filtered target and taken over all slices of a volume.
"""

import math

import torch
from torch import Tensor

from mrirecon.metrics.functional import require_pair, sum_pixels

SIGMA, RADIUS = 1.5, 7


def edge_error(pred: Tensor, target: Tensor) -> Tensor:
    """Sum of squared differences of the filtered images, per slice.  (b y x), (b y x) -> (b) float64"""
    require_pair(pred, target)
    padded = (mirror(image, RADIUS) for image in (pred, target))
    # The filter is linear: filtering the difference gives the difference of the filtered images.
    return sum_pixels(lambda p, t: laplacian_of_gaussian(p - t).square(), *padded, overlap=2 * RADIUS)


def edge_norm(target: Tensor) -> Tensor:
    """Sum of squares of the filtered target, per slice.  (b y x) -> (b) float64"""
    return sum_pixels(lambda t: laplacian_of_gaussian(t).square(), mirror(target, RADIUS), overlap=2 * RADIUS)


def hfen(edge_error: float, edge_norm: float) -> float:
    """||LoG(pred) - LoG(target)|| / ||LoG(target)|| of a volume, from its sums over all slices."""
    return math.sqrt(edge_error / edge_norm)


def mirror(image: Tensor, radius: int) -> Tensor:
    """Padding by reflection that repeats the edge pixel.  (*b y x) -> (*b y+2r x+2r)

    scipy's mode `reflect`; torch has no such padding.
    """
    rows, columns = (_mirrored(n, radius, image.device) for n in image.shape[-2:])
    return image[..., rows[:, None], columns]


def _mirrored(length: int, radius: int, device: torch.device) -> Tensor:
    index = torch.arange(-radius, length + radius, device=device) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def laplacian_of_gaussian(image: Tensor) -> Tensor:
    """Laplacian of Gaussian, where the whole filter lies inside the image.  (*b y x) -> (*b y-14 x-14)"""
    smooth = gaussian(SIGMA, RADIUS)
    curved = [value * ((i / SIGMA) ** 2 - 1) / SIGMA**2 for i, value in enumerate(smooth)]
    along_y = symmetric_filter(symmetric_filter(image, curved, -2), smooth, -1)
    return along_y + symmetric_filter(symmetric_filter(image, smooth, -2), curved, -1)


def gaussian(sigma: float, radius: int) -> list[float]:
    """Samples of a Gaussian at 0, 1, ..., radius; over -radius..radius they sum to 1."""
    values = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(radius + 1)]
    total = values[0] + 2 * sum(values[1:])
    return [value / total for value in values]


def symmetric_filter(image: Tensor, taps: list[float], dim: int) -> Tensor:
    """Symmetric 1-D filter along one axis, without padding: the axis shrinks by 2 (len(taps) - 1).

    taps: from the centre outwards. Taps are added one by one, since torch's convolutions are slow in float64 and
    their bits depend on the batch.
    """
    radius = len(taps) - 1
    length = image.shape[dim] - 2 * radius
    out = image.narrow(dim, radius, length) * taps[0]
    for i, tap in enumerate(taps[1:], start=1):
        out.add_(image.narrow(dim, radius - i, length) + image.narrow(dim, radius + i, length), alpha=tap)
    return out
