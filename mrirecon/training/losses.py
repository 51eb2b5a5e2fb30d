"""Training losses, one contract: `loss(pred, target, data_range) -> scalar`.

Images are (b y x); `data_range` (b) is the maximum of each slice's target volume.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrirecon.errors import ConfigError
from mrirecon.metrics.functional import require_pair, ssim_map


class L1Loss(nn.Module):
    """Mean absolute difference; `data_range` is not used."""

    def forward(self, pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """Mean over all pixels of the batch.  (b y x), (b y x), (b) -> ()"""
        require_pair(pred, target)
        return F.l1_loss(pred, target)


class MSELoss(nn.Module):
    """Mean squared difference; `data_range` is not used."""

    def forward(self, pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """Mean over all pixels of the batch.  (b y x), (b y x), (b) -> ()"""
        require_pair(pred, target)
        return F.mse_loss(pred, target)


class SSIMLoss(nn.Module):
    """One minus the mean SSIM: `fastmri.SSIMLoss`.

    Where `data_range` is 0 (a volume without signal) SSIM is not defined; 1, the unit of the network's images, stands
    in: value and gradient stay finite, the loss is 0 for a black pred, and another pred is drawn towards black.
    """

    def forward(self, pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """One minus the mean over all windows of the batch.  (b y x), (b y x), (b) -> ()"""
        require_pair(pred, target)
        # In half precision the variance in a window is lost to rounding, so both images are taken to float32 at least.
        precision = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
        unit = torch.where(data_range > 0, data_range, 1.0).to(precision)
        # Divided by the range first: squared twice, an image in a scanner's units of 1e-8 underflows float32.
        scaled_pred, scaled_target = (image.to(precision) / unit[:, None, None] for image in (pred, target))
        return 1 - ssim_map(scaled_pred, scaled_target, torch.ones_like(unit)).mean()


class WeightedSum(nn.Module):
    """A sum of named losses, each times its weight."""

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not terms or set(terms) != set(weights):
            raise ConfigError(
                f"loss.terms and loss.weights must have the same names, at least one: terms has {sorted(terms)}, "
                f"weights has {sorted(weights)}"
            )
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(f"loss.weights.{name} must be a finite number, 0 or more, but is {weight}")
        self.terms = nn.ModuleDict(dict(terms.items()))
        self.weights = {name: float(weights[name]) for name in self.terms}

    def forward(self, pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """The weighted sum of the terms.  (b y x), (b y x), (b) -> ()"""
        values = [self.weights[name] * loss(pred, target, data_range) for name, loss in self.terms.items()]
        return torch.stack(values).sum()
