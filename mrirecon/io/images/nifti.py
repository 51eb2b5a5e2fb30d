"""NIfTI files (.nii, .nii.gz) as magnitude images; what the header claims is checked before it is believed."""

import gzip
import zlib
from io import BufferedIOBase
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from mrirecon.io.images.volume import ImageVolume, clear_errors, image_volume, need_memory, need_voxels, refuse

ENDINGS = (".nii", ".nii.gz")

# Deflate cannot shrink bytes more than 1032 times.
_MAX_RATIO = 1100
_VERSIONS = {b"n+1\0": (344, 348, nibabel.Nifti1Image), b"n+2\0": (4, 540, nibabel.Nifti2Image)}
_CHUNK = 1 << 22
_MAX_HEADER = 1 << 24  # header and extensions: what lies before the values
# All that nibabel and what it reads with raise on broken files.
_BROKEN = (
    ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, zlib.error, ValueError, TypeError,
    OverflowError,
)  # fmt: skip

_CURE = "It is damaged or cut short: copy or download it again"


def is_nifti(path: Path) -> bool:
    """Whether a file has the name of a NIfTI file that can be read."""
    return path.name.lower().endswith(ENDINGS)


def read(path: Path, slice_axis: str) -> ImageVolume:
    """The volume of a file, its slices in the plane `slice_axis`; of a series of volumes the first.

    Raises InputError.
    """
    with clear_errors(path, "a whole NIfTI file", _BROKEN, _CURE), _open(path) as file:
        shape, kind = _need_sound_header(path, file)
        file.seek(0)
        image = kind.from_stream(file)
        first = (slice(None),) * 3 + (0,) * (len(shape) - 3)
        values = np.asarray(image.dataobj[first])
        affine = np.asarray(image.affine, np.float64)
        _need_sound_end(
            path, file, 2 * _MAX_HEADER + int(np.prod(shape, dtype=np.int64)) * image.get_data_dtype().itemsize
        )
    num_volumes = int(np.prod(shape[3:]))
    notes = [f"holds {num_volumes} volumes of shape {shape[:3]}: the first is used"] if num_volumes > 1 else []
    return image_volume(path, values, affine, slice_axis, notes)


def _need_sound_header(path: Path, file: BufferedIOBase) -> tuple[tuple[int, ...], type[nibabel.Nifti1Image]]:
    """The shape and the version, once the header proved sound: nibabel reads and allocates whatever it claims."""
    raw = file.read(540)
    # The signature of NIfTI-2 comes first in the file, that of NIfTI-1 last in its header.
    found = next((row for magic, row in _VERSIONS.items() if raw[row[0] : row[0] + 4] == magic), None)
    if found is None:
        refuse(path, "a NIfTI file (n+1 or n+2)", "it has no such signature", "Convert it to .nii or .nii.gz")
    _, length, kind = found
    header = kind.header_class(raw[:length])
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header.get_data_offset())
    if dtype.kind not in "iuf":
        kinds = {"c": "complex numbers", "V": "colours (RGB)"}
        cure = "Give the magnitude as one real number per voxel"
        refuse(path, "real numbers", f"it holds {kinds.get(dtype.kind, dtype)}", cure)
    if len(shape) < 3:
        refuse(path, "a volume (x, y, z)", f"its shape is {shape}", "Give a volume")
    if not length <= offset <= _MAX_HEADER:
        refuse(path, f"values after {length} to {_MAX_HEADER} bytes", f"they begin at {offset}", "Convert it again")
    size = path.stat().st_size
    stored, ratio = (size, _MAX_RATIO) if _is_compressed(path) else (max(size - offset, 0), 1)
    need_voxels(path, shape, dtype.itemsize, stored, ratio)
    need_memory(path, int(np.prod(shape[:3], dtype=np.int64)))
    return tuple(int(axis) for axis in shape), kind


def _need_sound_end(path: Path, file: BufferedIOBase, most: int) -> None:
    """Reads a compressed file to its end, where its checksum is compared: nibabel stops at the last value."""
    while _is_compressed(path) and file.read(_CHUNK):
        if file.tell() > most:
            refuse(path, f"at most {most} bytes", "it unpacks to more", "Convert it again")


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if _is_compressed(path) else path.open("rb")
