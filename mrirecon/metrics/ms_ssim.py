"""MS-SSIM: SSIM's contrast term on five scales times its luminance term on the coarsest.

Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216. Conventions and values are those of torchmetrics: an 11x11 Gaussian
window of sigma 1.5; the border is mirrored on the coarsest scale and left out on the others; a scale with negative
contrast counts as 0.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mrirecon.metrics.functional import require_pair, sum_pixels
from mrirecon.metrics.hfen import gaussian, symmetric_filter
from mrirecon.metrics.ssim_cpu import K1, K2

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of Wang et al., finest scale first."""

RADIUS = 5
MIN_SIDE = (2 * RADIUS + 1) * 2 ** (len(WEIGHTS) - 1)
"""Smallest side of an image: halved four times it still holds a window."""

_C1, _C2 = K1**2, K2**2  # for images with a data range of 1


@torch.no_grad()
def ms_ssim(pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """MS-SSIM of each slice.  (b y x), (b y x), (b) -> (b) float64

    NaN where a side is less than `MIN_SIDE` or `data_range` is not a positive number.
    """
    require_pair(pred, target)
    if min(pred.shape[1:]) < MIN_SIDE:
        return torch.full_like(data_range, math.nan, dtype=torch.float64)
    defined = data_range > 0
    unit = torch.where(defined, data_range, 1).double()[:, None, None]
    p, t = pred.double() / unit, target.double() / unit
    score = torch.ones_like(data_range, dtype=torch.float64)
    for weight in WEIGHTS[:-1]:
        num_windows = (p.shape[1] - 2 * RADIUS) * (p.shape[2] - 2 * RADIUS)
        score *= (sum_pixels(_contrast, p, t, overlap=2 * RADIUS) / num_windows).relu() ** weight
        p, t = F.avg_pool2d(p, 2), F.avg_pool2d(t, 2)
    padded = (F.pad(image, (RADIUS,) * 4, mode="reflect") for image in (p, t))
    score *= (sum_pixels(_similarity, *padded, overlap=2 * RADIUS) / p[0].numel()).relu() ** WEIGHTS[-1]
    return torch.where(defined, score, math.nan)


def _contrast(pred: Tensor, target: Tensor) -> Tensor:
    """Contrast and structure term of SSIM, for windows inside the image.  (*b y x), (*b y x) -> (*b y-10 x-10)"""
    return _factors(pred, target)[1]


def _similarity(pred: Tensor, target: Tensor) -> Tensor:
    """SSIM, for windows inside the image.  (*b y x), (*b y x) -> (*b y-10 x-10)"""
    luminance, contrast = _factors(pred, target)
    return luminance * contrast


def _factors(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    mean_p, mean_t, square_p, square_t, product = (
        _smooth(image) for image in (pred, target, pred.square(), target.square(), pred * target)
    )
    # Rounding can make a variance slightly negative.
    var_p, var_t = (square_p - mean_p.square()).relu(), (square_t - mean_t.square()).relu()
    luminance = (2 * mean_p * mean_t + _C1) / (mean_p.square() + mean_t.square() + _C1)
    return luminance, (2 * (product - mean_p * mean_t) + _C2) / (var_p + var_t + _C2)


def _smooth(image: Tensor) -> Tensor:
    taps = gaussian(1.5, RADIUS)
    return symmetric_filter(symmetric_filter(image, taps, -2), taps, -1)
