"""What any scan file becomes: a description that costs no k-space (ScanInfo), and a whole volume in memory (Scan)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The window of the SSIM every score and the SSIM loss use: a smaller image has none.
MIN_SIZE = 7


@dataclass(frozen=True, eq=False)
class ScanInfo:
    """One volume without its values: shapes, what was acquired, and what had to be assumed (`notes`)."""

    path: Path
    name: str  # the file's name with its ending: fastMRI's masks are seeded by it
    num_slices: int
    num_coils: int
    kspace_size: tuple[int, int]  # (h, w): readout, phase encoding
    is_multicoil: bool
    target: str | None  # the data set in the file; None where the file has no target
    target_size: tuple[int, int] | None
    recon_size: tuple[int, int]  # images are cropped to it
    acquired: tuple[int, int]  # columns outside [first, last) were never measured
    mask: NDArray[np.bool_] | None  # (w,), where the file itself is undersampled
    num_low_frequency: int | None
    acquisition: str
    patient: str | None  # as the file names it
    maximum: float | None  # of the target volume, as the file states it
    simulated: bool  # from images, as the file states it: scores on it are better than on a scanner's k-space
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scan:
    """One volume in memory, in the units of its file."""

    info: ScanInfo
    kspace: NDArray[np.complex64]  # (slice coil h w)
    target: NDArray[np.float32] | None  # (slice y x)
