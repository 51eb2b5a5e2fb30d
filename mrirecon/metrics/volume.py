"""Scores per volume, as fastMRI defines them: sums per slice on the device, formulas per volume over all ranks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from mrirecon.errors import InputError
from mrirecon.metrics.functional import nmse, psnr, squared_error, squared_norm, ssim

SCORES = ("ssim", "psnr", "nmse")

# A slice as one row of float64: what the formulas of its volume need, and no image.
_COLUMNS = (
    "volume",
    "slice_num",
    "data_range",
    "num_pixels",
    "ssim",
    "squared_error",
    "squared_norm",
    "target_min",
    "target_max",
    "has_loss",
    "loss",
)
_ROW = np.dtype([(name, np.float64) for name in _COLUMNS])

# Data ranges of one volume may differ by the rounding of a change of units in float32.
_TOLERANCE = 1e-6


class VolumeScores(Metric):
    """SSIM, PSNR and NMSE of every volume and their means over volumes; the same bits for any batch size and any ranks.

    A slice counts once, by its (volume, slice_num), however often a sampler repeats it. Scores do not depend on the
    unit of pred, target and data_range, as long as it is the same. A score that its volume's target leaves undefined is
    None, with the reason beside it, and is in no mean. A NaN in a pred is no such case: its score and the mean are NaN.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    @torch.no_grad()
    def update(
        self,
        pred: Tensor,
        target: Tensor,
        data_range: Tensor,
        volume: Tensor,
        slice_num: Tensor,
        loss: Tensor | None = None,
    ) -> None:
        """Add a batch of slices; waits for no device.  (b y x), (b y x), then (b) each

        `volume` is the index of the slice's volume, `loss` the training loss of each slice, where there is one.
        """
        b, y, x = pred.shape
        columns = {
            "volume": volume,
            "slice_num": slice_num,
            "data_range": data_range,
            "num_pixels": target.new_full((b,), y * x, dtype=torch.float64),
            "ssim": ssim(pred, target, data_range),
            "squared_error": squared_error(pred, target),
            "squared_norm": squared_norm(target),
            "target_min": target.amin((1, 2)),
            "target_max": target.amax((1, 2)),
            "has_loss": target.new_full((b,), loss is not None),
            "loss": target.new_zeros(b) if loss is None else loss,
        }
        row = [columns[name].to(device=pred.device, dtype=torch.float64) for name in _COLUMNS]
        self.rows.append(torch.stack(row, dim=1))

    def compute(self) -> dict[str, Any]:
        """Means over volumes, and `volumes`: one dict per volume, in the order of their indices.

        `ssim`, `psnr`, `nmse` are None where no volume has one; `loss` is the mean over slices, None where none was
        given; `num_undefined` counts the undefined scores of all volumes. Raises InputError where no slice was scored
        or the slices of a volume disagree on its data range.
        """
        table = _distinct(_as_table(self.rows))
        if not len(table):
            raise InputError("there is nothing to score: no slice was evaluated; check that the data set is not empty")
        groups = np.split(table, np.flatnonzero(np.diff(table["volume"])) + 1)
        volumes = [_volume_scores(group) for group in groups]
        means = {score: mean_score(volumes, score) for score in SCORES}
        return {
            **means,
            "loss": _mean_loss(table),
            "num_undefined": sum(len(v["undefined"]) for v in volumes),
            "volumes": volumes,
        }

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over ranks; a rank that has no slice sends zero rows.

        torchmetrics 1.9 would send a one-dimensional float32 tensor for it, which cannot be joined with rows.
        """
        if len(self.rows) == 0:
            self.rows = [torch.empty(0, len(_COLUMNS), dtype=torch.float64, device=self.device)]
        super().sync(*args, **kwargs)

    @property
    def update_called(self) -> bool:
        """True: more ranks than slices is legal, and `compute` itself refuses a run without any slice."""
        return True


def _as_table(rows: list[Tensor] | Tensor) -> np.ndarray:
    """All rows in one structured array, from a rank's list or from what was gathered."""
    return dim_zero_cat(rows).cpu().numpy().view(_ROW)[:, 0]


def _distinct(table: np.ndarray) -> np.ndarray:
    """Every (volume, slice) once, sorted; the later columns only make the choice among repeats independent of order."""
    table = table[np.lexsort([table[name] for name in reversed(_COLUMNS)])]
    is_new = np.ones(len(table), dtype=bool)
    is_new[1:] = (np.diff(table["volume"]) != 0) | (np.diff(table["slice_num"]) != 0)
    return table[is_new]


def _volume_scores(slices: np.ndarray) -> dict[str, Any]:
    undefined = _undefined(slices)
    error, pixels = math.fsum(slices["squared_error"]), math.fsum(slices["num_pixels"])
    data_range = _data_range(slices)
    formulas = {
        "ssim": lambda: _mean(slices["ssim"]),
        "psnr": lambda: psnr(error, pixels, data_range),
        "nmse": lambda: nmse(error, math.fsum(slices["squared_norm"])),
    }
    return {
        "volume": int(slices["volume"][0]),
        "num_slices": len(slices),
        "data_range": data_range,
        **{score: None if score in undefined else formula() for score, formula in formulas.items()},
        "loss": _mean_loss(slices),
        "undefined": undefined,
    }


def _data_range(slices: np.ndarray) -> float:
    least, most = slices["data_range"].min(), slices["data_range"].max()
    if most - least > _TOLERANCE * abs(most):
        raise InputError(
            f"slices of volume {slices['volume'][0]:.0f} have different data ranges, {least:g} to {most:g}, "
            "but one was expected, the maximum of the whole volume: give every slice of it the same"
        )
    return float(most)


def _undefined(slices: np.ndarray) -> dict[str, str]:
    """Why a score of this volume has no value; every reason lies in the target, or in a pred that equals it."""
    reasons = {}
    data_range = _data_range(slices)
    if not 0 < data_range < math.inf:
        reasons["ssim"] = reasons["psnr"] = f"the data range is {data_range:g}, not a positive number"
    elif slices["target_min"].min() == slices["target_max"].max():
        reasons["ssim"] = f"the target is {slices['target_max'].max():g} everywhere: it has no structure to compare"
    if not np.any(slices["squared_norm"]):
        reasons["nmse"] = "the target is zero everywhere"
    if not np.any(slices["squared_error"]):
        reasons.setdefault("psnr", "pred and target are equal: the ratio is infinite")
    return reasons


def mean_score(volumes: Sequence[Mapping[str, Any]], score: str) -> float | None:
    """The mean of a score over the volumes that have it; None where none does."""
    return _mean([volume[score] for volume in volumes if volume[score] is not None])


def _mean(values: Any) -> float | None:
    """Their mean, rounded once and so independent of order; None of nothing."""
    return math.fsum(values) / len(values) if len(values) else None


def _mean_loss(slices: np.ndarray) -> float | None:
    return _mean(slices["loss"][slices["has_loss"] == 1])
