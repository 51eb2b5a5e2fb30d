"""Drawing sampling masks with fastMRI's mask classes, reproducibly, and knowing what they really cost."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
from fastmri.data.subsample import MaskFunc

from mrirecon.errors import ConfigError
from mrirecon.io.mask_file import read_mask


class FileMask:
    """The same mask for every slice, from a file; k-space of another number of columns is refused."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.mask = read_mask(Path(path))


# What draws a mask: fastMRI's classes, or a file.
Masking: TypeAlias = MaskFunc | FileMask


def draw_mask(mask_func: Masking, num_cols: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A 1-D sampling mask along the phase encoding and its fully sampled centre.  -> bool (w), bool (w)"""
    if isinstance(mask_func, FileMask):
        return mask_func.mask, contiguous_center(mask_func.mask)
    try:
        mask, num_low = mask_func((1, num_cols, 2), seed=seed)
    except (ValueError, ArithmeticError, IndexError, TypeError) as error:
        raise ConfigError(f"mask: fastMRI's {type(mask_func).__name__} fails at {num_cols} columns: {error}") from error
    return mask.numpy().reshape(num_cols) > 0, center_mask(num_cols, num_low)


def center_mask(num_cols: int, num_low: int) -> np.ndarray:
    """The `num_low` columns in the middle of k-space, placed as fastMRI does.  -> bool (w)"""
    start = (num_cols - num_low + 1) // 2
    columns = np.arange(num_cols)
    return (columns >= start) & (columns < start + num_low)


def contiguous_center(mask: np.ndarray) -> np.ndarray:
    """The unbroken run of sampled columns around the middle of a given mask.  bool (w) -> bool (w)"""
    middle = len(mask) // 2
    gaps = np.flatnonzero(~mask)
    left = gaps[gaps <= middle].max(initial=-1)
    right = gaps[gaps >= middle].min(initial=len(mask))
    columns = np.arange(len(mask))
    return (columns > left) & (columns < right)  # nothing where the middle itself was not sampled


def volume_seed(name: str) -> tuple[int, ...]:
    """The seed of a volume's mask in evaluation, fastMRI's: the characters of the file name, `.h5` included."""
    return tuple(map(ord, name))


def volume_mask(mask_func: Masking, num_cols: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The mask of a volume in evaluation, and its centre.  -> bool (w), bool (w)

    Raises ConfigError where the family cannot give one at this width.
    """
    check_budget(mask_func, num_cols)
    return draw_mask(mask_func, num_cols, volume_seed(name))


def check_budget(mask_func: Masking, num_cols: int) -> None:
    """Raises ConfigError where the fully sampled centre alone uses up what the acceleration allows, or a file's mask
    has another width.

    fastMRI's classes then divide by zero, or silently sample the centre and nothing else.
    """
    if isinstance(mask_func, FileMask):
        if len(mask_func.mask) != num_cols:
            raise ConfigError(
                f"mask.path={mask_func.path}: has {len(mask_func.mask)} columns, the k-space has {num_cols}: "
                "choose scans of its width with data.num_cols, or another mask"
            )
        return
    for fraction, acceleration in _budgets(mask_func):
        if not (_is_number(fraction) and _is_number(acceleration) and 0 < fraction < 1 and acceleration >= 1):
            raise ConfigError(
                f"mask: center_fractions={fraction!r} with accelerations={acceleration!r}: expected a fraction "
                "between 0 and 1 and an acceleration of 1 or more"
            )
        num_low = round(num_cols * fraction)
        if num_low == 0:
            raise ConfigError(
                f"mask: a centre of {fraction:g} of {num_cols} columns is none, and such a mask can be empty: "
                "raise mask.center_fractions"
            )
        if num_low * acceleration >= num_cols:
            raise ConfigError(
                f"mask: a centre of {num_low} columns (mask.center_fractions={fraction:g}) is all, or more, that "
                f"{acceleration:g}-fold acceleration leaves of {num_cols} columns ({num_cols / acceleration:.1f}): "
                "lower mask.center_fractions or mask.accelerations"
            )
        if acceleration > num_cols:
            raise ConfigError(
                f"mask: {acceleration:g}-fold acceleration samples nothing of {num_cols} columns: lower it"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _budgets(mask_func: MaskFunc) -> list[tuple[float, float]]:
    if mask_func.allow_any_combination:
        return [(c, a) for c in mask_func.center_fractions for a in mask_func.accelerations]
    return list(zip(mask_func.center_fractions, mask_func.accelerations, strict=True))
