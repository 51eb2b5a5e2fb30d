"""HDF5 files of strangers, read without being led out of them, and HDF5 files of ours, written whole or not."""

import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np

from mrirecon.errors import InputError
from mrirecon.io.atomic import replacing

# What HDF5 adds to the arrays themselves, generously: the bytes a write must find free.
_OVERHEAD = 64 * 1024
_MAX_TEXT = 1 << 20
_MAX_GAP = 1 << 26
# Deflate cannot shrink bytes more than 1032 times: a larger ratio is a lie about the shape, or a bomb.
_MAX_RATIO = 1100
# HDF5 looks for any other filter among the machine's plug-in libraries, which a data file has no business choosing.
_FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_SCALEOFFSET: "scaleoffset",
    h5py.h5z.FILTER_NBIT: "nbit",
    h5py.h5z.FILTER_LZF: "lzf",
}
_NUMBERS = {"c": "complex numbers (complex64)", "f": "real numbers (float32)", "biuf": "zeros and ones (bool)"}
# All that h5py raises on broken files; it has no exception of its own.
_BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)


@contextmanager
def open_untrusted(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading; whatever HDF5 finds broken, now or while it is read, becomes an InputError.

    Read its contents with `array`, `text`, `attribute` and `keys` only: they refuse whatever leads out of the file.
    """
    _need_hdf5(path)
    try:
        with h5py.File(path, "r") as h5file:
            _need_sound_heaps(h5file)
            yield h5file
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"{path}: expected a whole HDF5 file, but HDF5 cannot read it ({error}). It is damaged or cut short: "
            "copy or download it again"
        ) from error


def array(h5file: h5py.File, name: str, kinds: str) -> h5py.Dataset | None:
    """The data set of that name, not read yet, or None; all its values are certain to lie in the file itself.

    `kinds` is NumPy's letter of what it may hold: "c", "f" or "biuf".
    """
    dataset = _dataset(h5file, name)
    if dataset is not None and dataset.dtype.kind not in kinds:
        _refuse(dataset, _NUMBERS[kinds], f"it holds {str(dataset.dtype)[:80]}", "Convert it")
    return dataset


def text(h5file: h5py.File, name: str) -> bytes | None:
    """The text stored as a data set, or None where there is none or it is no single text.

    Raises InputError above 1 MiB.
    """
    dataset = _dataset(h5file, name)
    if dataset is None or dataset.size != 1 or h5py.check_string_dtype(dataset.dtype) is None:
        return None
    raw = np.asarray(dataset[()]).item() if _text_length(dataset) <= _MAX_TEXT else None
    if raw is None or len(raw) > _MAX_TEXT:
        _refuse(dataset, f"a text of at most {_MAX_TEXT} bytes", "it is larger", "Store a shorter one, or remove it")
    return raw


def attribute(h5file: h5py.File, name: str) -> Any:
    """A single-valued attribute of the file, text as str, or None where it has none.

    Raises InputError above 1 MiB and for arrays.
    """
    if name not in h5file.attrs:
        return None
    attr = h5file.attrs.get_id(name)
    num_values, size = attr.get_space().get_simple_extent_npoints(), attr.get_storage_size()
    value: Any = h5file.attrs[name] if num_values == 1 and size <= _MAX_TEXT else None
    if isinstance(value, np.generic | np.ndarray):
        value = value.item()
    if value is None or (isinstance(value, str | bytes) and len(value) > _MAX_TEXT):
        raise InputError(
            f"{h5file.filename}: the attribute `{name}` should be one value of at most {_MAX_TEXT} bytes; it is "
            f"{num_values} values in {size} bytes or more. Correct or remove it"
        )
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def keys(h5group: h5py.Group) -> list[str]:
    """The names of what lies in a group: the first twenty, each cut at 60 characters."""
    return [str(name)[:60] for name in islice(h5group, 20)]


def child(h5group: h5py.Group, name: str) -> h5py.Dataset | h5py.Group | None:
    """What lies in the group under that name, or None.  Raises InputError for soft and external links."""
    links, raw = h5group.id.links, _raw(name)
    if not links.exists(raw):
        return None
    if links.get_info(raw).type != h5py.h5l.TYPE_HARD:
        raise InputError(
            f"{h5group.file.filename}: `{name}` is a link; expected the data itself. Links are not followed, as "
            "they can lead to other files: write the file anew with the data in it"
        )
    return h5group[name]


def _text_length(dataset: h5py.Dataset) -> int:
    """The bytes a single text claims to have: HDF5 allocates them, up to 4 GiB, before it looks for them."""
    offset = dataset.id.get_offset()
    if h5py.check_string_dtype(dataset.dtype).length is not None or offset is None:
        return dataset.nbytes
    with Path(dataset.file.filename).open("rb") as file:
        file.seek(offset)
        return int.from_bytes(file.read(4), "little")


def _raw(name: str | bytes) -> bytes:
    """h5py gives a name that is not UTF-8 as bytes, whatever its documentation says."""
    return name if isinstance(name, bytes) else name.encode()


def _dataset(h5file: h5py.File, name: str) -> h5py.Dataset | None:
    dataset = child(h5file, name)
    if dataset is None:
        return None
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"{h5file.filename}: `{name}` should be a data set, but is a {type(dataset).__name__}")
    _need_inside(dataset)
    _need_filters(dataset)
    _need_stored(dataset)
    return dataset


def _refuse(dataset: h5py.Dataset, expected: str, came: str, cure: str) -> NoReturn:
    raise InputError(f"{dataset.file.filename}: `{dataset.name[1:]}`: expected {expected}, but {came}. {cure}")


def _need_inside(dataset: h5py.Dataset) -> None:
    """Comes before the data set is asked for its shape: HDF5 opens the sources of a virtual one to tell it."""
    plist = dataset.id.get_create_plist()
    inside, cure = "values in the file itself", "Write the file anew with the values in it"
    if plist.get_layout() == h5py.h5d.VIRTUAL:
        _refuse(dataset, inside, "it is virtual: its values lie in other files", cure)
    if plist.get_external_count():
        _refuse(dataset, inside, "they lie in an external raw file", cure)


def _need_filters(dataset: h5py.Dataset) -> None:
    plist = dataset.id.get_create_plist()
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if not set(codes) <= set(_FILTERS):
        known = "no compression but " + ", ".join(_FILTERS.values())
        _refuse(dataset, known, f"it uses filters {codes}", "Compress it with gzip, or not at all")
    if len(set(codes)) < len(codes):
        _refuse(dataset, "each compression once", f"it uses filters {codes}", "Compress it once, or not at all")


def _need_stored(dataset: h5py.Dataset) -> None:
    """Compares what the data set declares with what the file holds, so that reading it cannot exhaust the memory."""
    declared = (0 if dataset.shape is None else dataset.size) * dataset.dtype.itemsize
    stored = _num_stored_bytes(dataset)
    ratio = _MAX_RATIO if dataset.id.get_create_plist().get_nfilters() else 1
    if declared == 0 or declared > stored * ratio:
        came = f"its shape {dataset.shape} means {declared} bytes and the file holds {stored}"
        _refuse(dataset, "as many values as its shape says", came, "It is damaged: copy or download it again")
    if dataset.chunks:
        _need_chunks(dataset, stored * ratio)


def _num_stored_bytes(dataset: h5py.Dataset) -> int:
    """The bytes of the data set that can be in the file, whatever it claims."""
    size = Path(dataset.file.filename).stat().st_size
    stored = dataset.id.get_storage_size()
    if dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        size = 0 if offset is None else max(size - offset, 0)
    return min(stored, size)


def _need_chunks(dataset: h5py.Dataset, most_bytes: int) -> None:
    """HDF5 allocates a chunk whole, and reads a chunk that was never written as zeros."""
    pairs = zip(dataset.shape, dataset.chunks, strict=True)
    expected, came = math.prod(math.ceil(size / chunk) for size, chunk in pairs), dataset.id.get_num_chunks()
    if expected != came:
        _refuse(dataset, f"{expected} chunks", f"the file holds {came}", "It is unfinished: write it again")
    if math.prod(dataset.chunks) * dataset.dtype.itemsize > most_bytes:
        _refuse(dataset, "chunks that the file can hold", f"they are {dataset.chunks}", "Write the file anew")


def _need_sound_heaps(h5file: h5py.File) -> None:
    """Checks the heaps that hold texts of variable length: over one with a wrong size HDF5 (2.0) loops for ever.

    HDF5 does not tell where they are, so what lies around the data sets is searched for their signature.
    """
    path = Path(h5file.filename)
    with path.open("rb") as file:
        for start, stop in _gaps(h5file, path.stat().st_size):
            file.seek(start)
            raw = file.read(min(stop - start, _MAX_GAP))
            for found in re.finditer(b"GCOL\x01", raw):
                _need_sound_heap(path, raw[found.start() :])


def _gaps(h5file: h5py.File, size: int) -> list[tuple[int, int]]:
    """What of the file no top-level data set fills, as (start, stop)."""
    filled = sorted(extent for name in islice(h5file, 100) for extent in _extents(h5file, name))
    starts = [0, *(stop for _, stop in filled)]
    stops = [*(start for start, _ in filled), size]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def _extents(h5file: h5py.File, name: str) -> list[tuple[int, int]]:
    """Where in the file the values of a data set lie, as (start, stop), if they lie in one piece or in chunks."""
    if h5file.id.links.get_info(_raw(name)).type != h5py.h5l.TYPE_HARD:
        return []
    dataset = h5file[name]
    layout = dataset.id.get_create_plist().get_layout() if isinstance(dataset, h5py.Dataset) else None
    if layout == h5py.h5d.CONTIGUOUS and (offset := dataset.id.get_offset()) is not None:
        return [(offset, offset + dataset.id.get_storage_size())]
    chunks: list[tuple[int, int]] = []
    if layout == h5py.h5d.CHUNKED:
        dataset.id.chunk_iter(lambda chunk: chunks.append((chunk.byte_offset, chunk.byte_offset + chunk.size)))
    return chunks


def _need_sound_heap(path: Path, raw: bytes) -> None:
    """Walks the objects of the heap that `raw` begins with, as HDF5's file format specification III.E lays them out."""
    position, stop = 16, int.from_bytes(raw[8:16], "little")
    while stop - position >= 16 and len(raw) >= stop:
        index, size = struct.unpack_from("<H6xQ", raw, position)
        length = 16 + -(-size // 8) * 8 if index else size
        if not 16 <= length <= stop - position or (index and size > _MAX_TEXT):
            break
        position += length
    else:
        if len(raw) >= stop:
            return
    raise InputError(
        f"{path}: expected texts of at most {_MAX_TEXT} bytes that lie in the file; one claims another size. Shorten "
        "the header or attribute, or copy the file again if it is damaged"
    )


@contextmanager
def atomic_writer(path: Path, num_bytes: int) -> Iterator[h5py.File]:
    """A new HDF5 file that gets its final name only when it is complete and on disk.

    `num_bytes` is the size of the arrays to come. Raises OSError (ENOSPC) before anything is written where the disk
    cannot hold them. A process killed midway leaves a hidden `.*.tmp` file at most, which no reader takes for a volume.
    """
    with replacing(path, num_bytes + _OVERHEAD) as temporary, h5py.File(temporary, "x") as h5file:
        yield h5file


def _need_hdf5(path: Path) -> None:
    """Says what is wrong with a path that is no HDF5 file; HDF5 itself would say it less clearly."""
    expected, cure = "expected an HDF5 file", "Correct the path, copy the file again, or move it elsewhere"
    try:
        if not path.exists():
            raise InputError(f"{path}: {expected}, but nothing is there. {cure}")
        if not path.is_file():
            raise InputError(f"{path}: {expected}, but this is {'a folder' if path.is_dir() else 'no file'}. {cure}")
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise InputError(f"{path}: {expected}, but it cannot be opened ({error.strerror}). {cure}") from error
    if empty or not h5py.is_hdf5(path):
        raise InputError(f"{path}: {expected}, but it {'is empty' if empty else 'has no HDF5 signature'}. {cure}")
