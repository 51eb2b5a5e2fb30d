"""Finding the image volumes below a folder, NIfTI files and DICOM series, and whose they are."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mrirecon.errors import InputError
from mrirecon.io.images import dicom, nifti
from mrirecon.io.images.volume import ImageVolume

_EXPECTED = f"expected images: {' or '.join(nifti.ENDINGS)} files, or DICOM series"


class ImageSource(NamedTuple):
    """One volume that can be read; nothing but its headers was looked at."""

    name: str  # its path below the folder
    subject: str  # volumes of one subject stay together; may name a patient, so it is for comparing only
    label: str  # the description of a DICOM series, else empty
    read: Callable[[str], ImageVolume]  # slice_axis -> volume


def list_files(root: Path) -> tuple[list[Path], int]:
    """The file itself, or all NIfTI and DICOM files below a folder, sorted, and how many other files it has.

    Hidden files count as others.  Raises InputError where there is no image.
    """
    if not root.exists():
        raise InputError(f"{root}: {_EXPECTED}, but nothing is there. Correct data.root")
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    found = [path for path in paths if not _is_hidden(root, path) and (nifti.is_nifti(path) or dicom.is_dicom(path))]
    if not found:
        raise InputError(f"{root}: {_EXPECTED}, but none of its {len(paths)} files is one. Correct data.root")
    return found, len(paths) - len(found)


def find(root: Path, paths: Sequence[Path]) -> list[ImageSource]:
    """The volumes that some files of a folder make, by name.  Raises InputError where they hold no image."""
    base = root.parent if root.is_file() else root
    sources = [_nifti_source(base, path) for path in paths if nifti.is_nifti(path)]
    series: dict[tuple[Path, dicom.Description], list[Path]] = {}
    for path in paths:
        description = None if nifti.is_nifti(path) else _describe(path)
        if description is not None:
            series.setdefault((path.parent, description), []).append(path)
    sources += _dicom_sources(base, series)
    if not sources:
        raise InputError(f"{root}: {_EXPECTED}, but its {len(paths)} DICOM files hold no image. Correct data.root")
    return sorted(sources, key=lambda source: source.name)


def _is_hidden(root: Path, path: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _describe(path: Path) -> dicom.Description | None:
    """A file that cannot be read is a series of its own, so that it can be refused, or left out, as one."""
    try:
        return dicom.describe(path)
    except InputError:
        return dicom.Description(path.name, "", "")


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
