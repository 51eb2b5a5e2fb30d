"""The table of scan formats: what a file is, is decided by its content, never by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from h5py import h5a, h5g

from mrirecon.errors import InputError
from mrirecon.io.hdf5 import open as hdf5
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import Scan, ScanInfo


class Format(NamedTuple):
    """One row: how the format is recognised among HDF5 files, and what reads it."""

    name: str
    recognise: Callable[[hdf5.UntrustedFile], bool]
    inspect: Callable[[Path], ScanInfo]
    read: Callable[[Path], Scan]


def inspect(path: Path) -> ScanInfo:
    """The description of a scan in any format that is known.  Raises InputError."""
    return _format_of(path).inspect(path)


def read(path: Path) -> Scan:
    """The whole scan in memory, whatever its format.  Raises InputError."""
    return _format_of(path).read(path)


def _format_of(path: Path) -> Format:
    with hdf5.open_untrusted(path) as h5file:
        known = next((row for row in FORMATS if row.recognise(h5file)), None)
        found = hdf5.keys(h5file)
    if known is None:
        names = ", ".join(row.name for row in FORMATS)
        raise InputError(
            f"{path}: HDF5 of an unknown kind; it has {found}. Expected a data set `kspace`, (slice, h, w) or "
            f"(slice, coil, h, w), as in fastMRI's files (known kinds: {names}). Convert it to the fastMRI layout"
        )
    return known


def _has_kspace(h5file: hdf5.UntrustedFile) -> bool:
    return h5file.id.links.exists(b"kspace")


def _is_ismrmrd(h5file: hdf5.UntrustedFile) -> bool:
    group = hdf5.child(h5file, "dataset")
    return isinstance(group, h5g.GroupID) and group.links.exists(b"xml")


def _is_scan_archive(h5file: hdf5.UntrustedFile) -> bool:
    return h5a.exists(h5file.id, b"H5ArchiveVersion") and h5file.id.links.exists(b"ArchiveMetaData")


def _unsupported(reason: str) -> Callable[[Path], NoReturn]:
    def refuse(path: Path) -> NoReturn:
        raise InputError(f"{path}: {reason}")

    return refuse


_no_ismrmrd = _unsupported(
    "ISMRMRD (it has `dataset/xml`) is not read yet; expected the fastMRI layout. Convert it: `kspace` as "
    "(slice, coil, h, w)"
)
_no_scan_archive = _unsupported(
    "a GE ScanArchive; expected the fastMRI layout. Its k-space is packed in the vendor's own way, which only GE's "
    "Orchestra software reads: export it from there"
)

FORMATS = (
    Format("fastMRI", _has_kspace, fastmri.inspect, fastmri.read),
    Format("ISMRMRD", _is_ismrmrd, _no_ismrmrd, _no_ismrmrd),
    Format("GE ScanArchive", _is_scan_archive, _no_scan_archive, _no_scan_archive),
)
