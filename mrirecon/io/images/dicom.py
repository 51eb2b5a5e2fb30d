"""DICOM series as magnitude images: files of single slices, sorted by position, or one enhanced multi-frame file."""

import struct
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mrirecon.io.geometry import flip_lps_ras
from mrirecon.io.images.volume import ImageVolume, clear_errors, image_volume, need_memory, need_voxels, refuse

# Deflate and RLE cannot shrink bytes more; JPEG 2000 can, and an image of nothing else is refused with them.
_MAX_RATIO = 1100
_MAX_DEFLATED = 1 << 20
_SAME_DIRECTION = 1e-3  # scanners write direction cosines with six digits or fewer
_SAME_PLACE = 1e-3  # mm
_MAX_UNEVEN = 1.5
_NO_MAGNITUDE = {
    "P": "phase",
    "PHASE": "phase",
    "R": "real",
    "REAL": "real",
    "I": "imaginary",
    "IMAGINARY": "imaginary",
}
_DESCRIPTION = ["SeriesInstanceUID", "SeriesDescription", "PatientID", "Rows"]
# All that pydicom and what it decodes with raise on broken files.
_BROKEN = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, zlib.error, struct.error, ValueError, TypeError,
    KeyError, IndexError, AttributeError, NotImplementedError, RuntimeError, OverflowError,
)  # fmt: skip


class Description(NamedTuple):
    """What a file says of its series; empty where it does not."""

    series: str
    label: str
    patient: str


class _Frame(NamedTuple):
    """One slice and where it lies, in mm of DICOM's axes: x to the left, y to the back, z to the crown."""

    values: NDArray[np.float32]  # (y x)
    position: NDArray[np.float64]  # (3), of the first pixel
    along_row: NDArray[np.float64]  # (3), where column numbers grow to
    along_column: NDArray[np.float64]  # (3), where row numbers grow to
    spacing: tuple[float, float]  # between rows, between columns
    thickness: float


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's signature, or cannot be opened to tell; the name does not matter."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return True  # what is wrong with it is told when it is read


def describe(path: Path) -> Description | None:
    """The series that a file belongs to, None where it holds no image (a report, a DICOMDIR).  Raises InputError."""
    with _clear_errors(path):
        dataset = _dataset(path, stop_before_pixels=True, specific_tags=_DESCRIPTION)
        if "Rows" not in dataset:
            return None
        return Description(*(str(dataset.get(key) or "").strip() for key in _DESCRIPTION[:3]))


def read(paths: Sequence[Path], slice_axis: str) -> ImageVolume:
    """The volume that the files of one series make, its slices in the plane `slice_axis`.

    Raises InputError.
    """
    frames: list[_Frame] = []
    for path in paths:
        with _clear_errors(path):
            frames += _frames(path)
        need_memory(path, sum(frame.values.size for frame in frames))
    # A message on the series as a whole names its folder.
    place = paths[0] if len(paths) == 1 else paths[0].parent
    _need_parallel(place, frames)
    normal = np.cross(frames[0].along_row, frames[0].along_column)
    frames.sort(key=lambda frame: float(frame.position @ normal))
    notes: list[str] = []
    values = np.stack([frame.values for frame in frames]).transpose(2, 1, 0)
    return image_volume(place, values, _affine(place, frames, normal, notes), slice_axis, notes)


def _clear_errors(path: Path) -> AbstractContextManager[None]:
    cure = "If it is compressed, export it uncompressed; if it is damaged, copy it again"
    return clear_errors(path, "a whole DICOM image", _BROKEN, cure)


def _dataset(path: Path, **options: Any) -> Dataset:
    """Reads a file, unless it could unpack to more memory than there is: pydicom unpacks deflated files whole."""
    size = path.stat().st_size
    if size > _MAX_DEFLATED and read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        came = f"it is deflated, and larger ({size})"
        refuse(path, f"at most {_MAX_DEFLATED} bytes of deflated DICOM", came, "Export it uncompressed")
    return pydicom.dcmread(path, **options)


def _frames(path: Path) -> list[_Frame]:
    dataset = _dataset(path)
    _need_grey_magnitude(path, dataset)
    pixels = dataset.pixel_array
    if pixels.ndim == 2:
        pixels = pixels[None]
    return [_frame(path, dataset, i, values) for i, values in enumerate(pixels)]


def _need_grey_magnitude(path: Path, dataset: Dataset) -> None:
    """Comes before the pixels are decoded: the header alone says what cannot be used."""
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        refuse(path, "an image", f"it has no pixel data ({dataset.get('Modality', 'no modality')})")
    colours = dataset.get("PhotometricInterpretation")
    if dataset.get("SamplesPerPixel", 1) != 1 or colours != "MONOCHROME2":
        refuse(path, "grey values (MONOCHROME2)", f"its pixels are {colours}", "Give the images of the scanner")
    kind = next((_NO_MAGNITUDE[word] for word in _image_type(dataset) if word in _NO_MAGNITUDE), None)
    if kind:
        refuse(path, "magnitude images", f"they are {kind} images", "Give the magnitude images of the series")
    shape = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns))
    need_voxels(path, shape, max(int(dataset.BitsAllocated) // 8, 1), path.stat().st_size, _ratio(dataset))
    need_memory(path, shape[0] * shape[1] * shape[2])


def _image_type(dataset: Dataset) -> list[str]:
    """The words that say what kind of image it is; the first two are of its origin."""
    words = dataset.get("ImageType") or []
    words = [words] if isinstance(words, str) else [str(word) for word in words]
    return [*words[2:], str(dataset.get("ComplexImageComponent") or "")]


def _ratio(dataset: Dataset) -> int:
    syntax = dataset.file_meta.TransferSyntaxUID
    return _MAX_RATIO if syntax.is_compressed or syntax == DeflatedExplicitVRLittleEndian else 1


def _frame(path: Path, dataset: Dataset, i: int, values: np.ndarray) -> _Frame:
    groups = [dataset[key].value[number] for key, number in ((_PER_FRAME, i), (_SHARED, 0)) if key in dataset]
    found = {key: _look_up(dataset, groups, sequence, key) for sequence, key in _PLACES}
    missing = [key for key in _NEEDED if found[key] is None]
    if missing:
        came = f"frame {i} has no {' and no '.join(missing)}"
        refuse(path, "the position, direction and spacing of every slice", came, "Give the images of the scanner")
    slope, intercept = (
        default if found[key] is None else float(found[key])
        for key, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    with np.errstate(over="ignore"):  # what is too large for a float becomes Inf, and is refused as such
        scaled = (values * slope + intercept).astype(np.float32)
    direction = np.array(found["ImageOrientationPatient"], np.float64).reshape(2, 3)
    between_rows, between_columns = (float(number) for number in found["PixelSpacing"])
    return _Frame(
        scaled,
        np.array(found["ImagePositionPatient"], np.float64).reshape(3),
        direction[0],
        direction[1],
        (between_rows, between_columns),
        float(found["SliceThickness"] or 1.0),
    )


# Where an enhanced multi-frame file keeps what a single slice has at its top level.
_PER_FRAME, _SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
_PLACES = (
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing"),
    ("PixelMeasuresSequence", "SliceThickness"),
    ("PixelValueTransformationSequence", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleIntercept"),
)
_NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


def _look_up(dataset: Dataset, groups: Sequence[Dataset], sequence: str, key: str) -> Any:
    """The value for one frame, for all frames, or of the file, in that order; None where there is none."""
    items = [group[sequence].value[0] for group in groups if sequence in group]
    return next((item.get(key) for item in [*items, dataset] if item.get(key) is not None), None)


def _need_parallel(place: Path, frames: Sequence[_Frame]) -> None:
    first = frames[0]
    sizes = {frame.values.shape for frame in frames}
    if len(sizes) > 1:
        refuse(place, "images of one size in a series", f"there are {sorted(sizes)}", "Split the series")
    here = np.array([*first.along_row, *first.along_column])
    turned = [np.abs([*frame.along_row, *frame.along_column] - here).max() for frame in frames]
    if max(turned) > _SAME_DIRECTION:
        refuse(place, "parallel slices", "they lie in several directions (a localizer?)", "Split the series")
    if {frame.spacing for frame in frames} != {first.spacing}:
        refuse(place, "one pixel spacing in a series", "there are several", "Split the series")


def _affine(
    place: Path, frames: Sequence[_Frame], normal: NDArray[np.float64], notes: list[str]
) -> NDArray[np.float64]:
    """From (column, row, slice) numbers to mm in NIfTI's axes, which point opposite to DICOM's in x and y.  -> (4 4)"""
    first = frames[0]
    steps = np.diff([float(frame.position @ normal) for frame in frames])
    if steps.size and steps.min() < _SAME_PLACE:
        came = (
            f"{int((steps < _SAME_PLACE).sum())} of {len(frames)} lie where another one does (echoes, times, phases?)"
        )
        refuse(place, "each slice once in a series", came, "Keep one volume of them")
    step = float(np.median(steps)) if steps.size else first.thickness
    if steps.size and steps.max() > _MAX_UNEVEN * step:
        notes.append(f"slices are {steps.min():.3g} to {steps.max():.3g} mm apart: some seem to be missing")
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.spacing[1]
    affine[:3, 1] = first.along_column * first.spacing[0]
    affine[:3, 2] = normal * step
    affine[:3, 3] = first.position
    return flip_lps_ras(affine)
