"""What any image file becomes: magnitude images as parallel slices of one anatomical plane."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from nibabel import orientations
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from mrirecon.errors import InputError
from mrirecon.io.scan import MIN_SIZE

# Where slice, row and column numbers grow to: as radiologists look at each plane, the face or the crown on top.
_PLANES = {"sagittal": "LIP", "coronal": "PIL", "axial": "SPL"}

SLICE_AXES = (*_PLANES, "native")
"""The planes that slices can lie in; native is the one nearest to that of the stored slices."""

MAX_VOXELS = 1 << 29
"""More are refused: 2 GiB as float32, several times the finest head of 7 T."""

# Interpolation overshoots at edges by less; CT and normalised images are far below zero.
_MAX_UNDERSHOOT = 0.2
_MAX_ANISOTROPY = 2.0
_MAX_REASON = 400  # characters of a library's message, which may quote what it read


@dataclass(frozen=True, eq=False)
class ImageVolume:
    """One volume of magnitude images in memory, in the units of its file."""

    values: NDArray[np.float32]  # (slice y x), finite, not negative, not all zero
    voxel_size: tuple[float, float, float]  # mm, along slice, y, x
    notes: tuple[str, ...]  # what had to be assumed


def image_volume(
    path: Path, values: np.ndarray, affine: np.ndarray, slice_axis: str, notes: Sequence[str] = ()
) -> ImageVolume:
    """Stored values turned so that the first axis runs across the slices.  (i j k) -> values (slice y x)

    affine: from (i, j, k) to mm, x to the right, y to the front, z to the crown, as NIfTI's. path: for messages.
    Raises InputError for what cannot be magnitude images.
    """
    notes = [*notes]
    magnitude = _magnitude(path, values, notes)
    stored = _orientation(path, affine)
    plane = tuple(_PLANES)[int(stored[2, 0])] if slice_axis == "native" else slice_axis
    turn = orientations.ornt_transform(stored, orientations.axcodes2ornt(_PLANES[plane]))
    turned = orientations.apply_orientation(magnitude, turn)
    sizes = dict(zip(turn[:, 0].astype(int), voxel_sizes(affine), strict=True))
    along_slice, along_y, along_x = (float(sizes[axis]) for axis in range(3))
    if max(along_y, along_x) > _MAX_ANISOTROPY * min(along_y, along_x):
        notes.append(
            f"pixels of {plane} slices are {along_y:.3g} x {along_x:.3g} mm: they cut across thick slices; "
            "slice_axis=native takes the slices as they were stored"
        )
    _need_size(path, turned.shape[1:], plane)
    return ImageVolume(np.ascontiguousarray(turned), (along_slice, along_y, along_x), tuple(notes))


def refuse(path: Path, expected: str, came: str, cure: str = "") -> NoReturn:
    """Raises InputError for a file that cannot be used; it can always be left out."""
    raise InputError(f"{path}: expected {expected}, but {came}. {f'{cure}, or leave' if cure else 'Leave'} it out")


@contextmanager
def clear_errors(path: Path, expected: str, broken: tuple[type[Exception], ...], cure: str) -> Iterator[None]:
    """Within it, what a format's library raises on broken files is an InputError.

    expected: what a sound file is. broken: all that the library, and what it reads with, may raise.
    """
    try:
        yield
    except InputError:  # a ValueError, as many that are broken
        raise
    except broken as error:
        reason = " ".join(str(error).split())[:_MAX_REASON]
        refuse(path, expected, f"it cannot be read ({reason})", cure)


def need_voxels(path: Path, shape: Sequence[int], itemsize: int, num_bytes: int, ratio: int) -> None:
    """Compares the shape that a file declares with what it can hold, so that reading cannot exhaust the memory.

    num_bytes: of the file, from where its values begin. ratio: how many times its compression can shrink.
    Raises InputError.
    """
    num_voxels = 1
    for axis in shape:
        num_voxels *= int(axis)  # Python's integers do not overflow
    if min(shape, default=0) < 1 or num_voxels * itemsize > num_bytes * ratio:
        raise InputError(
            f"{path}: expected as many values as its shape {tuple(shape)} says, {num_voxels * itemsize} bytes, but at "
            f"most {num_bytes * ratio} can be in it. It is damaged or cut short: copy or export it again"
        )


def need_memory(path: Path, num_voxels: int) -> None:
    """Raises InputError for more voxels than `MAX_VOXELS`."""
    if num_voxels > MAX_VOXELS:
        raise InputError(
            f"{path}: expected a volume of at most {MAX_VOXELS} voxels, but it has {num_voxels}. "
            "Leave it out, or cut it into smaller ones"
        )


def _magnitude(path: Path, values: np.ndarray, notes: list[str]) -> NDArray[np.float32]:
    # A double too large for a float becomes Inf, and is refused as such.
    with np.errstate(over="ignore"):
        magnitude = np.array(values, np.float32)
    num_bad = magnitude.size - int(np.isfinite(magnitude).sum())
    if num_bad:
        raise InputError(
            f"{path}: expected finite numbers, but {num_bad} voxels are NaN or Inf. Set them to 0 if they lie outside "
            "the object, or leave the file out"
        )
    least, most = float(magnitude.min()), float(magnitude.max())
    if most <= 0 or least < -_MAX_UNDERSHOOT * most:
        raise InputError(
            f"{path}: expected magnitude images, not negative and not all zero, but values go from {least:g} to "
            f"{most:g} (an empty, normalised, phase or CT image?). Give the magnitude images, or leave the file out"
        )
    if least < 0:
        notes.append(f"values down to {least:g}, from interpolation perhaps, count as 0")
        np.maximum(magnitude, 0, out=magnitude)
    return magnitude


def _orientation(path: Path, affine: np.ndarray) -> np.ndarray:
    """The anatomical axis nearest to each stored one, and its direction.  -> (3 2)"""
    stored = orientations.io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if np.isnan(stored).any():
        raise InputError(
            f"{path}: expected a position and a size for its voxels, but its affine is {np.round(affine, 3).tolist()}. "
            "Convert the file again from the scanner's images"
        )
    return stored


def _need_size(path: Path, size: Sequence[int], plane: str) -> None:
    if min(size) < MIN_SIZE:
        raise InputError(
            f"{path}: expected images of at least {MIN_SIZE}x{MIN_SIZE} (the window of the SSIM), but its {plane} "
            f"slices are {size[0]}x{size[1]}. Choose slice_axis=native, or leave the file out"
        )
