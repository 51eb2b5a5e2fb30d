"""Recognises formats that cannot be read, and says why and what to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from h5py import h5a, h5g

from mrirecon.errors import InputError
from mrirecon.io.hdf5 import open as hdf5
from mrirecon.io.probe import Probe


@dataclass(frozen=True)
class Refusal:
    """In place of a format's `inspect` and `read`: raises InputError."""

    reason: str

    def __call__(self, path: Path) -> NoReturn:
        raise InputError(f"{path}: {self.reason}")


def is_ismrmrd(probe: Probe) -> bool:
    """Whether this is HDF5 with `dataset/xml`."""
    h5file = probe.hdf5
    group = None if h5file is None else hdf5.child(h5file, "dataset")
    return isinstance(group, h5g.GroupID) and group.links.exists(b"xml")


def is_scan_archive(probe: Probe) -> bool:
    """Whether this is HDF5 with the marks of GE's ScanArchive."""
    h5file = probe.hdf5
    if h5file is None:
        return False
    return h5a.exists(h5file.id, b"H5ArchiveVersion") and h5file.id.links.exists(b"ArchiveMetaData")


ISMRMRD = Refusal(
    "ISMRMRD (it has `dataset/xml`) is not read yet; expected the fastMRI layout. Convert it: `kspace` as "
    "(slice, coil, h, w)"
)
SCAN_ARCHIVE = Refusal(
    "a GE ScanArchive; expected the fastMRI layout. Its k-space is packed in the vendor's own way, which only GE's "
    "Orchestra software reads: export it from there"
)
