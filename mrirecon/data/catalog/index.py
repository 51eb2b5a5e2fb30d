"""The index of a data folder: reads each file once, keeps what it found as JSON, reads again what changed."""

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mrirecon.data.catalog import index_file
from mrirecon.data.catalog.index_file import VERSION, Entry
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.hdf5.contiguous import TICK
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import ScanInfo
from mrirecon.system.invocation import typed_as
from mrirecon.system.processes import in_processes, num_cpus

log = logging.getLogger(__name__)

# Other processes are started only for work that takes one process about this long.
_MIN_SECONDS = 2.0

Count = Callable[[int, int], None]


class Index:
    """The entries of one data folder.

    It is kept as `index.json` in the folder, or in the user's cache where the folder cannot be written, and validated
    on reading. An entry counts as long as the file has its size and modification time. A bad file is looked up again
    every time, since its cure (another disk, a permission) need not change either.
    """

    def __init__(self, root: Path, num_processes: int | None = None) -> None:
        """num_processes: None is one per CPU; 0 reads in this process, as a few files always are."""
        if num_processes is not None and (type(num_processes) is not int or num_processes < 0):
            raise ConfigError(f"num_workers={num_processes!r}: expected a number of processes, or null for one per CPU")
        self.root = root
        self.num_processes = num_cpus() if num_processes is None else num_processes
        self.entries: dict[str, Entry] = {}
        self._ours: set[str] = set()  # names looked up by this object
        self.kept: Path | None = None  # the file that holds the entries, once there is one
        self._places = [place for place in index_file.places(root) if self._load(place)]

    def look_up(
        self, paths: Sequence[Path], full: bool = False, exact: bool = False, progress: Count | None = None
    ) -> list[Entry]:
        """The entries of some files below the folder; reads the files whose entries do not answer the question.

        full: look at every value. exact: measure the target's maximum, also where the file states one.
        progress: called with (done, total) for what has to be read.
        """
        started = time.time_ns()
        names = {path: self._name(path) for path in paths}
        jobs = []
        for path, name in names.items():
            known = self._known(name, path)
            if known is None or not known.answers(full, exact):
                jobs.append((path, known, full, exact))
        try:
            for done, (path, entry) in enumerate(self._read(jobs), start=1):
                self.entries[names[path]] = entry
                self._ours.add(names[path])
                if progress:
                    progress(done, len(jobs))
        finally:
            if jobs:
                self._save(started)
        return [self.entries[names[path]] for path in paths]

    def _name(self, path: Path) -> str:
        """The path below the folder. `Path.relative_to` takes ten times as long, most of a second look-up."""
        inside, folder = path.as_posix(), self.root.as_posix().rstrip("/") + "/"
        return inside.removeprefix(folder) if inside.startswith(folder) else path.relative_to(self.root).as_posix()

    def write(self, path: Path) -> None:
        """Writes all entries to a file, whole or not at all."""
        index_file.write(path, self.entries)

    def _known(self, name: str, path: Path) -> Entry | None:
        entry = self.entries.get(name)
        if entry is None or (entry.size, entry.modified) != _stamp(path):
            return None
        return entry if entry.verdict is None or name in self._ours else None

    def _read(self, jobs: Sequence["_Job"]) -> Iterator[tuple[Path, Entry]]:
        """Reads in this process, and in several once the pace so far says that the rest takes long."""
        started = time.monotonic()
        for done, job in enumerate(jobs):
            left = len(jobs) - done
            seconds = left * (time.monotonic() - started) / max(done, 1)
            if min(self.num_processes, left) > 1 and seconds >= _MIN_SECONDS:
                yield from self._read_in_processes(jobs[done:])
                return
            yield look(job)

    def _read_in_processes(self, jobs: Sequence["_Job"]) -> Iterator[tuple[Path, Entry]]:
        killed = (
            f"{self.root}: a process that read its files was killed, for want of memory or over a damaged file. "
            f"Look them up in one process, which names the last file: {typed_as('check_data')} num_workers=0"
        )
        # The start method is the platform's, as for the data-loader's workers; `look` suits any.
        return in_processes(look, jobs, self.num_processes, multiprocessing.get_context(), killed)

    def _load(self, place: Path) -> bool:
        """Adds the entries kept in a file.  -> whether the index may be written there: a foreign file is left alone"""
        try:
            entries = index_file.read(place, self.root)
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
                index_file.need_writable(place.parent)
                index_file.write(place, self._settled(place, started))
            except OSError as error:
                reason = f": {error.strerror}"
            else:
                self.kept = place
                return
        self.kept = None
        log.info("%s: its index cannot be kept%s; the files are looked up again next time", self.root, reason)

    def _settled(self, place: Path, started: int) -> dict[str, Entry]:
        """The entries to keep: with those another process wrote meanwhile, without files that are gone or too new.

        A file that is too new can change without its time showing it.
        """
        others: dict[str, Entry] = {}
        with suppress(OSError, ValueError, RecursionError):
            others = index_file.read(place, self.root)
        ours = {name: entry for name, entry in self.entries.items() if entry.modified < started - TICK}
        looked_up = {name for name in self._ours & ours.keys() if ours[name].modified}
        both = (others | ours).items()
        return {name: entry for name, entry in both if name in looked_up or (self.root / name).exists()}


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
            f"without one can be reconstructed with {typed_as('reconstruct')}"
        )
    return entry.info


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time; those of a link that leads nowhere are 0."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
