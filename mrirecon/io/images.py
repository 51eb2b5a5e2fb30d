"""Finding the image volumes below a folder, NIfTI files and DICOM series, and whose they are."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mrirecon.errors import InputError
from mrirecon.io import dicom, nifti
from mrirecon.io.image_volume import ImageVolume

_EXPECTED = f"expected images: {' or '.join(nifti.ENDINGS)} files, or DICOM series"


class ImageSource(NamedTuple):
    """One volume that can be read; nothing but its headers was looked at."""

    name: str  # its path below the folder
    subject: str  # volumes of one subject stay together; may name a patient, so it is for comparing only
    label: str  # the description of a DICOM series, else empty
    read: Callable[[str], ImageVolume]  # slice_axis -> volume


def list_files(root: Path) -> list[Path]:
    """The file itself, or all files below a folder but hidden ones, sorted.  Raises InputError where there are none."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise InputError(f"{root}: {_EXPECTED}, but nothing is there. Correct data.root")
    below = (path for path in root.rglob("*") if not any(part[0] == "." for part in path.relative_to(root).parts))
    paths = sorted(path for path in below if path.is_file())
    if not paths:
        raise InputError(f"{root}: {_EXPECTED}, but there are no files in it. Correct data.root")
    return paths


def find(root: Path, paths: Sequence[Path]) -> tuple[list[ImageSource], int]:
    """The volumes among some files of a folder, by name, and how many files are none.  Raises InputError."""
    base = root.parent if root.is_file() else root
    volumes = [path for path in paths if nifti.is_nifti(path)]
    others = [path for path in paths if not nifti.is_nifti(path)]
    sources = [_nifti_source(base, path) for path in volumes]
    series: dict[tuple[Path, dicom.Description], list[Path]] = {}
    for path in others:
        description = dicom.describe(path) if dicom.is_dicom(path) else None
        if description is not None:
            series.setdefault((path.parent, description), []).append(path)
    sources += _dicom_sources(base, series)
    if not sources:
        raise InputError(f"{root}: {_EXPECTED}, but none of its {len(paths)} files is one. Correct data.root")
    num_used = len(volumes) + sum(map(len, series.values()))
    return sorted(sources, key=lambda source: source.name), len(paths) - num_used


def _nifti_source(base: Path, path: Path) -> ImageSource:
    """A file is a subject of its own, unless its path names one as BIDS does: `sub-01`."""
    name = path.relative_to(base).as_posix()
    named = re.search(r"(?:^|[/_])(sub-[A-Za-z0-9]+)", name)
    return ImageSource(name, named[1] if named else name, "", lambda slice_axis: nifti.read(path, slice_axis))


def _dicom_sources(base: Path, series: dict[tuple[Path, dicom.Description], list[Path]]) -> list[ImageSource]:
    """Each series of a folder; where a folder has several, they are numbered in the order of their identifiers."""
    sources = []
    for folder in sorted({folder for folder, _ in series}):
        within = sorted(description for other, description in series if other == folder)
        for number, description in enumerate(within, start=1):
            paths = series[folder, description]
            single = paths[0].relative_to(base).as_posix() if len(paths) == 1 else None
            place = folder.relative_to(base).as_posix()
            whole = (base.resolve().name if place == "." else place) + (f"/series{number}" if within[1:] else "")
            name = single or whole
            subject = f"patient {description.patient}" if description.patient else name
            sources.append(ImageSource(name, subject, description.label, _reader(paths)))
    return sources


def _reader(paths: Sequence[Path]) -> Callable[[str], ImageVolume]:
    return lambda slice_axis: dicom.read(paths, slice_axis)
