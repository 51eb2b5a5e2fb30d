"""The table of scan formats. Content decides which one a file or folder is, never its name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from mrirecon.errors import InputError
from mrirecon.io.hdf5 import open as hdf5
from mrirecon.io.probe import Probe, probe
from mrirecon.io.raw import fastmri, unsupported
from mrirecon.io.raw.unsupported import Refusal
from mrirecon.io.scan import Scan, ScanInfo

_SHOWN = 12  # bytes of an unknown file
_CURE = "Correct the path, or convert the scan to the fastMRI layout"


class Format(NamedTuple):
    """One row: how the format is recognised, and what describes and reads it; both raise InputError."""

    name: str
    recognise: Callable[[Probe], bool]
    inspect: Callable[[Path], ScanInfo]
    read: Callable[[Path], Scan]
    extra: str | None  # pip install 'mrirecon-lightning[extra]' brings the packages that inspect and read import


def inspect(path: Path) -> ScanInfo:
    """The description of a scan in any format that is known.  Raises InputError."""
    row = _format_of(path)
    with _need_extra(path, row):
        return row.inspect(path)


def read(path: Path) -> Scan:
    """The whole scan in memory, whatever its format.  Raises InputError."""
    row = _format_of(path)
    with _need_extra(path, row):
        return row.read(path)


def _format_of(path: Path) -> Format:
    with probe(path) as found:
        known = next((row for row in FORMATS if row.recognise(found)), None)
        return known or _refuse_unknown(found)


@contextmanager
def _need_extra(path: Path, row: Format) -> Iterator[None]:
    """Within it, a package that is not installed is an InputError that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if row.extra is None:
            raise
        raise InputError(
            f"{path}: {row.name} needs the package {error.name}, which is not installed. Install it: "
            f"pip install 'mrirecon-lightning[{row.extra}]'"
        ) from error


def _refuse_unknown(found: Probe) -> NoReturn:
    """Says what the path looks like, and what is read."""
    readable = ", ".join(row.name for row in FORMATS if not isinstance(row.read, Refusal))
    if found.hdf5 is not None:
        raise InputError(
            f"{found.path}: HDF5 of an unknown kind; it has {hdf5.keys(found.hdf5)}. Expected a data set `kspace`, "
            f"(slice, h, w) or (slice, coil, h, w), as in fastMRI's files (formats that are read: {readable}). Convert "
            "it to the fastMRI layout"
        )
    if found.path.suffix.lower() in (".h5", ".hdf5") and not found.is_folder:
        hdf5.refuse_without_signature(found.path, is_empty=not found.start)
    came = f"it is no HDF5 file and begins with {found.start[:_SHOWN]!r}"
    if found.is_folder:
        came = "this is a folder, and of no known kind"
    elif not found.start:
        came = "it is empty"
    raise InputError(f"{found.path}: expected a scan (formats that are read: {readable}), but {came}. {_CURE}")


FORMATS: tuple[Format, ...] = (
    Format("fastMRI", fastmri.recognise, fastmri.inspect, fastmri.read, None),
    Format("ISMRMRD", unsupported.is_ismrmrd, unsupported.ISMRMRD, unsupported.ISMRMRD, None),
    Format("GE ScanArchive", unsupported.is_scan_archive, unsupported.SCAN_ARCHIVE, unsupported.SCAN_ARCHIVE, None),
)
"""A new format is a file in `raw/` and a row here."""
