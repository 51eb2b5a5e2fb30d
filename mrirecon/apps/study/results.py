"""Results of a study: runs grouped into settings (over seeds) and families (over learning rates)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from mrirecon.apps.study.cell import FILE_NAME, read_cell
from mrirecon.apps.study.plan import LR, REG_WEIGHT, Cell, Part, Value, optimizers_of
from mrirecon.errors import InputError

_USABLE = 0.5  # share of the best gain over zero-filled from which a learning rate counts as usable
_REACHED = 0.9  # share of the best gain that steps are counted to by default


class Run(NamedTuple):
    """A training, with the content of its cell.json."""

    cell: Cell
    content: dict[str, Any]

    @property
    def is_sound(self) -> bool:
        """Whether it did not diverge and its final SSIM is defined."""
        return not self.is_diverged and self.final("ssim") is not None

    @property
    def is_diverged(self) -> bool:
        """Whether it was stopped by a value that is not finite."""
        return bool(self.content["status"] == "diverged")

    @property
    def is_trained(self) -> bool:
        """Whether the model was trained; False for models without weights, whose result has no seed."""
        return bool(self.content["num_slices"])

    @property
    def zero_filled(self) -> float | None:
        """SSIM of the zero-filled validation images."""
        return (self.content["zero_filled"] or {}).get("ssim")

    def final(self, score: str) -> float | None:
        """A score at the last validation."""
        return self.content["validations"][-1][score] if self.content["validations"] else None

    def curve(self, score: str, over: str = "passes") -> tuple[list[float], list[float]]:
        """x (passes, step or num_slices so far) and score of each validation where it is defined."""
        known = [v for v in self.content["validations"] if v[score] is not None]
        return [float(v[over]) for v in known], [float(v[score]) for v in known]


@dataclass(frozen=True, eq=False)
class Setting:
    """Trainings that differ only in their seed."""

    axes: Mapping[str, Value]
    runs: tuple[Run, ...]

    @property
    def lr(self) -> float | None:
        """Learning rate; None where the study does not vary it."""
        value = self.axes.get(LR)
        return float(value) if isinstance(value, int | float) else None

    @property
    def chosen(self) -> str:
        """The value chosen by score, as text.  "lr 0.01", of a regularised model "lambda 0.01" """
        key = _chosen_key(self.axes)
        return "" if key is None else f"{'lr' if key == LR else 'lambda'} {self.axes[key]:g}"

    @cached_property
    def score(self) -> float | None:
        """Mean final SSIM over seeds; None where it is undefined for one of them."""
        return fmean(run.final("ssim") or 0.0 for run in self.runs) if self.is_sound else None

    @property
    def is_sound(self) -> bool:
        """Whether every seed has a final SSIM."""
        return all(run.is_sound for run in self.runs)

    @property
    def zero_filled(self) -> float | None:
        """SSIM of the zero-filled images."""
        return self.runs[0].zero_filled

    @property
    def seeds(self) -> list[int]:
        """Seeds that were run."""
        return [run.cell.seed for run in self.runs]

    def mean(self, score: str) -> float | None:
        """Mean of a final score over seeds; None where it is undefined for one of them."""
        values = [run.final(score) for run in self.runs]
        return None if None in values or not self.is_sound else fmean(v for v in values if v is not None)

    def table(self) -> np.ndarray:
        """Final SSIM of the volumes where it is defined for every seed.  -> (seed volume)"""
        return self._rows[:, self._is_defined]

    def units(self) -> list[str]:
        """Bootstrap unit of each column of `table`: patient where there are several, else scan."""
        volumes = self.runs[0].content["volumes"]
        patients = {v["patient"] for v in volumes}
        key = "patient" if len(patients) > 1 and None not in patients and "" not in patients else "name"
        return [str(v[key]) for v, is_defined in zip(volumes, self._is_defined, strict=True) if is_defined]

    @cached_property
    def _rows(self) -> np.ndarray:
        rows = [[_or_nan(v["ssim"]) for v in run.content["volumes"]] for run in self.runs]
        return np.array(rows, dtype=float)

    @property
    def _is_defined(self) -> np.ndarray:
        return np.isfinite(self._rows).all(axis=0)

    def cost(self, key: str) -> float | None:
        """Mean over seeds of seconds_per_step, state_bytes, weights_bytes or peak_bytes; None without values."""
        values = [run.content[key] for run in self.runs if run.content.get(key) is not None]
        return fmean(values) if values else None


@dataclass(frozen=True, eq=False)
class Family:
    """Settings that differ only in their learning rate, in rising order. only: label where there are no axes."""

    axes: Mapping[str, Value]
    settings: tuple[Setting, ...]
    only: str

    @property
    def label(self) -> str:
        """Values of its axes, as text."""
        return label_of(self.axes) or self.only

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for setting in self.settings for run in setting.runs]

    @property
    def is_diverged(self) -> bool:
        """Whether every learning rate has a seed that diverged."""
        return all(any(run.is_diverged for run in setting.runs) for setting in self.settings)

    @property
    def best(self) -> Setting | None:
        """Setting with the best mean SSIM among those with the most seeds; None where none has a score."""
        sound = [setting for setting in self.settings if setting.score is not None]
        return max(sound, key=lambda setting: (len(setting.runs), setting.score)) if sound else None

    @property
    def is_at_edge(self) -> bool:
        """Whether the best learning rate is the smallest or the largest of several."""
        rates = [setting.lr for setting in self.settings if setting.lr is not None]
        return self.best is not None and len(rates) > 1 and self.best.lr in (rates[0], rates[-1])

    def usable_decades(self, threshold: float) -> tuple[float, bool]:
        """Decades of learning rates that reach an SSIM, and whether the range may extend beyond those tried.

        SSIM is interpolated linearly over the logarithm of the learning rate; towards a diverged point the range ends
        halfway.
        """
        points = [(math.log10(s.lr), s.score) for s in self.settings if s.lr is not None]
        width = sum(_above(one, other, threshold) for one, other in pairwise(points))
        ends = [score is not None and score >= threshold for _, score in (points[:1] + points[-1:])]
        return width, any(ends)


@dataclass(frozen=True, eq=False)
class PartResults:
    """Results of one part of a study. reach: SSIM that steps are counted to."""

    part: Part
    families: tuple[Family, ...]
    num_missing: int
    reach: float | None

    @property
    def ranked(self) -> list[Family]:
        """Families with a score, best first."""
        known = [family for family in self.families if family.best is not None]
        return sorted(known, key=lambda family: -_score(family))

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for family in self.families for run in family.runs]

    @property
    def zero_filled(self) -> float | None:
        """SSIM of the zero-filled images; None where runs differ in it, as with different masks."""
        found = {None if run.zero_filled is None else round(run.zero_filled, 9) for run in self.runs if run.is_sound}
        return found.pop() if len(found) == 1 else None

    @property
    def usable(self) -> float | None:
        """SSIM from which a learning rate counts as usable; None where nothing is better than zero-filled."""
        return self.share_of_gain(_USABLE)

    def share_of_gain(self, share: float) -> float | None:
        """SSIM at a share of the way from zero-filled to the best; None where nothing is better than zero-filled."""
        floor = self.zero_filled
        if not self.ranked or floor is None:
            return None
        best = _score(self.ranked[0])
        return floor + share * (best - floor) if best > floor else None


def read_part(output: Path, part: Part, cells: Sequence[Cell], reach: float | None) -> PartResults:
    """Results of a part, with the number of missing trainings. Raises InputError for a damaged file, or none."""
    found = [(cell, read_cell(output / cell.folder / FILE_NAME)) for cell in cells if cell.part == part.name]
    runs = [Run(cell, content) for cell, content in found if content is not None]
    if not runs:
        raise InputError(f"{output / part.name}: no training of this part is finished; run it")
    families = tuple(_families(runs, optimizers_of(part)[0]))
    results = PartResults(part, families, len(found) - len(runs), reach)
    return results if reach is not None else replace(results, reach=results.share_of_gain(_REACHED))


def best_settings(results: PartResults) -> list[Mapping[str, Value]]:
    """Axes of each family's best setting, for trained models."""
    best = [family.best for family in results.families if family.best is not None]
    return [setting.axes for setting in best if setting.runs[0].is_trained]


def _families(runs: Sequence[Run], only: str) -> Iterator[Family]:
    by_family: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Run]]] = {}
    for run in runs:
        chosen = _chosen_key(run.cell.axes)
        axes = {key: value for key, value in run.cell.axes.items() if key != chosen}
        settings = by_family.setdefault(tuple(axes.items()), {})
        settings.setdefault(tuple(run.cell.axes.items()), []).append(run)
    for axes_of_family, by_setting in by_family.items():
        settings_of = [Setting(dict(axes), tuple(of_it)) for axes, of_it in by_setting.items()]
        yield Family(dict(axes_of_family), tuple(sorted(settings_of, key=_place)), only)


def _chosen_key(axes: Mapping[str, Value]) -> str | None:
    """Axis along which the best is chosen: learning rate, else regularisation weight."""
    return next((key for key in (LR, REG_WEIGHT) if key in axes), None)


def _place(setting: Setting) -> float:
    value = setting.axes.get(_chosen_key(setting.axes) or "")
    return float(value) if isinstance(value, int | float) else 0.0


def _score(family: Family) -> float:
    assert family.best is not None
    assert family.best.score is not None
    return family.best.score


def label_of(axes: Mapping[str, Value]) -> str:
    """Values of axes as text.  {"optimizer": "adam", "model.norm": "group"} -> "adam + group" """
    return " + ".join(_named(key, value) for key, value in axes.items())


def _named(key: str, value: Value) -> str:
    """`adam`, `group`, but `batch_size 4`, `fixed_masks true`"""
    name = key.rpartition(".")[2]
    if isinstance(value, bool) or value is None:
        return f"{name} {'none' if value is None else str(value).lower()}"
    return value if isinstance(value, str) else f"{name} {value:g}"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _above(one: tuple[float, float | None], other: tuple[float, float | None], threshold: float) -> float:
    """Length in x over which the line between two points is above a threshold."""
    (x0, y0), (x1, y1) = one, other
    if y0 is None or y1 is None:
        return (x1 - x0) / 2 * sum(y is not None and y >= threshold for y in (y0, y1))
    if y0 >= threshold and y1 >= threshold:
        return x1 - x0
    if y0 < threshold and y1 < threshold:
        return 0.0
    return (x1 - x0) * (max(y0, y1) - threshold) / abs(y1 - y0)


def to_reach(run: Run, ssim: float, over: str) -> float | None:
    """Passes, step or num_slices at the first validation with at least this SSIM; None where it was not reached."""
    return next((x for x, y in zip(*run.curve("ssim", over), strict=True) if y >= ssim), None)
