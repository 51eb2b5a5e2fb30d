"""Sampling patterns that vary in both directions of a slice, dense in the centre of k-space.

A slice of a 3-D scan is undersampled like this; for a 2-D scan it is what compressed sensing is usually shown on.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

# The discs alone: sigpy.mri.poisson searches for their size without end where an acceleration cannot be reached.
from sigpy.mri.samp import _poisson

from mrirecon.errors import ConfigError


class Pattern2d(ABC):
    """A pattern of one point in `acceleration`, with a fully sampled box in the middle.

    accelerations, center_fractions: in pairs, one of which is drawn for each mask; the box has that fraction of either
    axis. Raises ConfigError where they are not in pairs.
    """

    def __init__(self, center_fractions: Sequence[float], accelerations: Sequence[float]) -> None:
        if not center_fractions or len(center_fractions) != len(accelerations):
            raise ConfigError(
                f"mask.center_fractions={center_fractions} with mask.accelerations={accelerations}: expected a list of "
                "fractions and one of accelerations, of the same length"
            )
        self.center_fractions, self.accelerations = list(center_fractions), list(accelerations)

    def draw(self, size: tuple[int, int], seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The pattern of a seed, and its box.  (h, w) -> bool (h w), bool (h w)"""
        rng = np.random.RandomState(seed)
        choice = rng.randint(len(self.accelerations))
        box = center_box(size, box_size(size, self.center_fractions[choice]))
        return box | self._points(box, self.accelerations[choice], rng), box

    def check(self, size: tuple[int, int]) -> None:
        """Raises ConfigError where the box is empty, or uses up what the acceleration allows."""
        for fraction, acceleration in zip(self.center_fractions, self.accelerations, strict=True):
            if not (0 < fraction < 1 and 1 <= acceleration < float("inf")):
                raise ConfigError(
                    f"mask: center_fractions={fraction} with accelerations={acceleration}: expected a fraction between "
                    "0 and 1 and an acceleration of 1 or more"
                )
            rows, cols = box_size(size, fraction)
            if rows * cols == 0 or rows * cols * acceleration >= size[0] * size[1]:
                raise ConfigError(
                    f"mask: a centre of {rows}x{cols} points (mask.center_fractions={fraction:g}) does not suit "
                    f"{acceleration:g}-fold acceleration of {size[0]}x{size[1]} points: expected at least one and "
                    f"fewer than {size[0] * size[1] / acceleration:.0f}. Change mask.center_fractions"
                )

    @abstractmethod
    def _points(self, box: np.ndarray, acceleration: float, rng: np.random.RandomState) -> np.ndarray:
        """The points of one pattern around its box.  bool (h w) -> bool (h w)"""


class Gaussian2d(Pattern2d):
    """Points drawn one after the other, none twice, with a normal density around the middle: their number is exact.

    sigma: standard deviation of the density, as a fraction of either axis.
    """

    def __init__(self, center_fractions: Sequence[float], accelerations: Sequence[float], sigma: float) -> None:
        super().__init__(center_fractions, accelerations)
        if not 0 < sigma < float("inf"):
            raise ConfigError(f"mask.sigma={sigma}: expected a positive number, a fraction of either axis of k-space")
        self.sigma = sigma

    def _points(self, box: np.ndarray, acceleration: float, rng: np.random.RandomState) -> np.ndarray:
        y, x = (((np.arange(n) - n // 2) / (n * self.sigma)) ** 2 / 2 for n in box.shape)
        # The largest of log density plus Gumbel noise are draws without repetition: Yellott 1977,
        # doi:10.1016/0022-2496(77)90026-8.
        keys = rng.gumbel(size=box.shape) - y[:, None] - x
        keys[box] = np.inf
        num_points = round(box.size / acceleration)
        points = np.zeros(box.size, bool)
        points[np.argpartition(keys, -num_points, axis=None)[-num_points:]] = True
        return points.reshape(box.shape)


class Poisson2d(Pattern2d):
    """Variable-density Poisson discs: points that keep a distance, which grows from the middle outwards.

    SigPy's discs; of a few more than are needed some are dropped by chance, so that their number is exact.
    num_patterns: a pattern takes a tenth of a second to some seconds, so each mask is one of that many, kept in memory
    by every process that draws.
    """

    def __init__(self, center_fractions: Sequence[float], accelerations: Sequence[float], num_patterns: int) -> None:
        super().__init__(center_fractions, accelerations)
        if num_patterns < 1:
            raise ConfigError(f"mask.num_patterns={num_patterns}: expected at least 1")
        self.num_patterns = num_patterns

    def _points(self, box: np.ndarray, acceleration: float, rng: np.random.RandomState) -> np.ndarray:
        rows, cols = box.any(axis=1).sum(), box.any(axis=0).sum()
        num_points = round(box.size / acceleration)
        return _poisson_discs(box.shape, (int(rows), int(cols)), num_points, rng.randint(self.num_patterns))


@lru_cache(maxsize=256)
def _poisson_discs(size: tuple[int, int], box: tuple[int, int], num_points: int, seed: int) -> np.ndarray:
    """Exactly that many points around a box, or fewer where discs of the smallest size are fewer.  -> bool (h w)"""
    center = center_box(size, box)
    points = _discs(size, center, 0.0, seed)
    least, most = 0.01, float(max(size))
    # Bounded: not every number can be reached, and SigPy's own search then never ends.
    for _ in range(_STEPS):
        slope = (least * most) ** 0.5
        tried = _discs(size, center, slope, seed)
        if tried.sum() < num_points:
            most = slope
            continue
        least, points = slope, tried
        if tried.sum() <= _ENOUGH * num_points:
            break
    others = np.flatnonzero(points & ~center)
    dropped = np.random.RandomState(seed).permutation(others)[: max(0, points.sum() - num_points)]
    points.flat[dropped] = False
    return points


_STEPS, _ENOUGH = 10, 1.02


def _discs(size: tuple[int, int], center: np.ndarray, slope: float, seed: int) -> np.ndarray:
    """Discs of radius 1 + slope * r, where r grows from 0 in the box to 1 at the edge of k-space.  -> bool (h w)"""
    (h, w), (rows, cols) = size, (center.any(axis=1).sum(), center.any(axis=0).sum())
    y, x = (
        np.maximum(np.abs(np.arange(n) - n / 2) - m / 2, 0) / max(1, n / 2 - m / 2) for n, m in ((h, rows), (w, cols))
    )
    radius = 1 + slope * np.hypot(y[:, None], x)
    radii = (np.maximum(radius * n / max(size), 1) for n in (w, h))
    return _poisson(w, h, 30, *radii, (0, 0), seed).astype(bool) | center


def box_size(size: tuple[int, int], fraction: float) -> tuple[int, int]:
    """A fraction of either axis, in points."""
    return round(size[0] * fraction), round(size[1] * fraction)


def center_box(size: tuple[int, int], box: tuple[int, int]) -> np.ndarray:
    """A box in the middle of k-space, placed along either axis as fastMRI places a centre.  -> bool (h w)"""
    points = np.zeros(size, bool)
    top, left = ((n - m + 1) // 2 for n, m in zip(size, box, strict=True))
    points[top : top + box[0], left : left + box[1]] = True
    return points
