"""Draws sampling masks, of fastMRI's mask classes and others, reproducibly.

A mask is bool (1, w) where it samples whole columns, and (h, w) where it is a pattern in both directions.
"""

import threading
from collections.abc import Mapping
from copy import copy
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from fastmri.data.subsample import MaskFunc

from mrirecon.errors import ConfigError
from mrirecon.sampling.mask_file import read_mask

Size = tuple[int, int]
"""(h, w) of k-space."""


class Pattern(Protocol):
    """A mask that is not one of fastMRI's classes."""

    def draw(self, size: Size, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The mask of a seed, and its fully sampled centre.  -> bool (1|h w), bool (1|h w)"""

    def check(self, size: Size) -> None:
        """Raises ConfigError where it cannot sample k-space of that size."""


class FileMask:
    """The same mask for every slice, from a file; k-space of another size is refused."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.mask = np.atleast_2d(read_mask(Path(path)))
        self.center = contiguous_center(self.mask)

    def draw(self, size: Size, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The mask of the file, whatever the seed, and its fully sampled centre.  -> bool (1|h w), bool (1|h w)"""
        return self.mask, self.center

    def check(self, size: Size) -> None:
        """Raises ConfigError where k-space has another size."""
        if self.mask.shape not in (size, (1, size[1])):
            has = f"{self.mask.shape[1]} columns" if len(self.mask) == 1 else "{}x{} points".format(*self.mask.shape)
            raise ConfigError(
                f"mask.path={self.path}: has {has}, the k-space has {size[0]}x{size[1]}: "
                "choose scans of its width with data.num_cols, or another mask"
            )


# What draws a mask: one of fastMRI's classes, or another.
Masking: TypeAlias = MaskFunc | Pattern


def draw_mask(mask_func: Masking, size: Size, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A sampling mask and its fully sampled centre.  -> bool (1|h w), bool (1|h w)"""
    if not isinstance(mask_func, MaskFunc):
        return mask_func.draw(size, seed)
    num_cols = size[1]
    mask_func = copy(mask_func)
    mask_func.rng = _state_of_thread()  # one per thread, as threads draw at the same time
    mask_func.rng.seed(seed)
    try:
        if type(mask_func).sample_mask is not MaskFunc.sample_mask:  # one that chooses its centre in another way
            mask, num_low = mask_func((1, num_cols, 2), seed=seed)
            return mask.numpy().reshape(1, num_cols) > 0, center_mask(num_cols, num_low)
        # As MaskFunc.__call__, without its tensors, which take ten times as long as the drawing.
        center_fraction, acceleration = mask_func.choose_acceleration()
        num_low = round(num_cols * center_fraction)
        others = mask_func.calculate_acceleration_mask(num_cols, acceleration, None, num_low)
    except (ValueError, ArithmeticError, IndexError, TypeError) as error:
        raise ConfigError(f"mask: fastMRI's {type(mask_func).__name__} fails at {num_cols} columns: {error}") from error
    center = center_mask(num_cols, num_low)
    return center | (others > 0), center


_states = threading.local()


def _state_of_thread() -> np.random.RandomState:
    """One per thread, seeded before each use: making a new one takes twice as long."""
    if not hasattr(_states, "rng"):
        _states.rng = np.random.RandomState()
    return _states.rng


def center_mask(num_cols: int, num_low: int) -> np.ndarray:
    """The `num_low` columns in the middle of k-space, placed as fastMRI does.  -> bool (1 w)"""
    start = (num_cols - num_low + 1) // 2
    columns = np.arange(num_cols)[None]
    return (columns >= start) & (columns < start + num_low)


def contiguous_center(mask: np.ndarray) -> np.ndarray:
    """The fully sampled region around the k-space centre: a run of columns, or a box.  bool (1|h w) -> bool (1|h w)

    Empty where the centre itself was not sampled.
    """
    if len(mask) == 1:
        return _run(mask[0])[None]
    box = _run(mask[:, mask.shape[1] // 2])[:, None] & _run(mask[len(mask) // 2])
    while not mask[box].all():  # the two runs make a cross; a box of its length may have gaps
        box = _smaller(box)
    return box


def _run(line: np.ndarray) -> np.ndarray:
    """The unbroken run around the middle of a line.  bool (n) -> bool (n)"""
    middle = len(line) // 2
    gaps = np.flatnonzero(~line)
    left = gaps[gaps <= middle].max(initial=-1)
    right = gaps[gaps >= middle].min(initial=len(line))
    numbers = np.arange(len(line))
    return (numbers > left) & (numbers < right)


def _smaller(box: np.ndarray) -> np.ndarray:
    """A box without its outermost rows and columns.  bool (h w) -> bool (h w)"""
    rows, cols = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
    smaller = np.zeros_like(box)
    smaller[rows[0] + 1 : rows[-1], cols[0] + 1 : cols[-1]] = True
    return smaller


def is_2d(mask_func: Masking | None) -> bool:
    """Whether a mask is a pattern in both directions."""
    if isinstance(mask_func, FileMask):
        return len(mask_func.mask) > 1
    return mask_func is not None and not isinstance(mask_func, MaskFunc)


def sampled_of(mask: np.ndarray) -> str:
    """Sampled and possible columns, or points, as text.  `92 of 368 columns`"""
    return f"{mask.sum()} of {mask.size} " + ("columns" if len(mask) == 1 else "points")


def describe_mask(mask_func: Masking | None) -> str:
    """Family, acceleration and centre of a mask, as text.  `RandomMaskFunc 4x, centre 0.08`"""
    if mask_func is None:
        return "each scan's own"
    if isinstance(mask_func, FileMask):
        digest = sha256(np.packbits(mask_func.mask).tobytes()).hexdigest()[:12]
        return f"from a file: {sampled_of(mask_func.mask)}, {digest}"  # wherever the file lies
    return f"{type(mask_func).__name__} " + " or ".join(f"{a:g}x, centre {c:g}" for c, a in _budgets(mask_func))


def volume_seed(name: str) -> tuple[int, ...]:
    """The seed of a volume's mask in evaluation, fastMRI's: the characters of the file name, `.h5` included."""
    return tuple(map(ord, name))


def volume_mask(mask_func: Masking, size: Size, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The mask of a volume in evaluation, and its centre.  -> bool (1|h w), bool (1|h w)

    Raises ConfigError where the family cannot give one at this size.
    """
    check_budget(mask_func, size)
    return draw_mask(mask_func, size, volume_seed(name))


def by_acceleration(mask_func: Masking | None) -> dict[str, Masking | None]:
    """One mask for each (centre, acceleration) that a family chooses among, under its name: `4x`, `8x`.

    Each draws what the family of that acceleration alone draws. A single one, and what is no family, stays as it is
    and has no name.
    """
    pairs = [] if mask_func is None or not hasattr(mask_func, "accelerations") else _budgets(mask_func)
    if len(pairs) < 2:
        return {"": mask_func}
    several = len({acceleration for _, acceleration in pairs}) < len(pairs)
    return {f"{a:g}x" + (f" centre {c:g}" if several else ""): _only(mask_func, c, a) for c, a in pairs}


def named(masks: Mapping[str, Masking]) -> dict[str, Masking | None]:
    """`by_acceleration` of several masks, under their own names.  `random_8x`, `random_4x_8x 4x`"""
    return {f"{name} {a}".strip(): mask for name, func in masks.items() for a, mask in by_acceleration(func).items()}


def _only(mask_func: Any, center_fraction: float, acceleration: float) -> Masking:
    alone = copy(mask_func)
    alone.center_fractions, alone.accelerations = [center_fraction], [acceleration]
    alone.allow_any_combination = False
    return alone


def check_budget(mask_func: Masking, size: Size) -> None:
    """Raises ConfigError where the fully sampled centre alone uses up what the acceleration allows, or a file's mask
    has another size.

    fastMRI's classes then divide by zero, or silently sample the centre and nothing else.
    """
    if not isinstance(mask_func, MaskFunc):
        mask_func.check(size)
        return
    num_cols = size[1]
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


def _budgets(mask_func: Any) -> list[tuple[float, float]]:
    if getattr(mask_func, "allow_any_combination", False):
        return [(c, a) for c in mask_func.center_fractions for a in mask_func.accelerations]
    return list(zip(mask_func.center_fractions, mask_func.accelerations, strict=True))
