"""Where the voxels of a scan lie in the patient, in mm.

Voxel indices are (y, x, slice) of a volume `(slice y x)`: y runs along the readout, x along the phase encoding. ISMRMRD
and DICOM give positions as LPS (x to the left, y to the back, z to the head), NIfTI as RAS (right, front, head).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Of direction vectors, which files hold in single precision or as five-digit texts.
_TOLERANCE = 1e-3
# Of the distance between slices: positions are rounded to some hundredths of a millimetre.
_MAX_UNEVEN = 0.01


@dataclass(frozen=True, eq=False)
class Geometry:
    """What a file says of place and size; None for what it does not say.  Raises ValueError for what cannot be.

    A file that gives a field of view but no position has no affine: none is made up.
    """

    field_of_view: tuple[float, float]  # mm, (y, x) of an image of `ScanInfo.recon_size`
    slice_thickness: float | None = None  # mm, without the gap to the next slice
    affine: NDArray[np.float64] | None = None  # (4 4), voxel (y, x, slice, 1) -> RAS mm
    slice_order: tuple[int, ...] | None = None  # the numbers of the slices, in the order in which they were measured

    def __post_init__(self) -> None:
        sizes = [*self.field_of_view, *(() if self.slice_thickness is None else (self.slice_thickness,))]
        if len(self.field_of_view) != 2 or not all(0 < size < np.inf for size in sizes):
            raise ValueError(f"expected a field of view (y, x) and a slice thickness above 0 mm, got {sizes}")
        if self.affine is not None:
            object.__setattr__(self, "affine", _sound_affine(self.affine))
        if self.slice_order is not None and sorted(self.slice_order) != list(range(len(self.slice_order))):
            raise ValueError(f"expected a slice order with each slice once, got {self.slice_order[:20]}")


def from_directions(
    positions: ArrayLike,
    read_dir: ArrayLike,
    phase_dir: ArrayLike,
    slice_dir: ArrayLike,
    *,
    size: tuple[int, int],
    field_of_view: tuple[float, float],
    slice_thickness: float,
    slice_order: Sequence[int] | None = None,
) -> Geometry:
    """The geometry of parallel slices from what ISMRMRD's acquisition headers hold.

    positions: (slice 3), LPS mm, the centre of each slice in the order of the volume: voxel (y//2, x//2).
    read_dir, phase_dir, slice_dir: (3), LPS unit vectors. size, field_of_view: (y, x) of the image, pixels and mm.
    slice_thickness: mm, also the step of a single slice.

    Raises ValueError where the directions are not orthonormal, or the slices not evenly spaced along slice_dir.
    """
    centres = np.asarray(positions, np.float64).reshape(-1, 3)
    directions = np.array([read_dir, phase_dir, slice_dir], np.float64)
    if not np.allclose(directions @ directions.T, np.eye(3), atol=_TOLERANCE):
        raise ValueError(f"expected read, phase and slice directions at right angles, got {directions.tolist()}")
    steps = np.array(field_of_view) / size
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = directions[0] * steps[0], directions[1] * steps[1]
    lps[:3, 2] = directions[2] * slice_thickness if len(centres) == 1 else _slice_step(centres, directions[2])
    lps[:3, 3] = centres[0] - lps[:3, :2] @ [size[0] // 2, size[1] // 2]
    return Geometry(field_of_view, slice_thickness, flip_lps_ras(lps), None if slice_order is None else (*slice_order,))


def flip_lps_ras(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine from the same voxels to RAS where it was to LPS, and the other way round.  (4 4) -> (4 4)"""
    return affine * np.array([[-1.0], [-1.0], [1.0], [1.0]])


def order_along(positions: ArrayLike, slice_dir: ArrayLike) -> list[int]:
    """The numbers of slices, sorted by place along a direction.  (slice 3), (3) -> (slice)

    Scanners measure slices interleaved: a reader sorts them by `kspace[order_along(...)]`.
    """
    places = np.asarray(positions, np.float64) @ np.asarray(slice_dir, np.float64)
    return [int(number) for number in np.argsort(places, kind="stable")]


def _slice_step(centres: NDArray[np.float64], slice_dir: NDArray[np.float64]) -> NDArray[np.float64]:
    """From one slice to the next, mm; slices may be numbered against `slice_dir`.  (slice 3), (3) -> (3)"""
    steps = np.diff(centres, axis=0)
    step = (centres[-1] - centres[0]) / len(steps)
    distance = float(np.linalg.norm(step))
    is_along = abs(step @ slice_dir) >= (1 - _TOLERANCE) * distance
    if distance == 0 or not is_along or np.abs(steps - step).max() > _MAX_UNEVEN * distance:
        raise ValueError(f"expected slices evenly spaced along {slice_dir.tolist()}, got steps {steps[:5].tolist()} mm")
    return step


def _sound_affine(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """A copy that cannot be written to.  Raises ValueError where it gives no voxel a place of its own."""
    affine = np.array(affine, np.float64)
    is_affine = affine.shape == (4, 4) and np.isfinite(affine).all() and (affine[3] == [0, 0, 0, 1]).all()
    if not is_affine or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise ValueError(f"expected an affine from voxels to mm, got {affine.tolist()}")
    affine.setflags(write=False)
    return affine
