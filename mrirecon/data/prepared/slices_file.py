"""Writes and reads a volume as one `.npy` file with a record per slice, uncompressed: a slice is one read.

Reading does not map the file: mapped pages count as memory of the process, and a file cut short would end the process
with a signal.
"""

import os
from collections.abc import Iterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mrirecon.errors import InputError
from mrirecon.system.atomic import replacing

_offsets: dict[str, tuple[np.dtype, int, int]] = {}
_MOST = 1 << 14  # volumes
_CURE = "Prepare the volume again with prepare_data"


def write(path: Path, dtype: np.dtype, num_slices: int, records: Iterable[np.ndarray]) -> str:
    """Writes the records of a volume, whole or not at all.  -> the SHA-256 of the file"""
    header = BytesIO()
    np.lib.format.write_array_header_2_0(
        header, {"shape": (num_slices,), "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    )
    digest = sha256(header.getvalue())
    path.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = len(header.getvalue()) + num_slices * dtype.itemsize
    with replacing(path, num_bytes) as temporary, temporary.open("wb") as file:
        file.write(header.getvalue())
        for record in records:
            raw = record.tobytes()
            digest.update(raw)
            file.write(raw)
    return digest.hexdigest()


def read(path: Path, dtype: np.dtype, num_slices: int, i: int) -> np.ndarray:
    """Slice `i` of a volume that has that type and number of records.  -> () of dtype

    Raises InputError where the file is gone, cut short, or holds something else.
    """
    record = np.empty(1, dtype)
    try:
        with path.open("rb", buffering=0) as file:
            offset = _offset(path, file, dtype, num_slices)
            num_read = os.preadv(file.fileno(), [record.view(np.uint8).data], offset + i * dtype.itemsize)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}. {_CURE}") from error
    if num_read != dtype.itemsize:
        raise InputError(f"{path}: ends within slice {i}: it was cut short. {_CURE}")
    return record[0]


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    found = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def _offset(path: Path, file: BinaryIO, dtype: np.dtype, num_slices: int) -> int:
    """Where the first record begins; looked up once per file."""
    known = _offsets.get(str(path))
    if known is None or known[:2] != (dtype, num_slices):
        if len(_offsets) >= _MOST:
            _offsets.clear()
        known = _offsets[str(path)] = (dtype, num_slices, _header(path, file, dtype, num_slices))
    return known[2]


def _header(path: Path, file: BinaryIO, dtype: np.dtype, num_slices: int) -> int:
    try:
        version = np.lib.format.read_magic(file)
        if version != (2, 0):
            raise ValueError(f"version {version}")
        shape, _, found = np.lib.format.read_array_header_2_0(file)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: is no file of a prepared store ({error}). {_CURE}") from error
    if shape != (num_slices,) or found != dtype:
        raise InputError(
            f"{path}: holds {shape} records of {found}, but the store's manifest expects ({num_slices},) of {dtype}. "
            f"{_CURE}"
        )
    return file.tell()
