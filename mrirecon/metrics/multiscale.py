"""MS-SSIM: SSIM's contrast over five scales, its luminance on the coarsest."""

import math

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mrirecon.metrics.functional import require_pair

MIN_SIDE = 176
"""The smallest side: halved four times it must hold the 11 pixels of a window."""


@torch.no_grad()
def ms_ssim(pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """Mean MS-SSIM of each slice, torchmetrics'.  (b y x), (b y x), (b) -> (b) float64

    11x11 Gaussian window, sigma 1.5, the five weights of Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216; a scale
    where the images are anticorrelated counts as 0. NaN where a side is less than `MIN_SIDE` or `data_range` is not
    a positive number.
    """
    require_pair(pred, target)
    defined = data_range > 0
    if min(pred.shape[1:]) < MIN_SIDE or not len(pred):
        return torch.full_like(data_range, math.nan, dtype=torch.float64)
    # Each image in units of its range, because torchmetrics takes one range for all; undefined ones are dropped below.
    unit = torch.where(defined, data_range, 1).double()[:, None, None]
    # Slice by slice: the bits of a convolution depend on the batch.
    values = [_of_one(p / r, t / r) for p, t, r in zip(pred.double(), target.double(), unit, strict=True)]
    return torch.where(defined, torch.stack(values), math.nan)


def _of_one(pred: Tensor, target: Tensor) -> Tensor:
    return multiscale_structural_similarity_index_measure(
        pred[None, None], target[None, None], data_range=1.0, kernel_size=11, sigma=1.5, normalize="relu"
    )
