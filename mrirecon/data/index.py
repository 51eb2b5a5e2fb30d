"""What is known of the files of a data folder: looked up once, kept as JSON, looked up again where they changed."""

import errno
import json
import logging
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mrirecon.errors import ConfigError, InputError
from mrirecon.io import fastmri
from mrirecon.io.atomic import replacing
from mrirecon.io.scan import MIN_SIZE, ScanInfo

log = logging.getLogger(__name__)

VERSION = 2
"""Raise it when an entry means something else: older indexes are then made again."""

FILE_NAME = "index.json"
_HEAD = b'{"format": "mrirecon index"'
_MAX_BYTES = 1 << 28
# File systems tell times in steps of up to two seconds: a file this new can still change without showing it.
_TICK = 2_000_000_000
# What one process does in about that many seconds is not worth starting others.
_MIN_SECONDS = 1.0
_SECONDS_PER_HEADER, _BYTES_PER_SECOND = 3e-3, 4e8

Count = Callable[[int, int], None]


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


class Index:
    """The entries of one data folder.

    It is kept as `index.json` in the folder, or in the user's cache where that cannot be written. Only what is read
    from it and proves sound is used; an entry counts as long as the file has its size and modification time. A bad file
    is looked up again every time, since its cure (another disk, a permission) need not show in either.
    """

    def __init__(self, root: Path, num_processes: int | None = None) -> None:
        """num_processes: None is one per CPU; 0 reads in this process, as a few files always are."""
        if num_processes is not None and (type(num_processes) is not int or num_processes < 0):
            raise ConfigError(f"num_workers={num_processes!r}: expected a number of processes, or null for one per CPU")
        self.root = root
        self.num_processes = _num_cpus() if num_processes is None else num_processes
        self.entries: dict[str, Entry] = {}
        self._ours: set[str] = set()  # looked up by this very object
        self.kept: Path | None = None  # where the entries lie, as far as that is known
        self._places = [place for place in _places(root) if self._load(place)]

    def look_up(
        self, paths: Sequence[Path], full: bool = False, exact: bool = False, progress: Count | None = None
    ) -> list[Entry]:
        """The entries of some files below the folder, reading what is not known of them yet.

        full: look at every value. exact: measure the target's maximum, also where the file states one.
        progress: called with (done, total) for what has to be read.
        """
        started = time.time_ns()
        names = [path.relative_to(self.root).as_posix() for path in paths]
        jobs = []
        for name, path in zip(names, paths, strict=True):
            known = self._known(name, path)
            if known is None or not known.answers(full, exact):
                jobs.append((path, known, full, exact))
        try:
            for done, (path, entry) in enumerate(self._read(jobs), start=1):
                name = path.relative_to(self.root).as_posix()
                self.entries[name] = entry
                self._ours.add(name)
                if progress:
                    progress(done, len(jobs))
        finally:
            if jobs:
                self._save(started)
        return [self.entries[name] for name in names]

    def write(self, path: Path) -> None:
        """Writes all entries to a file, whole or not at all."""
        _write(path, self.entries)

    def _known(self, name: str, path: Path) -> Entry | None:
        entry = self.entries.get(name)
        if entry is None or (entry.size, entry.modified) != _stamp(path):
            return None
        return entry if entry.verdict is None or name in self._ours else None

    def _read(self, jobs: Sequence["_Job"]) -> Iterator[tuple[Path, Entry]]:
        if min(self.num_processes, len(jobs)) < 2 or _seconds(jobs) < _MIN_SECONDS:
            yield from map(look, jobs)
            return
        # The start method is the platform's, as for the data-loader's workers; `look` suits any.
        pool = ProcessPoolExecutor(min(self.num_processes, len(jobs)), multiprocessing.get_context(), _leave_ctrl_c)
        try:
            for future in as_completed([pool.submit(look, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                f"{self.root}: a process that read its files was killed, for want of memory or over a damaged file. "
                "Look them up in one process, which names the last file: scripts/check_data.py num_workers=0"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, place: Path) -> bool:
        """Takes what was kept there. Whether the index may be written there: what is not ours is left alone."""
        try:
            entries = _parse(_raw(place), self.root)
        except FileNotFoundError:
            return True
        except OSError as error:
            log.warning("%s: is left alone, and not used: %s", place, error.strerror or error)
            return False
        except (ValueError, RecursionError) as error:
            log.warning("%s: is not a sound index of version %d (%s): it is made again", place, VERSION, error)
            return True
        self.entries |= entries
        self.kept = self.kept or place
        return True

    def _save(self, started: int) -> None:
        reason = ""
        for place in self._places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                _need_writable(place.parent)
                _write(place, self._settled(place, started))
            except OSError as error:
                reason = f": {error.strerror}"
            else:
                self.kept = place
                return
        self.kept = None
        log.info("%s: its index cannot be kept%s; the files are looked up again next time", self.root, reason)

    def _settled(self, place: Path, started: int) -> dict[str, Entry]:
        """What to keep: with what another process wrote meanwhile, without what is gone or too new to tell changes."""
        others: dict[str, Entry] = {}
        with suppress(OSError, ValueError, RecursionError):
            others = _parse(_raw(place), self.root)
        ours = {name: entry for name, entry in self.entries.items() if entry.modified < started - _TICK}
        return {name: entry for name, entry in (others | ours).items() if (self.root / name).exists()}


_Job = tuple[Path, Entry | None, bool, bool]


def look(job: _Job) -> tuple[Path, Entry]:
    """The path of a job (path, what is known, full, exact) and its entry, in whichever process this runs."""
    path, known, full, exact = job
    size, modified = _stamp(path)  # before reading: a change meanwhile shows next time
    try:
        info = known.info if known and known.info else fastmri.inspect(path)
        checked, maximum = (known.checked, known.maximum) if known else (False, None)
        if full and not checked:
            checked, maximum = True, fastmri.check_values(info)
        elif not Entry(size, modified, info, None, checked, maximum).answers(full, exact):
            maximum = fastmri.target_maximum(info)
    except InputError as error:
        return path, Entry(size, modified, None, str(error).removeprefix(f"{path}: "), False, None)
    return path, Entry(size, modified, info, None, checked, maximum)


def usable(path: Path, entry: Entry, challenge: fastmri.Challenge | None, needs_target: bool) -> ScanInfo:
    """The description of a volume that can be used.  Raises InputError saying why another cannot."""
    if entry.info is None:
        raise InputError(f"{path}: {entry.verdict}")
    if challenge is not None:
        fastmri.need_challenge(entry.info, challenge)
    if needs_target and entry.info.target is None:
        raise InputError(
            f"{path}: has no target ({fastmri.target_name(entry.info)}), which training and scores need; scans "
            "without one can be reconstructed with scripts/reconstruct.py"
        )
    return entry.info


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time; those of a link that leads nowhere are 0."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _seconds(jobs: Sequence[_Job]) -> float:
    """About how long one process reads."""
    num_bytes = sum(_stamp(path)[0] for path, _, full, _ in jobs if full)
    return len(jobs) * _SECONDS_PER_HEADER + num_bytes / _BYTES_PER_SECOND


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave_ctrl_c() -> None:
    """Ctrl-C reaches every process of a terminal; the one that waits for the others ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# Keeping


def _places(root: Path) -> list[Path]:
    """Where the index may lie, the better place first."""
    name = sha256(os.fsencode(root.absolute())).hexdigest()[:32]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        return [root / FILE_NAME]
    return [root / FILE_NAME, cache / "mrirecon" / f"{name}.json"]


def _need_writable(folder: Path) -> None:
    """A folder that nobody may write is meant to stay as it is: root is not stopped by the system."""
    if not folder.stat().st_mode & 0o222:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _write(place: Path, entries: Mapping[str, Entry]) -> None:
    """One line per file, so that a person can read it and grep."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(_record(entries[name]))}" for name in sorted(entries))
    raw = _HEAD + f', "version": {VERSION}, "files": {{\n{lines}\n}}}}\n'.encode()
    with replacing(place) as temporary:
        temporary.write_bytes(raw)


def _record(entry: Entry) -> dict[str, Any]:
    info = None if entry.info is None else {key: getattr(entry.info, key) for key in _SOUND}
    if info is not None and info["mask"] is not None:
        info["mask"] = "".join("01"[int(sampled)] for sampled in info["mask"])
    return {**entry._asdict(), "info": info}


# Taking it back, which trusts nothing


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
    place = PurePosixPath(name)
    _need(not place.is_absolute() and ".." not in place.parts and place.as_posix() == name, "name", name)
    _need(isinstance(record, dict) and record.keys() == set(Entry._fields), name, record)
    entry = Entry(**record)
    _need(_is_int(entry.size, 0) and _is_int(entry.modified, 0), name, entry[:2])
    _need(isinstance(entry.checked, bool) and _is_maximum(entry.maximum), name, entry[4:])
    if entry.info is None:
        _need(isinstance(entry.verdict, str) and not entry.checked and entry.maximum is None, name, entry[3:])
        return entry
    _need(entry.verdict is None, name, entry.verdict)
    info = _info(root / name, entry.info, entry.size)
    _need(info.target is not None or entry.maximum is None, name, entry.maximum)
    return entry._replace(info=info)


def _info(path: Path, record: Any, num_bytes: int) -> ScanInfo:
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
    "simulated": lambda value: isinstance(value, bool),
    "notes": lambda value: isinstance(value, list) and all(isinstance(note, str) for note in value),
}
