"""Disturbed measurements for evaluation: noise, a coil without signal, a shifted k-space centre; before the mask."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrirecon.data.sources import Condition
from mrirecon.errors import ConfigError
from mrirecon.io.scan import ScanInfo
from mrirecon.sampling.masks import volume_seed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Noise:
    """White complex Gaussian noise on top of the measured one.

    level: the standard deviation of its real part, and of its imaginary part, in a pixel of each coil image, over the
    maximum of the target volume. The transform is orthonormal, so it is that of a sample of k-space as well, and of
    hybrid space.
    """

    level: float

    @property
    def name(self) -> str:
        return f"noise {self.level:g}"

    @property
    def meaning(self) -> str:
        return (
            f"complex Gaussian noise added to k-space; standard deviation of its real and of its imaginary part in a "
            f"pixel of a coil image: {self.level:g} of the maximum of the target volume"
        )

    def check(self, info: ScanInfo) -> None:
        """Raises ConfigError where the level is no positive number."""
        if isinstance(self.level, bool) or not isinstance(self.level, int | float) or not 0 < self.level < np.inf:
            raise ConfigError(f"conditions.noise: expected positive numbers, such as [0.01,0.03], got {self.level!r}")

    def __call__(self, kspace: np.ndarray, info: ScanInfo, slice_num: int, data_range: float) -> np.ndarray:
        """The noise of a slice depends on its volume's name; levels scale the same noise.  (coil h w) -> (coil h w)"""
        rng = np.random.default_rng((*volume_seed(info.name), slice_num))
        parts = rng.standard_normal((*kspace.shape, 2), dtype=np.float32)
        return kspace + np.float32(self.level * data_range) * parts.view(np.complex64)[..., 0]


@dataclass(frozen=True)
class MissingCoil:
    """One of several coils measures nothing."""

    coil: int

    @property
    def name(self) -> str:
        return f"coil {self.coil} missing"

    @property
    def meaning(self) -> str:
        return f"k-space of coil {self.coil} (counted from 0) is zero; the target is that of all coils"

    def check(self, info: ScanInfo) -> None:
        """Raises ConfigError where a scan has no such coil."""
        if type(self.coil) is not int or not 0 <= self.coil < info.num_coils:
            raise ConfigError(
                f"conditions.missing_coils: expected numbers from 0 to {info.num_coils - 1}, as {info.path} has "
                f"{info.num_coils} coils, got {self.coil!r}: correct them"
            )

    def __call__(self, kspace: np.ndarray, info: ScanInfo, slice_num: int, data_range: float) -> np.ndarray:
        """(coil h w) -> (coil h w)"""
        kept = kspace.copy()
        kept[self.coil] = 0
        return kept


@dataclass(frozen=True)
class ShiftedCentre:
    """The centre of k-space lies some columns off: the image gains a phase ramp, and the mask's centre misses it."""

    num_cols: int

    @property
    def name(self) -> str:
        return f"centre shifted {self.num_cols}"

    @property
    def meaning(self) -> str:
        return (
            f"k-space moved by {self.num_cols} columns, around the edge; the magnitude of the whole image stays, but "
            "columns that leave the acquired range are lost"
        )

    def check(self, info: ScanInfo) -> None:
        """Raises ConfigError where there are not so many columns."""
        if type(self.num_cols) is not int or not 0 < abs(self.num_cols) < info.kspace_size[1]:
            raise ConfigError(
                f"conditions.shifts: expected whole numbers of columns, not 0 and fewer than the "
                f"{info.kspace_size[1]} of {info.path}, got {self.num_cols!r}"
            )

    def __call__(self, kspace: np.ndarray, info: ScanInfo, slice_num: int, data_range: float) -> np.ndarray:
        """(coil h w) -> (coil h w)"""
        return np.roll(kspace, self.num_cols, axis=-1)


_KINDS: dict[str, Callable[[Any], Condition]] = {"noise": Noise, "missing_coils": MissingCoil, "shifts": ShiftedCentre}


def conditions_of(settings: Mapping[str, Any]) -> list[Condition]:
    """The conditions of lists of numbers.  {"noise": [0.1], "missing_coils": [0], "shifts": [5]}"""
    for key, values in settings.items():
        if key not in _KINDS:
            raise ConfigError(f"conditions.{key}: expected one of {', '.join(_KINDS)}")
        numbers = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
        if not numbers or len(set(values)) < len(values):
            raise ConfigError(f"conditions.{key}={values!r}: expected a list of numbers, each once, such as [1,2]")
    return [_KINDS[key](value) for key, values in settings.items() for value in values]


def applicable(conditions: Sequence[Condition], volumes: Sequence[ScanInfo]) -> list[Condition]:
    """The conditions that suit all volumes: no missing coil where a volume has one coil only, no shift where the
    scanner undersampled one, since its k-space cannot be shifted before its mask.

    Raises ConfigError for a number that cannot be.
    """
    kept = list(conditions)
    for kind, key, why, suits in (
        (MissingCoil, "missing_coils", "has one coil only", lambda info: info.num_coils > 1),
        (ShiftedCentre, "shifts", "was undersampled by the scanner", lambda info: info.mask is None),
    ):
        other = next((info for info in volumes if not suits(info)), None)
        if other is not None and any(isinstance(c, kind) for c in kept):
            kept = [c for c in kept if not isinstance(c, kind)]
            log.info("conditions.%s: not scored, as %s %s", key, other.path, why)
    for condition in kept:
        for info in volumes:
            condition.check(info)
    return kept
