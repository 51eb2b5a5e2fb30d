"""What is known of a file of a data folder, and how it is kept: as JSON, of which nothing is believed unchecked."""

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrirecon.io.raw import fastmri
from mrirecon.io.scan import MIN_SIZE, ScanInfo
from mrirecon.system.atomic import write_whole

VERSION = 3
"""Raise it when an entry means something else: older indexes are then made again."""

FILE_NAME = "index.json"
_HEAD = b'{"format": "mrirecon index"'
_MAX_BYTES = 1 << 28


class Entry(NamedTuple):
    """One file as it was looked up: usable as far as is known, or not, and then why."""

    size: int  # bytes
    modified: int  # nanoseconds since 1970
    info: ScanInfo | None
    verdict: str | None  # what is wrong with the file and what to do, without its path; None: nothing was found
    checked: bool  # every value was looked at
    maximum: float | None  # of the target volume, where it was measured

    def answers(self, full: bool, exact: bool) -> bool:
        """Whether nothing more need be read: see `Index.look_up`."""
        if self.info is None:
            return True
        measure = self.info.target is not None and (full or exact or self.info.maximum is None)
        return (self.checked or not full) and not (measure and self.maximum is None)


def places(root: Path) -> list[Path]:
    """Where the index may lie, the better place first."""
    name = sha256(os.fsencode(root.absolute())).hexdigest()[:32]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return [root / FILE_NAME]
    return [root / FILE_NAME, cache / "mrirecon" / f"{name}.json"]


def need_writable(folder: Path) -> None:
    """A folder that nobody may write is meant to stay as it is: root is not stopped by the system."""
    if not folder.stat().st_mode & 0o222:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def write(place: Path, entries: Mapping[str, Entry]) -> None:
    """One line per file, so that a person can read it and grep."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(_record(entries[name]))}" for name in sorted(entries))
    raw = _HEAD + f', "version": {VERSION}, "files": {{\n{lines}\n}}}}\n'.encode()
    write_whole(place, raw)


def _record(entry: Entry) -> dict[str, Any]:
    return {**entry._asdict(), "info": None if entry.info is None else info_record(entry.info)}


def info_record(info: ScanInfo) -> dict[str, Any]:
    """A description as JSON can hold it, without the place of its file."""
    record = {key: getattr(info, key) for key in _SOUND}
    if record["mask"] is not None:
        record["mask"] = "".join("01"[int(sampled)] for sampled in record["mask"])
    return record


# Taking it back, which trusts nothing


def read(place: Path, root: Path) -> dict[str, Entry]:
    """The entries that were kept there.

    Raises FileNotFoundError, OSError for what is not a file of ours, and ValueError or RecursionError for anything that
    this program would not have written.
    """
    return _parse(_raw(place), root)


def _raw(place: Path) -> bytes:
    """Raises OSError for what is not a file of ours."""
    if not place.exists() and not place.is_symlink():
        raise FileNotFoundError(place)
    if not place.is_file() or place.stat().st_size > _MAX_BYTES:
        raise OSError("it is not a file, or too large")
    raw = place.read_bytes()
    if not raw.startswith(_HEAD):
        raise OSError("it is not an index of mrirecon; move it elsewhere to have one kept here")
    return raw


def _parse(raw: bytes, root: Path) -> dict[str, Entry]:
    """Raises ValueError for anything that this program would not have written."""
    content = json.loads(raw)
    _need(content.get("version") == VERSION, "version", content.get("version"))
    files = content.get("files")
    _need(isinstance(files, dict), "files", files)
    return {name: _entry(root, name, record) for name, record in files.items()}


def _entry(root: Path, name: str, record: Any) -> Entry:
    need_name(name)
    _need(isinstance(record, dict) and record.keys() == set(Entry._fields), name, record)
    entry = Entry(**record)
    _need(_is_int(entry.size, 0) and _is_int(entry.modified, 0), name, entry[:2])
    _need(isinstance(entry.checked, bool) and _is_maximum(entry.maximum), name, entry[4:])
    if entry.info is None:
        _need(isinstance(entry.verdict, str) and not entry.checked and entry.maximum is None, name, entry[3:])
        return entry
    _need(entry.verdict is None, name, entry.verdict)
    info = parse_info(root / name, entry.info, entry.size)
    _need(info.target is not None or entry.maximum is None, name, entry.maximum)
    return entry._replace(info=info)


def need_name(name: str) -> None:
    """Raises ValueError for a name that does not stay below the folder."""
    _need(not {"", ".", ".."}.intersection(name.split("/")), "name", name)


def parse_info(path: Path, record: Any, num_bytes: int) -> ScanInfo:
    """The description of `info_record`.  Raises ValueError for what no file of that many bytes can be."""
    _need(isinstance(record, dict) and record.keys() == _SOUND.keys(), path.name, record)
    for key, is_sound in _SOUND.items():
        _need(is_sound(record[key]), f"{path.name}: {key}", record[key])
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    if plain["mask"] is not None:
        plain["mask"] = np.array([sampled == "1" for sampled in plain["mask"]])
    info = ScanInfo(path=path, name=path.name, **plain)
    _need(_agrees(info, num_bytes), path.name, "sizes that do not fit each other")
    return info


def _agrees(info: ScanInfo, num_bytes: int) -> bool:
    """Whether the parts of a description fit each other and the size of the file."""
    (h, w), (first, last) = info.kspace_size, info.acquired
    return (
        # Deflate shrinks at most 1032 times: a larger claim would be a bomb.
        info.num_slices * info.num_coils * h * w * 8 <= num_bytes * 1100
        and (info.is_multicoil or info.num_coils == 1)
        and 0 <= first < last <= w
        and (info.mask is None or (len(info.mask) == w and bool(info.mask.any())))
        and (info.target is None) == (info.target_size is None)
        and info.target in (None, fastmri.target_name(info))
        and info.target_size in (None, info.recon_size)
    )


def _need(good: bool, what: str, came: Any) -> None:
    if not good:
        raise ValueError(f"{what[:60]}: {str(came)[:60]!r}")


def _is_int(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < 1 << 62


def _is_maximum(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))


def _is_pair(value: Any, least: int) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_int(number, least) for number in value)


# What each field of a description may hold; `path` and `name` come from where the file was found.
_SOUND: dict[str, Callable[[Any], bool]] = {
    "num_slices": lambda value: _is_int(value, 1),
    "num_coils": lambda value: _is_int(value, 1),
    "kspace_size": lambda value: _is_pair(value, MIN_SIZE),
    "is_multicoil": lambda value: isinstance(value, bool),
    "target": lambda value: value is None or isinstance(value, str),
    "target_size": lambda value: value is None or _is_pair(value, MIN_SIZE),
    "recon_size": lambda value: _is_pair(value, MIN_SIZE),
    "acquired": lambda value: _is_pair(value, 0),
    "mask": lambda value: value is None or (isinstance(value, str) and set(value) <= {"0", "1"}),
    "num_low_frequency": lambda value: value is None or _is_int(value, 0),
    "acquisition": lambda value: isinstance(value, str) and 0 < len(value) <= 200,
    "maximum": lambda value: _is_maximum(value) and (value is None or value >= 0),
    "patient": lambda value: value is None or (isinstance(value, str) and len(value) <= 200),
    "simulated": lambda value: isinstance(value, bool),
    "notes": lambda value: isinstance(value, list) and all(isinstance(note, str) for note in value),
}
