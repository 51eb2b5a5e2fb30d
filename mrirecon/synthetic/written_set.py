"""Writes a synthetic data set once, in the fastMRI layout; resumes after interruption, never overwrites other data."""

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mrirecon.errors import ConfigError
from mrirecon.system.atomic import replacing

SPLITS = ("train", "val", "test")
COILS = ("multicoil", "singlecoil")

Count = Callable[[int, int], None]


class Job(NamedTuple):
    """One volume to write: its files, and the function that writes them atomically."""

    paths: Sequence[Path]
    write: Callable[[], None]


class Plan(NamedTuple):
    """Volumes of a set, and further entries of its manifest."""

    jobs: Sequence[Job]
    record: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class WrittenSet:
    """A folder that holds one data set, with a manifest of its parameters and files.

    kind: prefix of the names of manifest and lock, and of the data set in messages. parameters: plain data that
    determine the set. key: name of the setting that gives the folder. num_workers: volumes written in parallel.
    """

    root: Path
    kind: str
    parameters: Mapping[str, Any]
    key: str
    num_workers: int = field(default=4, compare=False)

    def is_complete(self, names: Collection[str] | None = None) -> bool:
        """Whether the folder holds this set completely: same parameters, and every file with its recorded size.

        names: files expected; None: those of the manifest.
        """
        manifest = self.manifest()
        if manifest is None or manifest["parameters"] != self.parameters:
            return False
        files: dict[str, Any] = manifest["files"]
        whole = all(size is not None and _size(self.root / name) == size for name, size in files.items())
        return whole and bool(files) and (names is None or files.keys() == set(names))

    def manifest(self) -> dict[str, Any] | None:
        """Manifest of the set in the folder; None without one. Raises ConfigError where it is damaged."""
        return self._read_json(self._manifest)

    def write(self, plan: Callable[[], Plan], progress: Count | None, names: Collection[str] | None = None) -> None:
        """Writes missing files; `progress` gets (volumes done, volumes in total), from 0 on.

        plan: called only where something has to be written. Can be interrupted and run again; a second process waits
        for the first. Raises ConfigError where the folder holds other data, which is never overwritten.
        """
        if self.is_complete(names):
            return
        with self._locked():
            if self.is_complete(names):
                return
            self._refuse_others()
            jobs, record = plan()
            _write_json(self._partial, {"parameters": self.parameters, "files": {}})
            files = self._write_volumes(jobs, progress or (lambda done, total: None))
            _write_json(self._manifest, {"parameters": self.parameters, "files": files, **record})
            self._partial.unlink()

    @property
    def _manifest(self) -> Path:
        return self.root / f"{self.kind}.json"

    @property
    def _partial(self) -> Path:
        return self.root / f"{self.kind}.partial.json"

    def _refuse_others(self) -> None:
        marker = self.manifest() or self._read_json(self._partial)
        if marker is None:
            self._refuse_foreign()
            return
        ours, theirs = self.parameters, marker["parameters"]
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if names:
            came = ", ".join(f"{name}={theirs.get(name)} (now {ours.get(name)})" for name in names)
            raise ConfigError(
                f"{self.key}={self.root}: holds a {self.kind} data set of other parameters: {came}. "
                f"Choose another {self.key}, delete that folder, or set these parameters as they were"
            )

    def _refuse_foreign(self) -> None:
        for folder in _folders(self.root):
            foreign = next(folder.glob("*.h5"), None)
            if foreign is not None:
                raise ConfigError(
                    f"{self.key}={self.root}: expected an empty folder, or a {self.kind} data set of ours, but "
                    f"{foreign} is there without a {self._manifest.name}; nothing was changed. "
                    f"Choose another {self.key}"
                )

    def _write_volumes(self, jobs: Sequence[Job], progress: Count) -> dict[str, int]:
        """Writes missing files. Returns the size of every file by its path below the folder."""
        sizes = (self.manifest() or {"files": {}})["files"]
        paths = {path.relative_to(self.root).as_posix(): path for job in jobs for path in job.paths}
        # A file whose size differs from the manifest is damaged.
        _clear_folders(
            self.root, [path for name, path in paths.items() if _size(path) not in (None, sizes.get(name, _size(path)))]
        )
        progress(0, len(jobs))
        with _workers(self.num_workers) as pool:
            running = [pool.submit(_write_missing, job) for job in jobs]
            for done, future in enumerate(as_completed(running), start=1):
                future.result()
                progress(done, len(jobs))
        return {name: path.stat().st_size for name, path in paths.items()}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclusive lock on the folder; other processes wait. Released when the process ends."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / f".{self.kind}.lock").open("w")
        except OSError as error:
            raise ConfigError(
                f"{self.key}={self.root}: expected a folder to write the {self.kind} data set to, but: "
                f"{error.strerror}. Choose another {self.key}"
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read_json(self, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            content = {"error": error}
        keys = ("parameters", "files")
        if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in keys):
            raise ConfigError(
                f"{path}: expected the record of a {self.kind} data set; it is damaged. "
                f"Delete its folder, or choose another {self.key}"
            )
        return content


def _write_missing(job: Job) -> None:
    if not all(path.exists() for path in job.paths):
        job.write()


def _folders(root: Path) -> list[Path]:
    return [root / f"{coils}_{split}" for coils in COILS for split in SPLITS]


def _clear_folders(root: Path, damaged: list[Path]) -> None:
    """Creates the folders, removes damaged files and temporary files of killed processes."""
    for path in damaged:
        path.unlink()
    for folder in _folders(root):
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


@contextmanager
def _workers(most: int) -> Iterator[ThreadPoolExecutor]:
    """Thread pool with a volume per thread; pending volumes are cancelled on failure.

    torch uses one thread meanwhile: more gain nothing on arrays this small, and stall on a busy core.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(min(most, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
