"""Describes a file in the fastMRI layout without reading its k-space."""

import math
from typing import Literal, NamedTuple

import numpy as np
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from mrirecon.errors import InputError
from mrirecon.io.geometry import Geometry
from mrirecon.io.hdf5 import open as hdf5
from mrirecon.io.raw import ismrmrd_header
from mrirecon.io.raw.ismrmrd_header import Header
from mrirecon.io.scan import MIN_SIZE, ScanInfo, System, Target

Challenge = Literal["singlecoil", "multicoil"]


class Layout(NamedTuple):
    """How the volumes of a challenge are stored."""

    rank: int  # of the k-space
    axes: str
    target: str  # the data set


LAYOUTS: dict[Challenge, Layout] = {
    "singlecoil": Layout(3, "(slice, h, w)", "reconstruction_esc"),
    "multicoil": Layout(4, "(slice, coil, h, w)", "reconstruction_rss"),
}
# A header that asks for images so many times larger than its k-space is damaged or forged.
_MAX_GROWTH = 8


def describe(h5file: hdf5.UntrustedFile) -> ScanInfo:
    """The description of the volume in a file; `notes` tell what had to be assumed.  Raises InputError."""
    notes: list[str] = []
    shape, challenge = _kspace_shape(h5file)
    kspace_size = (shape[-2], shape[-1])
    target_size = _target_size(h5file, challenge, shape, notes)
    header = _header(h5file)
    acquired = _acquired(header, kspace_size[1], notes)
    recon_size = target_size or _recon_size(header, kspace_size, notes)
    return ScanInfo(
        path=h5file.path,
        name=h5file.path.name,
        num_slices=shape[0],
        num_coils=shape[1] if len(shape) == 4 else 1,
        kspace_size=kspace_size,
        acquired=acquired,
        mask=_mask(h5file, kspace_size[1]),
        num_low_frequency=_num_low_frequency(h5file, notes),
        recon_size=recon_size,
        geometry=_geometry(header, kspace_size, recon_size),
        acquisition=_acquisition(h5file, notes),
        patient=_patient(h5file),
        target=target_size and Target(target_size, _maximum(h5file, notes)),
        system=header.system if header else System(),
        simulated=_simulated(h5file, notes),
        fastmri_challenge=challenge,
        notes=tuple(notes),
    )


def _kspace_shape(h5file: hdf5.UntrustedFile) -> tuple[tuple[int, ...], Challenge]:
    """The shape of the k-space, and the challenge whose volumes have it."""
    axes = " or ".join(f"{axes} for {challenge}" for challenge, (_, axes, _) in LAYOUTS.items())
    dataset = hdf5.array(h5file, "kspace", "c")
    if dataset is None:
        raise InputError(
            f"{h5file.path}: expected a data set `kspace`, {axes}; the file has {hdf5.keys(h5file)}. "
            "Give a file in the fastMRI layout"
        )
    shape = dataset.shape
    challenge = next((name for name, (rank, *_) in LAYOUTS.items() if rank == len(shape)), None)
    if challenge is None:
        raise InputError(f"{h5file.path}: expected `kspace` as {axes}; its shape is {shape}. Reshape it")
    _need_size(h5file, "kspace", shape[-2:])
    return shape, challenge


def _need_size(h5file: hdf5.UntrustedFile, name: str, size: tuple[int, ...]) -> None:
    if min(size) < MIN_SIZE:
        raise InputError(
            f"{h5file.path}: `{name}`: expected images of at least {MIN_SIZE}x{MIN_SIZE} (the window of the SSIM), "
            f"but they are {size[0]}x{size[1]}. Leave the volume out"
        )


def _target_size(
    h5file: hdf5.UntrustedFile, challenge: Challenge, kspace: tuple[int, ...], notes: list[str]
) -> tuple[int, int] | None:
    """The size (y, x) of the challenge's own target, or None where the file has none."""
    name = LAYOUTS[challenge].target
    dataset = hdf5.array(h5file, name, "f")
    if dataset is None:
        others = [other for _, _, other in LAYOUTS.values() if hdf5.child(h5file, other) is not None]
        notes += [f"`{other}` is not the target of {challenge} data (`{name}` is) and is not used" for other in others]
        return None
    shape = dataset.shape
    if len(shape) != 3 or shape[0] != kspace[0]:
        raise InputError(
            f"{h5file.path}: expected `{name}` as (slice, y, x) with the {kspace[0]} slices of `kspace`, but its "
            f"shape is {shape}. Repair the file, or leave it out"
        )
    _need_size(h5file, name, shape[1:])
    _need_fit(h5file, name, shape[1:], kspace[-2:])
    return shape[1:]


def _need_fit(h5file: hdf5.UntrustedFile, name: str, target: tuple[int, int], kspace: tuple[int, ...]) -> None:
    """Narrow FLAIR scans (203 columns) have a wider target: both are then cropped to a square as wide as the scan."""
    (y, x), (h, w) = target, kspace
    if y > h or (x > w and w > y):
        raise InputError(
            f"{h5file.path}: `{name}`: expected images no larger than the k-space's {h}x{w}, but they are {y}x{x}. "
            "Repair the file (are the axes swapped?), or leave it out"
        )


def _mask(h5file: hdf5.UntrustedFile, num_columns: int) -> NDArray[np.bool_] | None:
    dataset = hdf5.array(h5file, "mask", "biuf")
    if dataset is None:
        return None
    values = dataset.read() if dataset.shape == (num_columns,) else np.zeros(0)
    if not values.any() or not np.isin(values, (0, 1)).all():
        raise InputError(
            f"{h5file.path}: expected `mask` to hold a 0 or 1, not all 0, for each of the {num_columns} columns; "
            f"it has shape {dataset.shape} or other values. Correct or remove it"
        )
    return values.astype(bool)


def _num_low_frequency(h5file: hdf5.UntrustedFile, notes: list[str]) -> int | None:
    value = hdf5.attribute(h5file, "num_low_frequency")
    if value is None or (isinstance(value, int) and value >= 0):
        return value
    notes.append(f"the attribute `num_low_frequency` is {str(value)[:60]!r} and not a count: not used")
    return None


def _acquisition(h5file: hdf5.UntrustedFile, notes: list[str]) -> str:
    value = hdf5.attribute(h5file, "acquisition")
    if isinstance(value, str) and value:
        return value[:200]
    notes.append("no attribute `acquisition`: counted as 'unknown'")
    return "unknown"


def _patient(h5file: hdf5.UntrustedFile) -> str | None:
    value = hdf5.attribute(h5file, "patient_id")
    return None if value is None else str(value)[:200]


def _simulated(h5file: hdf5.UntrustedFile, notes: list[str]) -> bool:
    value = hdf5.attribute(h5file, "simulated")
    if value is None or value in (False, True):
        return bool(value)
    notes.append(f"the attribute `simulated` is {str(value)[:60]!r}, not true or false: counted as simulated")
    return True


def _maximum(h5file: hdf5.UntrustedFile, notes: list[str]) -> float | None:
    value = hdf5.attribute(h5file, "max")
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    came = "no attribute `max`" if value is None else f"the attribute `max` is {str(value)[:60]!r}"
    notes.append(f"{came}: the maximum has to be computed from the target")
    return None


def _header(h5file: hdf5.UntrustedFile) -> Header | None:
    """The ISMRMRD header, or None.  Raises InputError where the XML declares a document type."""
    raw = hdf5.text(h5file, "ismrmrd_header")
    try:
        return None if raw is None else ismrmrd_header.parse(raw)
    except DefusedXmlException as error:
        raise InputError(
            f"{h5file.path}: `ismrmrd_header`: expected XML without a document type or entities, found them "
            f"({type(error).__name__}). They can exhaust the memory: remove them"
        ) from error


def _acquired(header: Header | None, num_columns: int, notes: list[str]) -> tuple[int, int]:
    """fastMRI's `padding_left` and `padding_right`: no line outside them was measured."""
    if header is None:
        notes.append("no readable `ismrmrd_header`: every column counts as acquired")
        return 0, num_columns
    steps = header.encoded.size[1]
    if steps is None or header.center is None or header.maximum is None:
        notes.append("`ismrmrd_header` does not tell the encoding limits: every column counts as acquired")
        return 0, num_columns
    left = steps // 2 - header.center
    first, last = max(left, 0), min(left + header.maximum + 1, num_columns)
    if first >= last:
        notes.append(f"`ismrmrd_header` places the acquired columns at {first}:{last}: every column counts as acquired")
        return 0, num_columns
    return first, last


def _recon_size(header: Header | None, kspace_size: tuple[int, int], notes: list[str]) -> tuple[int, int]:
    """The header's image size (y, x): the readout, ISMRMRD's x, comes first here."""
    h, w = kspace_size
    y, x = header.recon.size[:2] if header else (None, None)
    if y is None or x is None or min(y, x) < MIN_SIZE:
        notes.append(f"neither a target nor the header tells the image size: images keep the k-space's own, {h}x{w}")
        return h, w
    if max(y, x) > _MAX_GROWTH * max(h, w):
        notes.append(f"the header's image size {(y, x)} cannot be meant: images keep the k-space's, {h}x{w}")
        return h, w
    return y, x


def _geometry(header: Header | None, kspace_size: tuple[int, int], recon_size: tuple[int, int]) -> Geometry | None:
    """The images' field of view; the layout has no positions, so there is no affine.

    Images are cropped and never interpolated: their pixels are those of the encoded space where k-space has its size,
    and else those of the reconstructed space where the images have its size.
    """
    if header is None:
        return None
    for space, size in ((header.encoded, kspace_size), (header.recon, recon_size)):
        y, x, z = space.field_of_view
        if space.size[:2] == size and y is not None and x is not None:
            field_of_view = (y * recon_size[0] / size[0], x * recon_size[1] / size[1])
            return Geometry(field_of_view, None if z is None else z / max(space.size[2] or 1, 1))
    return None
