"""Index entries, one per file of a data folder, as JSON; validated on reading."""

import errno
import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from mrirecon.data.catalog import scan_record
from mrirecon.data.catalog.scan_record import is_int, is_maximum, need
from mrirecon.io.scan import ScanInfo
from mrirecon.system.atomic import write_whole

VERSION = 4
"""Raise it when an entry means something else: older indexes are then made again."""

FILE_NAME = "index.json"
_HEAD = b'{"format": "mrirecon index"'
_MAX_BYTES = 1 << 28


class Entry(NamedTuple):
    """What the index knows of one file: its description, or why it cannot be used."""

    size: int  # bytes
    modified: int  # nanoseconds since 1970
    info: ScanInfo | None
    verdict: str | None  # what is wrong with the file and what to do, without its path; None: nothing, so far
    checked: bool  # every value was looked at
    maximum: float | None  # of the target volume, where it was measured

    def answers(self, full: bool, exact: bool) -> bool:
        """Whether the entry holds all that `Index.look_up` asks for."""
        if self.info is None:
            return True
        target = self.info.target
        measure = target is not None and (full or exact or target.maximum is None)
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
    """Raises PermissionError for a folder without any write permission, for root too, whom the system lets write."""
    if not folder.stat().st_mode & 0o222:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def write(place: Path, entries: Mapping[str, Entry]) -> None:
    """One line per file, so that a person can read it and grep."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(_record(entries[name]))}" for name in sorted(entries))
    raw = _HEAD + f', "version": {VERSION}, "files": {{\n{lines}\n}}}}\n'.encode()
    write_whole(place, raw)


def _record(entry: Entry) -> dict[str, Any]:
    return {**entry._asdict(), "info": None if entry.info is None else scan_record.record(entry.info)}


# Reading it, with every field validated


def read(place: Path, root: Path) -> dict[str, Entry]:
    """The entries of an index file.

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
    need(content.get("version") == VERSION, "version", content.get("version"))
    files = content.get("files")
    need(isinstance(files, dict), "files", files)
    return {name: _entry(root, name, record) for name, record in files.items()}


def _entry(root: Path, name: str, record: Any) -> Entry:
    need_name(name)
    need(isinstance(record, dict) and record.keys() == set(Entry._fields), name, record)
    entry = Entry(**record)
    need(is_int(entry.size, 0) and is_int(entry.modified, 0), name, entry[:2])
    need(isinstance(entry.checked, bool) and is_maximum(entry.maximum), name, entry[4:])
    if entry.info is None:
        need(isinstance(entry.verdict, str) and not entry.checked and entry.maximum is None, name, entry[3:])
        return entry
    need(entry.verdict is None, name, entry.verdict)
    info = scan_record.parse(root / name, entry.info, entry.size)
    need(info.target is not None or entry.maximum is None, name, entry.maximum)
    return entry._replace(info=info)


def need_name(name: str) -> None:
    """Raises ValueError for a name that does not stay below the folder."""
    need(not {"", ".", ".."}.intersection(name.split("/")), "name", name)
