"""Finds the usable volumes below some folders; leaves out or refuses bad files."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from mrirecon.data.catalog.index import Index, usable
from mrirecon.data.catalog.index_file import Entry
from mrirecon.data.sources import FastmriReader
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import ScanInfo
from mrirecon.system.invocation import typed_as

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


class Writer(Protocol):
    """What makes a data set where it is not there yet."""

    def folder(self, root: Path) -> Path:
        """The folder above the splits of the set that belongs to `root`, written or not."""

    def write(self, root: Path, progress: Callable[[int, int], None]) -> Path:
        """Writes what is missing of that set; gives its folder."""


class Volumes:
    """Volumes in the fastMRI layout, below some roots that are used as one.

    check: "full" looks for NaN and Inf in every value, once per file; "headers" leaves that to reading.
    on_bad_file: "error" stops at a file that cannot be used, "skip" leaves it out and says so.
    writer: what makes the data of the one root, where it is not there yet.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        challenge: fastmri.Challenge,
        check: str,
        on_bad_file: str,
        num_processes: int | None,
        progress: Progress,
        writer: Writer | None = None,
    ) -> None:
        self.challenge = challenge
        self._given, self._writer = list(roots), writer
        self.reader = FastmriReader()
        self.check, self.on_bad_file = check, on_bad_file
        self._num_processes, self._progress = num_processes, progress
        self._indexes: dict[Path, Index] = {}

    @cached_property
    def roots(self) -> list[Path]:
        """The folders above the splits."""
        return self._given if self._writer is None else [self._writer.folder(self._given[0])]

    @property
    def beside(self) -> Path | None:
        """The folder where more may be kept of these volumes; None among files of somebody else."""
        return None if self._writer is None else self.roots[0]

    def write(self) -> None:
        """Makes the data where a writer does and it is not there."""
        if self._writer is not None:
            self._writer.write(self._given[0], partial(self._progress, "Writing the data set"))

    def paths(self, folders: Sequence[str]) -> list[Path]:
        """The volumes of these folders of every root.  Raises InputError for one that is missing or empty."""
        found = []
        for root in self.roots:
            for folder in folders:
                volumes, num_ignored = fastmri.list_volumes(root / folder)
                if num_ignored:
                    log.info("%s: %d other files and folders ignored", root / folder, num_ignored)
                found += volumes
        return found

    def all_paths(self) -> list[Path]:
        """The volumes of all splits."""
        return [path for root in self.roots for path in root.glob(f"{self.challenge}_*/*.h5")]

    def scan(self, info: ScanInfo) -> Path | None:
        """The scan's own file, which can be reconstructed whole."""
        return info.path

    def headers(self, paths: Sequence[Path], where: str, needs_target: bool = True) -> list[ScanInfo]:
        """The volumes among these files whose header suits."""
        infos = [info for info, _ in self._usable(paths, f"Reading headers of {where}", needs_target=needs_target)]
        for info in infos:
            for note in info.notes:
                log.warning("%s: %s", info.path, note)
        return infos

    def values(
        self, infos: Sequence[ScanInfo], where: str, exact: bool, needs_target: bool = True
    ) -> tuple[list[ScanInfo], list[float]]:
        """The volumes that pass the check, and the maximum of each one's target, 0 where there is none.

        exact: measure the maximum, also where the file states one.
        """
        full = self.check == "full"
        found = self._usable([info.path for info in infos], f"Checking {where}", full, exact, needs_target)
        return [info for info, _ in found], [_data_range(info, entry, full or exact) for info, entry in found]

    def _usable(
        self, paths: Sequence[Path], what: str, full: bool = False, exact: bool = False, needs_target: bool = True
    ) -> list[tuple[ScanInfo, Entry]]:
        good: list[tuple[ScanInfo, Entry]] = []
        bad: list[str] = []
        for path, entry in zip(paths, self._look_up(paths, what, full, exact), strict=True):
            try:
                good.append((usable(path, entry, self.challenge, needs_target), entry))
            except InputError as error:
                bad.append(str(error))
        if bad and (self.on_bad_file == "error" or not good):
            more = f" (and {len(bad) - 1} more of {len(paths)}; {typed_as('check_data')} lists them)" if bad[1:] else ""
            raise InputError(bad[0] + more)
        if bad:
            lines = "".join(f"\n  {message}" for message in bad)
            log.warning("%d of %d volumes are left out (data.on_bad_file=skip):%s", len(bad), len(paths), lines)
        return good

    def _look_up(self, paths: Sequence[Path], what: str, full: bool, exact: bool) -> list[Entry]:
        """The index entries of some files; each root has its own index."""
        found: dict[Path, Entry] = {}
        for root in self.roots:
            if root not in self._indexes:
                self._indexes[root] = Index(root, self._num_processes)
            own = [path for path in paths if path.parent.parent == root]
            progress = partial(self._progress, what if len(self.roots) == 1 else f"{what}, those in {root}")
            found.update(zip(own, self._indexes[root].look_up(own, full, exact, progress), strict=True))
        return [found[path] for path in paths]


def _data_range(info: ScanInfo, entry: Entry, measured: bool) -> float:
    """The maximum of the target volume: the measured one where it was asked for, or the file states none."""
    if info.target is None:
        return 0.0
    stated = info.target.maximum
    if not measured and stated is not None:
        return stated
    assert entry.maximum is not None
    if stated is not None and abs(stated - entry.maximum) > 1e-4 * abs(entry.maximum):
        log.warning(
            "%s: its attribute max is %g, but its target's maximum is %g; the target's is used",
            info.path, stated, entry.maximum,
        )  # fmt: skip
    return entry.maximum


def folders(key: str, value: str | Path | Sequence[str]) -> list[Path]:
    """The folders that a setting names, one or several.  Raises ConfigError naming the key."""
    given = [value] if isinstance(value, str | Path) else value
    if not isinstance(given, list | tuple) or not given or not all(isinstance(item, str | Path) for item in given):
        raise ConfigError(f"{key}={value!r}: expected a folder, or a list of folders as in {key}=[A,B]")
    if len({Path(item).resolve() for item in given}) < len(given):
        raise ConfigError(f"{key}={value}: names a folder twice; its volumes would count double. Name it once")
    return [Path(item) for item in given]
