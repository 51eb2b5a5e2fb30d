"""Scores per volume as fastMRI defines them: sums per slice on the device, formulas per volume over all ranks."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from mrirecon.errors import ConfigError, InputError
from mrirecon.metrics.functional import absolute_error, nmse, psnr, squared_error, squared_norm, ssim
from mrirecon.metrics.hfen import edge_error, edge_norm, hfen
from mrirecon.metrics.ms_ssim import MIN_SIDE, ms_ssim
from mrirecon.metrics.scores import ALL_SCORES, MAIN_SCORES

# One row of float64 per slice: the sums that the formulas of its volume need.
_COLUMNS = (
    "volume",
    "slice_num",
    "data_range",
    "num_pixels",
    "min_side",
    "squared_error",
    "squared_norm",
    "target_min",
    "target_max",
    "has_loss",
    "loss",
)
# Further columns, computed only for the scores that need them.
_MEASURES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ssim": ssim,
    "ms_ssim": ms_ssim,
    "absolute_error": lambda pred, target, data_range: absolute_error(pred, target),
    "edge_error": lambda pred, target, data_range: edge_error(pred, target),
    "edge_norm": lambda pred, target, data_range: edge_norm(target),
}
_MEASURES_OF = {
    "ssim": ("ssim",),
    "ms_ssim": ("ms_ssim",),
    "mae": ("absolute_error",),
    "hfen": ("edge_error", "edge_norm"),
}

# Relative difference allowed between the data ranges of one volume: float32 rounding of a change of units.
_TOLERANCE = 1e-6


class VolumeScores(Metric):
    """Scores of every volume and their means over volumes; the same bits for any batch size and number of ranks.

    scores: names out of `ALL_SCORES`; only these are computed.

    A slice, identified by (volume, slice_num), counts once however often a sampler repeats it. pred, target and
    data_range share one unit, on which the scores do not depend, except `mae` (in that unit) and `mse` (in its square).
    A score that is undefined for a volume's target is None, with the reason beside it, and left out of the means. A NaN
    in pred gives NaN, in the score and in the mean.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, scores: Sequence[str] = MAIN_SCORES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not scores or len(set(scores)) < len(scores) or not set(scores) <= set(ALL_SCORES):
            raise ConfigError(
                f"scores must be distinct names, one or more, out of {', '.join(ALL_SCORES)}, but is {list(scores)}: "
                "correct the names"
            )
        self.scores = tuple(scores)
        self.measures = tuple(name for score in self.scores for name in _MEASURES_OF.get(score, ()))
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
        """Adds a batch of slices without synchronising with the device.  (b y x), (b y x), then (b) each

        volume: index of each slice's volume. loss: training loss of each slice; None: not given.
        """
        b, y, x = pred.shape
        columns = {
            "volume": volume,
            "slice_num": slice_num,
            "data_range": data_range,
            "num_pixels": target.new_full((b,), y * x, dtype=torch.float64),
            "min_side": target.new_full((b,), min(y, x), dtype=torch.float64),
            "squared_error": squared_error(pred, target),
            "squared_norm": squared_norm(target),
            "target_min": target.amin((1, 2)),
            "target_max": target.amax((1, 2)),
            "has_loss": target.new_full((b,), loss is not None),
            "loss": target.new_zeros(b) if loss is None else loss,
        }
        columns |= {name: _MEASURES[name](pred, target, data_range) for name in self.measures}
        row = [columns[name].to(device=pred.device, dtype=torch.float64) for name in self._columns()]
        self.rows.append(torch.stack(row, dim=1))

    def compute(self) -> dict[str, Any]:
        """Means over volumes, and `volumes`: one dict per volume, sorted by index.

        A mean is None where no volume has the score. `loss` is the mean over slices, None where none was given;
        `num_undefined` counts the undefined scores of all volumes. A volume's `slices` holds slice numbers, squared
        errors and, if SSIM is among the scores, SSIM (None where undefined).

        Raises InputError where no slice was scored or the slices of a volume disagree on its data range.
        """
        table = _distinct(_as_table(self.rows, self._columns()))
        if not len(table):
            raise InputError("there is nothing to score: no slice was evaluated; check that the data set is not empty")
        groups = np.split(table, np.flatnonzero(np.diff(table["volume"])) + 1)
        volumes = [_volume_scores(group, self.scores) for group in groups]
        means = {score: mean_score(volumes, score) for score in self.scores}
        return {
            **means,
            "loss": _mean_loss(table),
            "num_undefined": sum(len(v["undefined"]) for v in volumes),
            "volumes": volumes,
        }

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the rows of all ranks; a rank without slices sends zero rows.

        torchmetrics 1.9 sends a one-dimensional float32 tensor for it, which cannot be concatenated with rows.
        """
        if len(self.rows) == 0:
            self.rows = [torch.empty(0, len(self._columns()), dtype=torch.float64, device=self.device)]
        super().sync(*args, **kwargs)

    def _columns(self) -> tuple[str, ...]:
        return _COLUMNS + self.measures

    @property
    def update_called(self) -> bool:
        """True: more ranks than slices is allowed, and `compute` itself refuses a run without any slice."""
        return True


def _as_table(rows: list[Tensor] | Tensor, columns: Sequence[str]) -> np.ndarray:
    """Structured array of all rows, from a rank's list or from the gathered tensor."""
    row = np.dtype([(name, np.float64) for name in columns])
    return dim_zero_cat(rows).cpu().numpy().view(row)[:, 0]


def _distinct(table: np.ndarray) -> np.ndarray:
    """Rows sorted by (volume, slice), each once; the other columns make the choice among repeats deterministic."""
    table = table[np.lexsort([table[name] for name in reversed(table.dtype.names or ())])]
    is_new = np.ones(len(table), dtype=bool)
    is_new[1:] = (np.diff(table["volume"]) != 0) | (np.diff(table["slice_num"]) != 0)
    return table[is_new]


def _volume_scores(slices: np.ndarray, scores: Sequence[str]) -> dict[str, Any]:
    undefined = {score: reason for score, reason in _undefined(slices).items() if score in scores}
    error, pixels = math.fsum(slices["squared_error"]), math.fsum(slices["num_pixels"])
    data_range = _data_range(slices)
    formulas = {
        "ssim": lambda: _mean(slices["ssim"]),
        "ms_ssim": lambda: _mean(slices["ms_ssim"]),
        "psnr": lambda: psnr(error, pixels, data_range),
        "nmse": lambda: nmse(error, math.fsum(slices["squared_norm"])),
        "mse": lambda: error / pixels,
        "mae": lambda: math.fsum(slices["absolute_error"]) / pixels,
        "hfen": lambda: hfen(math.fsum(slices["edge_error"]), math.fsum(slices["edge_norm"])),
    }
    return {
        "volume": int(slices["volume"][0]),
        "num_slices": len(slices),
        "data_range": data_range,
        **{score: None if score in undefined else formulas[score]() for score in scores},
        "loss": _mean_loss(slices),
        "undefined": undefined,
        "slices": _slices(slices),
    }


def _slices(slices: np.ndarray) -> dict[str, list[Any]]:
    columns = {"slice_num": slices["slice_num"].astype(int).tolist()}
    if "ssim" in (slices.dtype.names or ()):
        columns["ssim"] = [value if math.isfinite(value) else None for value in slices["ssim"].tolist()]
    return {**columns, "squared_error": slices["squared_error"].tolist()}


def _data_range(slices: np.ndarray) -> float:
    least, most = slices["data_range"].min(), slices["data_range"].max()
    if most - least > _TOLERANCE * abs(most):
        raise InputError(
            f"slices of volume {slices['volume'][0]:.0f} have different data ranges, {least:g} to {most:g}, "
            "but one was expected, the maximum of the whole volume: give every slice of it the same"
        )
    return float(most)


def _undefined(slices: np.ndarray) -> dict[str, str]:
    """Score -> reason, for the undefined scores of a volume; depends on the target, or on a pred that equals it."""
    reasons: dict[str, str] = {}
    data_range, largest = _data_range(slices), slices["target_max"].max()
    if slices["target_min"].min() == largest:
        flat = f"the target is {largest:g} everywhere: it has no structure to compare"
        reasons |= {"ssim": flat, "ms_ssim": flat}
    if np.array_equal(slices["target_min"], slices["target_max"]):  # filtering leaves rounding errors instead of zeros
        reasons["hfen"] = "every slice of the target is of one value: it has no edges"
    if (side := slices["min_side"].min()) < MIN_SIDE:
        reasons["ms_ssim"] = f"five scales need at least {MIN_SIDE} pixels each way, but a slice has {side:.0f}"
    if not 0 < data_range < math.inf:
        reasons |= dict.fromkeys(
            ("ssim", "ms_ssim", "psnr"), f"the data range is {data_range:g}, not a positive number"
        )
    if not np.any(slices["squared_norm"]):
        reasons["nmse"] = "the target is zero everywhere"
    if not np.any(slices["squared_error"]):
        reasons.setdefault("psnr", "pred and target are equal: the ratio is infinite")
    return reasons


def mean_score(volumes: Sequence[Mapping[str, Any]], score: str) -> float | None:
    """Mean of a score over the volumes that have it; None where none has."""
    return _mean([volume[score] for volume in volumes if volume[score] is not None])


def _mean(values: Any) -> float | None:
    """Mean with a single rounding, so independent of the order of the values; None for no values."""
    return math.fsum(values) / len(values) if len(values) else None


def _mean_loss(slices: np.ndarray) -> float | None:
    return _mean(slices["loss"][slices["has_loss"] == 1])
