"""Remembers where contiguous arrays lie in a file, so that a slice is read without opening HDF5.

Opening an HDF5 file and checking its arrays again costs more than reading a slice of a knee. No file is kept open: a
descriptor would be shared with forked workers, and HDF5's lock would keep others from writing the file.
"""

import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mrirecon.io.regular import open_without_waiting

TICK = 2_000_000_000
"""Nanoseconds: file systems tell times in steps of up to two seconds, so a newer file can change without showing it."""
# Volumes remembered: a place takes some hundred bytes, and the largest public sets have a few thousand volumes.
_MOST = 1 << 14


class Array(NamedTuple):
    """An array of a file, as its reader expects it; the first axis is that of the slices."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


Stamp = tuple[int, ...]
_places: dict[tuple[str, Sequence[Array]], tuple[Stamp, Sequence[int]]] = {}


def remember(path: Path, arrays: Sequence[Array], stat: os.stat_result, offsets: Sequence[int]) -> None:
    """Remembers where the arrays begin, in bytes; `stat`: of the file, taken before that was found."""
    if stat.st_mtime_ns > time.time_ns() - TICK:
        return
    if len(_places) >= _MOST:
        _places.clear()
    _places[str(path), arrays] = _stamp(stat), offsets


def read_slice(path: Path, arrays: Sequence[Array], i: int) -> list[np.ndarray] | None:
    """Slice `i` of each array; None where its place is not known, the file has changed, or it cannot be read."""
    place = _places.get((str(path), arrays))
    if place is None or not 0 <= i < arrays[0].shape[0]:
        return None
    seen, offsets = place
    try:
        with open(path, "rb", buffering=0, opener=open_without_waiting) as file:
            if _stamp(os.fstat(file.fileno())) == seen:
                return [_read(file, array, offset, i) for array, offset in zip(arrays, offsets, strict=True)]
    except OSError:
        pass  # reading through HDF5 meets the same error and has its message
    del _places[str(path), arrays]
    return None


def _read(file: BinaryIO, array: Array, offset: int, i: int) -> np.ndarray:
    values = np.empty(array.shape[1:], array.dtype)
    file.seek(offset + i * values.nbytes)
    left = values.reshape(-1).view(np.uint8).data
    while left:
        num_bytes = file.readinto(left)  # type: ignore[attr-defined]  # typeshed's BinaryIO lacks it
        if not num_bytes:
            raise OSError(errno.EIO, "the file ends early")
        left = left[num_bytes:]
    return values


def _stamp(stat: os.stat_result) -> Stamp:
    """What changes when a file is written or replaced."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
