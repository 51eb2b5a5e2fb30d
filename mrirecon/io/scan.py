"""What a scan file of any format becomes: a description without k-space (ScanInfo) or a whole volume (Scan)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrirecon.io.geometry import Geometry

# The window of the SSIM every score and the SSIM loss use: a smaller image has none.
MIN_SIZE = 7


class Target(NamedTuple):
    """The reference image that a file holds beside its k-space."""

    size: tuple[int, int]  # (y, x)
    maximum: float | None  # of the volume, as the file states it


class System(NamedTuple):
    """The scanner; None for what the file does not say."""

    vendor: str | None = None
    model: str | None = None
    field_strength: float | None = None  # tesla


@dataclass(frozen=True, eq=False)
class ScanInfo:
    """One volume without its values: what was measured, the image to make of it, and what the file says of the series.

    A reader brings k-space into the order slice coil h w (h: readout, w: phase encoding), with the slices sorted by
    place where the file gives it, and says in `notes` what it had to assume.
    """

    path: Path
    name: str  # of the file, with its ending: fastMRI's masks are seeded by it
    num_slices: int
    num_coils: int
    kspace_size: tuple[int, int]  # (h, w)
    acquired: tuple[int, int]  # columns outside [first, last) were never measured
    mask: NDArray[np.bool_] | None  # sampled columns (w,) or points (h, w); None: all of `acquired`
    num_low_frequency: int | None  # fully sampled columns in the middle of `mask`; None: found from it
    recon_size: tuple[int, int]  # (y, x): images are cropped to it
    target: Target | None
    geometry: Geometry | None
    acquisition: str  # contrast or series, "unknown" where the file does not say
    patient: str | None  # as the file names it
    system: System
    simulated: bool  # from images, as the file states it: scores on it are better than on a scanner's k-space
    fastmri_challenge: Literal["singlecoil", "multicoil"] | None  # files in the fastMRI layout only
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scan:
    """One volume in memory, in the units of its file."""

    info: ScanInfo
    kspace: NDArray[np.complex64]  # (slice coil h w)
    target: NDArray[np.float32] | None  # (slice y x)
    noise_covariance: NDArray[np.complex64] | None = None  # (coil coil), of one k-space sample; None: not measured

    def __post_init__(self) -> None:
        info = self.info
        assert self.kspace.shape == (info.num_slices, info.num_coils, *info.kspace_size), self.kspace.shape
        assert (self.target is None) == (info.target is None)
        assert self.noise_covariance is None or self.noise_covariance.shape == (info.num_coils, info.num_coils)
