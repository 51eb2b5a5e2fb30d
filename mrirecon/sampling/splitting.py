"""Splits a sampling mask into a part for the model and a part held back for the loss, to train without targets.

Yaman et al., doi:10.1002/mrm.28378 (SSDU): the mask is split anew for every slice into two disjoint parts, of which the
model sees one and the loss compares k-space on the other.
"""

from collections.abc import Callable

import numpy as np

from mrirecon.errors import ConfigError

_UNITS = ("columns", "points")
_DENSITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uniform": lambda distance: np.ones_like(distance),
    "gaussian": lambda distance: np.exp(-0.5 * (distance * 4) ** 2),  # the edge is four standard deviations away
}


class Splitting:
    """Holds a part of a mask back; the draw depends on the seed alone.

    fraction: of the samples outside the centre, held back. unit: columns, which keeps a mask of columns one, or points.
    density: where more is held back, uniform or gaussian (around the centre, as in the paper). keep_center: rows and
    columns in the middle of k-space that the model always sees. Raises ConfigError for values that cannot be.
    """

    def __init__(self, fraction: float, unit: str, density: str, keep_center: int) -> None:
        if not 0 < fraction < 1 or unit not in _UNITS or density not in _DENSITIES or keep_center < 0:
            raise ConfigError(
                f"splitting: fraction={fraction}, unit={unit}, density={density}, keep_center={keep_center}: expected "
                f"a fraction between 0 and 1, one of {', '.join(_UNITS)}, one of {', '.join(_DENSITIES)}, and 0 or more"
            )
        self.fraction, self.unit, self.density, self.keep_center = fraction, unit, density, keep_center

    def draw(self, mask: np.ndarray, num_rows: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The part for the model and the part held back, disjoint, together the mask.  bool (1|h w) -> bool, bool

        Points of a mask of columns are split row by row, so both parts are then (h w). num_rows: h.
        """
        whole = np.repeat(mask, num_rows, axis=0) if self.unit == "points" and len(mask) == 1 else mask
        if self.unit == "columns" and len(mask) > 1:
            raise ConfigError("splitting.unit=columns: the mask is a pattern of points: give splitting.unit=points")
        free = np.flatnonzero(whole & ~self.centre(whole.shape))
        num_held = round(self.fraction * len(free))
        held = np.zeros(whole.size, dtype=bool)
        if num_held:
            density = _DENSITIES[self.density](self._distance(whole.shape)).ravel()[free]
            rng = np.random.default_rng(seed)
            held[rng.choice(free, num_held, replace=False, p=density / density.sum())] = True
        held_back = held.reshape(whole.shape)
        return whole & ~held_back, held_back

    def centre(self, shape: tuple[int, int]) -> np.ndarray:
        """The part of k-space that the model always sees.  (1|h, w) -> bool (1|h w)"""
        inside = [_offsets(n) for n in shape]
        kept = [np.abs(offset + 0.5) <= self.keep_center / 2 if len(offset) > 1 else offset == 0 for offset in inside]
        return kept[0][:, None] & kept[1]

    def _distance(self, shape: tuple[int, int]) -> np.ndarray:
        """From the middle, 1 at the nearest edge.  -> (1|h w)"""
        rows, cols = (np.abs(_offsets(n)) / max(1, n // 2) for n in shape)
        return np.hypot(rows[:, None], cols)


def _offsets(n: int) -> np.ndarray:
    return np.arange(n) - n // 2
