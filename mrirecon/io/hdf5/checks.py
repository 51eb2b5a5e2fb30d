"""Refuses HDF5 data sets before a value is read: values outside the file, shapes and texts it cannot hold."""

import math
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import h5py
import numpy as np
from h5py import h5d, h5p, h5z

from mrirecon.errors import InputError

MAX_TEXT = 1 << 20
"""Bytes of a text in a data set or an attribute."""

# Deflate cannot shrink bytes more than 1032 times: a larger ratio is a forged shape or a bomb.
_MAX_RATIO = 1100
# HDF5 loads any other filter from the machine's plug-in libraries, which a data file must not choose.
_FILTERS = {
    h5z.FILTER_DEFLATE: "gzip",
    h5z.FILTER_SHUFFLE: "shuffle",
    h5z.FILTER_FLETCHER32: "fletcher32",
    h5z.FILTER_SCALEOFFSET: "scaleoffset",
    h5z.FILTER_NBIT: "nbit",
    h5z.FILTER_LZF: "lzf",
}


class Stored(NamedTuple):
    """A data set, not read yet."""

    id: h5d.DatasetID
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, index: Any = ()) -> Any:
        """Values; () is all of them."""
        return h5py.Dataset(self.id)[index]


def refuse(path: Path, name: str, expected: str, came: str, cure: str) -> NoReturn:
    """Raises the InputError of a data set."""
    raise InputError(f"{path}: `{name}`: expected {expected}, but {came}. {cure}")


def need_inside(path: Path, name: str, plist: h5p.PropDCID) -> None:
    """Refuses values outside the file. Comes before asking for the shape: HDF5 opens the sources of a virtual set."""
    inside, cure = "values in the file itself", "Write the file anew with the values in it"
    if plist.get_layout() == h5d.VIRTUAL:
        refuse(path, name, inside, "it is virtual: its values lie in other files", cure)
    if plist.get_external_count():
        refuse(path, name, inside, "they lie in an external raw file", cure)


def need_known_filters(path: Path, name: str, plist: h5p.PropDCID) -> None:
    """Refuses compressions that need a plug-in, and those applied twice."""
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if not set(codes) <= set(_FILTERS):
        known = "no compression but " + ", ".join(_FILTERS.values())
        refuse(path, name, known, f"it uses filters {codes}", "Compress it with gzip, or not at all")
    if len(set(codes)) < len(codes):
        refuse(path, name, "each compression once", f"it uses filters {codes}", "Compress it once, or not at all")


def need_stored(path: Path, name: str, dataset: Stored, plist: h5p.PropDCID, num_bytes: int) -> None:
    """Compares what the data set declares with what the file holds, so that reading it cannot exhaust the memory.

    num_bytes: the size of the file.
    """
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = _num_stored_bytes(dataset.id, plist, num_bytes)
    most = stored * (_MAX_RATIO if plist.get_nfilters() else 1)
    if declared == 0 or declared > most:
        came = f"its shape {dataset.shape} means {declared} bytes and the file holds {stored}"
        refuse(path, name, "as many values as its shape says", came, "It is damaged: copy or download it again")
    if plist.get_layout() == h5d.CHUNKED:
        _need_chunks(path, name, dataset, plist.get_chunk(), most)


def extents(dataset: h5d.DatasetID, plist: h5p.PropDCID) -> list[tuple[int, int]]:
    """Where in the file the values of a data set lie, as (start, stop), if they lie in one piece or in chunks."""
    layout = plist.get_layout()
    if layout == h5d.CONTIGUOUS and (offset := dataset.get_offset()) is not None:
        return [(offset, offset + dataset.get_storage_size())]
    chunks: list[tuple[int, int]] = []
    if layout == h5d.CHUNKED:
        dataset.chunk_iter(lambda chunk: chunks.append((chunk.byte_offset, chunk.byte_offset + chunk.size)))
    return chunks


def need_sound_heaps(path: Path, raw: bytes) -> None:
    """Checks the heaps that hold texts of variable length: over one with a wrong size HDF5 (2.0) loops for ever."""
    for found in re.finditer(b"GCOL\x01", raw):
        _need_sound_heap(path, raw[found.start() :])


def _num_stored_bytes(dataset: h5d.DatasetID, plist: h5p.PropDCID, num_bytes: int) -> int:
    """The bytes of the data set that can be in the file, whatever it claims."""
    if plist.get_layout() == h5d.CONTIGUOUS:
        offset = dataset.get_offset()
        num_bytes = 0 if offset is None else max(num_bytes - offset, 0)
    return min(dataset.get_storage_size(), num_bytes)


def _need_chunks(path: Path, name: str, dataset: Stored, chunk: tuple[int, ...], most_bytes: int) -> None:
    """HDF5 allocates a chunk whole, and reads a chunk that was never written as zeros."""
    pairs = zip(dataset.shape, chunk, strict=True)
    expected, came = math.prod(math.ceil(size / length) for size, length in pairs), dataset.id.get_num_chunks()
    if expected != came:
        refuse(path, name, f"{expected} chunks", f"the file holds {came}", "It is unfinished: write it again")
    if math.prod(chunk) * dataset.dtype.itemsize > most_bytes:
        refuse(path, name, "chunks that the file can hold", f"they are {chunk}", "Write the file anew")


def _need_sound_heap(path: Path, raw: bytes) -> None:
    """Walks the objects of the heap that `raw` begins with, as HDF5's file format specification III.E lays them out."""
    position, stop = 16, int.from_bytes(raw[8:16], "little")
    while stop - position >= 16 and len(raw) >= stop:
        index, size = struct.unpack_from("<H6xQ", raw, position)
        length = 16 + -(-size // 8) * 8 if index else size
        if not 16 <= length <= stop - position or (index and size > MAX_TEXT):
            break
        position += length
    else:
        if len(raw) >= stop:
            return
    raise InputError(
        f"{path}: expected texts of at most {MAX_TEXT} bytes that lie in the file; one claims another size. Shorten "
        "the header or attribute, or copy the file again if it is damaged"
    )
