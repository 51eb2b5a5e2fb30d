"""SSIM, PSNR and NMSE as fastMRI defines them, from sums over the pixels of each slice.

Sums run on the device of the batch, in float64 and in a fixed order: a slice gets the same bits alone and in any batch.
Devices without float64 are not supported.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.metrics import cpu_sums as strips
from mrirecon.metrics.ssim_cpu import K1, K2, WINDOW, ssim_sums

_PIXELS = WINDOW**2


def require_pair(pred: Tensor, target: Tensor) -> None:
    """Raises ValueError unless pred and target have one shape (b y x); torch would broadcast them silently."""
    if pred.ndim != 3 or pred.shape != target.shape:
        raise ValueError(
            f"pred and target must be of one shape (batch, y, x), but pred is {tuple(pred.shape)} "
            f"and target is {tuple(target.shape)}: crop the one to the other first"
        )


def _require_window(pred: Tensor, data_range: Tensor) -> None:
    (b, y, x) = pred.shape
    if min(y, x) < WINDOW:
        raise InputError(
            f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels, but these are {y}x{x}: leave them out"
        )
    if data_range.shape != (b,):
        raise ValueError(f"data_range must hold one number per slice, ({b},), but is {tuple(data_range.shape)}")


def _running_sum(x: Tensor, dim: int) -> Tensor:
    """Sums of seven neighbours along an axis, in four additions.  (*n) -> (*n - 6)"""
    length = x.shape[dim] - WINDOW + 1
    pairs = x.narrow(dim, 0, length + 5) + x.narrow(dim, 1, length + 5)
    total = pairs.narrow(dim, 0, length) + pairs.narrow(dim, 2, length)
    total += pairs.narrow(dim, 4, length)
    total += x.narrow(dim, 6, length)
    return total


def ssim_map(pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """SSIM of every 7x7 window that lies inside the image; differentiable.  (b y x), (b y x), (b) -> (b y-6 x-6)

    Computed in the precision of its arguments. NaN where `data_range` is 0 and a window is black in both images.
    Wang et al. 2004, doi:10.1109/TIP.2003.819861, Eq. 13, with a uniform window and the sample covariance.
    """
    require_pair(pred, target)
    _require_window(pred, data_range)
    # Window sums instead of means save two passes over the images; the constants are multiplied by n^2 and n(n-1).
    c1 = (K1 * _PIXELS * data_range.square() * K1 * _PIXELS)[:, None, None]
    c2 = (K2 * _PIXELS * data_range.square() * K2 * (_PIXELS - 1))[:, None, None]
    planes = torch.stack([pred, target, pred * pred + target * target, pred * target])
    sum_p, sum_t, sum_squares, sum_product = _running_sum(_running_sum(planes, -2), -1)
    product, squares = 2 * sum_p * sum_t, sum_p * sum_p + sum_t * sum_t
    luminance = (product + c1) / (squares + c1)
    # Two quotients: a single quotient of products overflows float32 at 1e9 times the data range.
    return luminance * (2 * _PIXELS * sum_product - product + c2) / (_PIXELS * sum_squares - squares + c2)


def _sum_pixels(values: Tensor) -> Tensor:
    """Sum over all but the first axis, in place: `values` is overwritten.  (b *n) -> (b)

    Adds one half to the other until one value is left, since the order of `Tensor.sum` depends on the batch's shape.
    """
    values = values.flatten(1)
    length = values.shape[1]
    while length > 1:
        half = (length + 1) // 2
        values[:, : length - half] += values[:, half:length]
        length = half
    return values[:, 0]


@torch.no_grad()
def sum_pixels(function: Callable[..., Tensor], *images: Tensor, overlap: int = 0) -> Tensor:
    """Sum of `function(*images)` over the pixels of each slice, in float64.  (b y x), ... -> (b)

    `function` maps (*b y x) to (*b y-overlap x'); an output row depends on its own row and the `overlap` rows below.
    A CPU calls it on strips of rows that fit its cache, a GPU once on the whole batch.
    """
    if images[0].device.type == "cpu":
        return strips.sum_pixels(function, *images, overlap=overlap)
    return _sum_pixels(function(*(image.double() for image in images)))


@torch.no_grad()
def ssim(pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """Mean SSIM of each slice, equal to scikit-image's and fastMRI's.  (b y x), (b y x), (b) -> (b) float64

    NaN where `data_range` is not positive: SSIM is undefined there.
    """
    require_pair(pred, target)
    _require_window(pred, data_range)
    if pred.device.type == "cpu":
        sums = ssim_sums(pred, target, data_range)
    else:
        sums = _sum_pixels(ssim_map(pred.double(), target.double(), data_range.double()))
    num_windows = (pred.shape[-2] - WINDOW + 1) * (pred.shape[-1] - WINDOW + 1)
    return torch.where(data_range > 0, sums / num_windows, math.nan)


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    """Sum of squared differences of each slice.  (b y x), (b y x) -> (b) float64"""
    require_pair(pred, target)
    return sum_pixels(lambda p, t: (p - t).square(), pred, target)


def absolute_error(pred: Tensor, target: Tensor) -> Tensor:
    """Sum of absolute differences of each slice.  (b y x), (b y x) -> (b) float64"""
    require_pair(pred, target)
    return sum_pixels(lambda p, t: (p - t).abs(), pred, target)


def squared_norm(target: Tensor) -> Tensor:
    """Sum of squares of each slice.  (b y x) -> (b) float64"""
    return sum_pixels(torch.square, target)


def nmse(squared_error: float, squared_norm: float) -> float:
    """Normalised mean squared error of a volume, ||target - pred||^2 / ||target||^2, from its sums over all slices."""
    return squared_error / squared_norm


def psnr(squared_error: float, num_pixels: float, data_range: float) -> float:
    """Peak signal-to-noise ratio of a volume in dB, from its sums over all slices; inf where pred equals target."""
    if squared_error == 0:
        return math.inf
    return 20 * math.log10(data_range) - 10 * math.log10(squared_error / num_pixels)
