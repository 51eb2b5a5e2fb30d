"""Training losses, one contract: `loss(prediction, sample) -> (b)`, a value for each slice; the mean over them trains.

A loss states `needs`, the optional fields of a `Sample` that it compares with: "target", or "held_back".
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mrirecon.errors import ConfigError
from mrirecon.metrics.functional import require_pair, ssim_map
from mrirecon.physics.sample import Prediction, Sample


class TargetLoss(nn.Module):
    """Compares the magnitude of the image with the target."""

    needs: Collection[str] = ("target",)

    def forward(self, prediction: Prediction, sample: Sample) -> Tensor:
        """Loss per slice.  -> (b)"""
        pred, target = prediction.magnitude, sample.target
        if target is None:
            raise ConfigError("loss: compares with a target, and this data has none: choose a loss in k-space")
        require_pair(pred, target)
        return self.compare(pred, target, sample.data_range)

    def compare(self, pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """(b y x), (b y x), (b) -> (b); `data_range` is the maximum of each slice's target volume."""
        raise NotImplementedError


class L1Loss(TargetLoss):
    """Mean absolute difference."""

    def compare(self, pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """(b y x), (b y x), (b) -> (b)"""
        return _mean((pred - target).abs())


class MSELoss(TargetLoss):
    """Mean squared difference."""

    def compare(self, pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """(b y x), (b y x), (b) -> (b)"""
        return _mean((pred - target).square())


class SSIMLoss(TargetLoss):
    """One minus the mean SSIM: `fastmri.SSIMLoss`.

    Where `data_range` is 0 (a volume without signal) SSIM is undefined and 1 is used instead: value and
    gradient stay finite, and the loss is 0 for a zero pred.
    """

    def compare(self, pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
        """One minus the mean over all windows.  (b y x), (b y x), (b) -> (b)"""
        # float32 or more: in half precision the variance in a window is lost to rounding.
        precision = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
        unit = torch.where(data_range > 0, data_range, 1.0).to(precision)
        # Divided by the range first: squared twice, values around 1e-8 would underflow float32.
        scaled_pred, scaled_target = (image.to(precision) / unit[:, None, None] for image in (pred, target))
        return 1 - _mean(ssim_map(scaled_pred, scaled_target, torch.ones_like(unit)))


class HeldBackLoss(nn.Module):
    """Normalised l1 and l2 error of k-space samples held back from the model.

    Yaman et al., doi:10.1002/mrm.28378, Eq. 9. Needs no target, but a model that predicts k-space: it trains on scans
    that were never fully sampled (`splitting=...`).
    """

    needs: Collection[str] = ("held_back",)

    def forward(self, prediction: Prediction, sample: Sample) -> Tensor:
        """||u - v||_2 / ||u||_2 + ||u - v||_1 / ||u||_1 over the held back samples u.  -> (b)"""
        if prediction.kspace is None:
            raise ConfigError("loss=held_back: needs a model that predicts k-space, and this one gives an image alone")
        if sample.held_back is None or sample.loss_mask is None:
            raise ConfigError("loss=held_back: needs samples that are held back: choose splitting=columns or points")
        difference = (prediction.kspace - sample.held_back) * sample.loss_mask
        errors, sizes = (_squares(values) for values in (difference, sample.held_back))
        l1 = (errors + _TINY).sqrt().sum(1) / (sizes + _TINY).sqrt().sum(1)
        return l1 + ((errors.sum(1) + _TINY) / (sizes.sum(1) + _TINY)).sqrt()


class WeightedSum(nn.Module):
    """Weighted sum of named losses."""

    def __init__(self, terms: Mapping[str, Any], weights: Mapping[str, float]) -> None:
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
        self.needs: Collection[str] = sorted(set().union(*(loss.needs for loss in terms.values())))

    def forward(self, prediction: Prediction, sample: Sample) -> Tensor:
        """Weighted sum of the terms.  -> (b)"""
        values = [self.weights[name] * loss(prediction, sample) for name, loss in self.terms.items()]
        return torch.stack(values).sum(dim=0)


_TINY = 1e-20  # below a square of any k-space in units of the image's standard deviation; gradients stay finite


def _squares(kspace: Tensor) -> Tensor:
    """Squared magnitudes.  complex (b coil h w) -> real (b n)"""
    return torch.view_as_real(kspace).square().sum(-1).flatten(1)


def _mean(values: Tensor) -> Tensor:
    """Mean of each image, summed by rows, so that bits do not depend on batch or threads.  (b y x) -> (b)"""
    return values.sum(dim=-1).sum(dim=-1) / (values.shape[-2] * values.shape[-1])
