"""Reads untrusted HDF5: no links out of the file, bounded memory, and InputError for whatever is broken."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t

from mrirecon.errors import InputError
from mrirecon.io.hdf5.checks import (
    MAX_TEXT,
    Stored,
    extents,
    need_inside,
    need_known_filters,
    need_sound_heaps,
    need_stored,
    refuse,
)
from mrirecon.io.regular import CURE, open_bytes

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MIN_BLOCK = 512  # bytes before HDF5 that a program may use for itself: none, or this times a power of two
_MAX_GAP = 1 << 26
_MOST_NAMES = 100
_NUMBERS = {"c": "complex numbers (complex64)", "f": "real numbers (float32)", "biuf": "zeros and ones (bool)"}
# The types of sound volumes, which h5py takes long to recognise.
_COMMON = [(h5t.py_create(dtype), dtype) for dtype in (np.dtype(np.complex64), np.dtype(np.float32))]
# All that h5py raises on broken files; it has no exception of its own.
_BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)


class _Object(NamedTuple):
    """An opened object at the top of a file; `plist` tells how a data set is stored."""

    id: h5d.DatasetID | h5g.GroupID
    plist: h5p.PropDCID | None  # None where this is no data set


class UntrustedFile:
    """An open HDF5 file. Read it with `array`, `text`, `attribute`, `keys` and `child`, which refuse links."""

    def __init__(self, path: Path, h5file: h5py.File, raw: FileIO, stat: os.stat_result) -> None:
        self.path = path
        self.id = h5file.id
        self.raw = raw  # its bytes
        self.stat = stat  # from before HDF5 opened it
        self._objects: dict[bytes, _Object] = {}

    @cached_property
    def links(self) -> dict[bytes, int]:
        """The first hundred names at the top of the file, and what kind of link each is."""
        links: dict[bytes, int] = {}

        def take(name: bytes, info: h5l.LinkInfo) -> bool | None:
            links[name] = info.type
            return True if len(links) == _MOST_NAMES else None

        self.id.links.iterate(take, info=True)
        return links

    def link(self, name: bytes) -> int | None:
        """What kind of link a name is, or None."""
        kind = self.links.get(name)
        if kind is None and len(self.links) == _MOST_NAMES and self.id.links.exists(name):
            kind = self.id.links.get_info(name).type
        return kind

    def open(self, name: bytes) -> _Object:
        """The object under a name that is no link, opened once."""
        if name not in self._objects:
            opened = h5o.open(self.id, name)
            plist = opened.get_create_plist() if isinstance(opened, h5d.DatasetID) else None
            self._objects[name] = _Object(opened, plist)
        return self._objects[name]


@contextmanager
def open_untrusted(path: Path) -> Iterator[UntrustedFile]:
    """The file, open for reading; whatever HDF5 finds broken, now or while it is read, becomes an InputError."""
    with open_bytes(path, "an HDF5 file") as raw:
        if not has_signature(raw):
            refuse_without_signature(path, is_empty=not os.fstat(raw.fileno()).st_size)
        stat = os.fstat(raw.fileno())
        try:
            with h5py.File(h5f.open(os.fsencode(path), h5f.ACC_RDONLY)) as h5file:
                untrusted = UntrustedFile(path, h5file, raw, stat)
                _need_sound_heaps(untrusted)
                yield untrusted
        except InputError:
            raise
        except _BROKEN as error:
            raise InputError(
                f"{path}: expected a whole HDF5 file, but HDF5 cannot read it ({error}). It is damaged or cut short: "
                "copy or download it again"
            ) from error


def has_signature(raw: FileIO) -> bool:
    """Whether a file claims to be HDF5: at byte 0, or at 512, 1024, 2048 ... (specification II.A)."""
    offset, num_bytes = 0, os.fstat(raw.fileno()).st_size
    while offset < num_bytes:
        raw.seek(offset)
        if raw.read(len(_SIGNATURE)) == _SIGNATURE:
            return True
        offset = max(2 * offset, _MIN_BLOCK)
    return False


def refuse_without_signature(path: Path, is_empty: bool) -> NoReturn:
    """Raises the InputError of a file that should be HDF5 and is not."""
    came = "is empty" if is_empty else "has no HDF5 signature"
    raise InputError(f"{path}: expected an HDF5 file, but it {came}. {CURE}")


def array(h5file: UntrustedFile, name: str, kinds: str) -> Stored | None:
    """The data set of that name, not read yet, or None; all its values are certain to lie in the file itself.

    `kinds` is NumPy's letter of what it may hold: "c", "f" or "biuf".
    """
    dataset = _dataset(h5file, name)
    if dataset is not None and dataset.dtype.kind not in kinds:
        refuse(h5file.path, name, _NUMBERS[kinds], f"it holds {str(dataset.dtype)[:80]}", "Convert it")
    return dataset


def text(h5file: UntrustedFile, name: str) -> bytes | None:
    """The text stored as a data set, or None where there is none or it is no single text.

    Raises InputError above 1 MiB.
    """
    dataset = _dataset(h5file, name)
    if dataset is None or math.prod(dataset.shape) != 1 or h5py.check_string_dtype(dataset.dtype) is None:
        return None
    raw = None
    if _text_length(h5file, dataset) <= MAX_TEXT:
        values = np.empty(dataset.shape, dataset.dtype)
        dataset.id.read(h5s.ALL, h5s.ALL, values)
        raw = values.item()
    if raw is None or len(raw) > MAX_TEXT:
        expected, cure = f"a text of at most {MAX_TEXT} bytes", "Store a shorter one, or remove it"
        refuse(h5file.path, name, expected, "it is larger", cure)
    return raw


def attribute(h5file: UntrustedFile, name: str) -> Any:
    """A single-valued attribute of the file, text as str, or None where it has none.

    Raises InputError above 1 MiB and for arrays.
    """
    if not h5a.exists(h5file.id, name.encode()):
        return None
    attr = h5a.open(h5file.id, name.encode())
    shape, size = attr.shape, attr.get_storage_size()
    num_values = 0 if shape is None else math.prod(shape)
    value = _attribute_value(attr, shape) if num_values == 1 and size <= MAX_TEXT else None
    if value is None or (isinstance(value, str | bytes) and len(value) > MAX_TEXT):
        raise InputError(
            f"{h5file.path}: the attribute `{name}` should be one value of at most {MAX_TEXT} bytes; it is "
            f"{num_values} values in {size} bytes or more. Correct or remove it"
        )
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def keys(h5file: UntrustedFile) -> list[str]:
    """The names at the top of the file: the first twenty, each cut at 60 characters."""
    return [name.decode(errors="replace")[:60] for name in islice(h5file.links, 20)]


def child(h5file: UntrustedFile, name: str) -> h5d.DatasetID | h5g.GroupID | None:
    """The object at the top of the file under a name, or None.  Raises InputError for soft and external links."""
    raw = name.encode()
    kind = h5file.link(raw)
    if kind is None:
        return None
    if kind != h5l.TYPE_HARD:
        raise InputError(
            f"{h5file.path}: `{name}` is a link; expected the data itself. Links are not followed, as "
            "they can lead to other files: write the file anew with the data in it"
        )
    return h5file.open(raw).id


def _attribute_value(attr: h5a.AttrID, shape: tuple[int, ...]) -> Any:
    """Text of a variable length comes as bytes."""
    values = np.zeros(shape, attr.dtype)
    attr.read(values)
    return values.item()


def _dataset(h5file: UntrustedFile, name: str) -> Stored | None:
    opened = child(h5file, name)
    if opened is None:
        return None
    if not isinstance(opened, h5d.DatasetID):
        kind = "Group" if isinstance(opened, h5g.GroupID) else "Datatype"
        raise InputError(f"{h5file.path}: `{name}` should be a data set, but is a {kind}")
    plist = h5file.open(name.encode()).plist
    need_inside(h5file.path, name, plist)
    need_known_filters(h5file.path, name, plist)
    dataset = Stored(opened, opened.shape or (), _dtype(opened))
    need_stored(h5file.path, name, dataset, plist, h5file.stat.st_size)
    return dataset


def _dtype(dataset: h5d.DatasetID) -> np.dtype:
    stored = dataset.get_type()
    return next((dtype for common, dtype in _COMMON if stored == common), None) or dataset.dtype


def _text_length(h5file: UntrustedFile, dataset: Stored) -> int:
    """The bytes a single text claims to have: HDF5 allocates them, up to 4 GiB, before it looks for them."""
    offset = dataset.id.get_offset()
    if h5py.check_string_dtype(dataset.dtype).length is not None or offset is None:
        return dataset.dtype.itemsize
    h5file.raw.seek(offset)
    return int.from_bytes(h5file.raw.read(4), "little")


def _need_sound_heaps(h5file: UntrustedFile) -> None:
    """Searches the bytes around the data sets for heaps: HDF5 does not tell where they are."""
    for start, stop in _gaps(h5file):
        h5file.raw.seek(start)
        need_sound_heaps(h5file.path, h5file.raw.read(min(stop - start, _MAX_GAP)))


def _gaps(h5file: UntrustedFile) -> list[tuple[int, int]]:
    """The byte ranges (start, stop) of the file that no top-level data set fills."""
    objects = (h5file.open(name) for name, kind in h5file.links.items() if kind == h5l.TYPE_HARD)
    filled = sorted(extent for opened in objects if opened.plist for extent in extents(opened.id, opened.plist))
    starts = [0, *(stop for _, stop in filled)]
    stops = [*(start for start, _ in filled), h5file.stat.st_size]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]
