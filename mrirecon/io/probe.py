"""Looks at a path once, so that each format can tell whether it is its own: folder or file, first bytes, HDF5."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mrirecon.io.hdf5 import open as hdf5_files
from mrirecon.io.hdf5.open import UntrustedFile
from mrirecon.io.regular import open_bytes

MAX_START = 1 << 14
"""Bytes read of a file's beginning: enough for Siemens' list of measurements and the tables of a GE P-file."""


@dataclass(eq=False)
class Probe:
    """What a path is, without reading the scan; made by `probe`, and of use within its block only."""

    path: Path
    is_folder: bool
    start: bytes  # of the file, at most MAX_START; empty for a folder
    num_bytes: int  # of the file; 0 for a folder
    is_hdf5: bool  # the file has the signature
    _stack: ExitStack

    @cached_property
    def hdf5(self) -> UntrustedFile | None:
        """The file as HDF5, opened when it is first asked for; None where it has no HDF5 signature.

        Raises InputError where HDF5 cannot read it.
        """
        return self._stack.enter_context(hdf5_files.open_untrusted(self.path)) if self.is_hdf5 else None


@contextmanager
def probe(path: Path) -> Iterator[Probe]:
    """What a path is; its HDF5, if it was asked for, is closed at the end of the block.

    Raises InputError where nothing is there, or no file or folder, or it cannot be opened.
    """
    with ExitStack() as stack:
        if path.is_dir():
            yield Probe(path, True, b"", 0, False, stack)
            return
        with open_bytes(path, "a scan") as raw:
            start, num_bytes = raw.read(MAX_START), os.fstat(raw.fileno()).st_size
            is_hdf5 = hdf5_files.has_signature(raw)
        yield Probe(path, False, start, num_bytes, is_hdf5, stack)
