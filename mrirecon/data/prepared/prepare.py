"""Writes a prepared store: every usable volume of a data folder in hybrid space, in parallel, resumable."""

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich import filesize

from mrirecon import __version__
from mrirecon.data.catalog.index import Index, usable
from mrirecon.data.catalog.index_file import Entry
from mrirecon.data.catalog.inspection import find_folders
from mrirecon.data.prepared import slices_file
from mrirecon.data.prepared.store import (
    FILE_NAME,
    PRECISIONS,
    Manifest,
    PreparedVolume,
    pack,
    read_manifest,
    slice_type,
    unpack,
    volume_path,
    write_manifest,
)
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import ScanInfo
from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import ifft1c
from mrirecon.physics.zero_filled import to_hybrid
from mrirecon.sampling.acquired import image_size
from mrirecon.system.atomic import alone_in, output_folder
from mrirecon.system.processes import in_processes, num_cpus

Progress = Callable[[str, int, int], None]
_SECONDS_BETWEEN_MANIFESTS = 2.0


class PrepareSummary(NamedTuple):
    """What a preparation wrote, kept and left out."""

    manifest: Manifest
    num_written: int
    num_kept: int  # already there, of the same source
    num_dropped: int  # were there, and are no longer usable volumes of the source
    without_target: int
    bad: list[str]  # one message per file that cannot be used, with its remedy


class Preparation:
    """Prepares the volumes of `root/{singlecoil,multicoil}_*` that have a target.

    output: the folder of the store. What is there already of an unchanged file is kept, so an interrupted run goes on.
    challenge: singlecoil, multicoil or all. precision: single, exact to the rounding of one transform, or half.
    num_processes: None is one per CPU; 0 works in this process.

    Raises ConfigError for settings that cannot work, InputError where there is nothing to prepare.
    """

    def __init__(
        self, root: Path, output: Path, challenge: str, precision: str, num_processes: int | None, progress: Progress
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(f"precision={precision}: expected one of {', '.join(PRECISIONS)}")
        if output.resolve() == root.resolve():
            raise ConfigError(f"output={output}: is the data itself; give another folder")
        self.root, self.output, self.precision = root, output, precision
        self.num_processes = num_cpus() if num_processes is None else num_processes
        self.progress = progress
        self.folders = [folder for folder in find_folders(root, challenge) if folder.path != root]
        if not self.folders:
            raise InputError(f"{root}: expected folders of the splits, such as {root / 'singlecoil_train'}")

    def run(self) -> PrepareSummary:
        """Checks every value of every volume, then writes what is not there yet.

        Raises ConfigError where another process is writing to the store.
        """
        with alone_in(output_folder(self.output)):
            return self._run()

    def _run(self) -> PrepareSummary:
        found, bad, without_target = self._look_up()
        manifest = self._manifest()
        jobs = [job for job in found if not _is_kept(manifest.volumes.get(job.name), job)]
        self._need_space(jobs)
        num_dropped = self._drop(manifest, {job.name for job in found})
        self._write(manifest, jobs)
        return PrepareSummary(manifest, len(jobs), len(found) - len(jobs), num_dropped, without_target, bad)

    def _look_up(self) -> tuple[list["_Job"], list[str], int]:
        """The volumes to prepare, a message per bad file, and the number of volumes without a target."""
        index, jobs, bad, without_target = Index(self.root, self.num_processes), [], [], 0
        for folder in self.folders:
            try:
                paths, _ = fastmri.list_volumes(folder.path)
            except InputError as error:
                bad.append(str(error))
                continue
            progress = partial(self.progress, f"Checking {folder.path.name}")
            entries = index.look_up(paths, full=True, exact=True, progress=progress)
            for path, entry in zip(paths, entries, strict=True):
                try:
                    info = usable(path, entry, folder.challenge, folder.needs_target)
                except InputError as error:
                    bad.append(str(error))
                    continue
                if info.target is None:
                    without_target += 1
                else:
                    jobs.append(self._job(info, entry))
        if not jobs:
            raise InputError(bad[0] if bad else f"{self.root}: no volume has a target; there is nothing to prepare")
        return jobs, bad, without_target

    def _job(self, info: ScanInfo, entry: Entry) -> "_Job":
        name = info.path.relative_to(self.root).as_posix()
        assert entry.maximum is not None
        path = volume_path(self.output, name)
        return _Job(name, info, path, self.precision, entry.maximum, (entry.size, entry.modified))

    def _manifest(self) -> Manifest:
        source = str(self.root.resolve())
        versions = {"mrirecon": __version__, "torch": torch.__version__, "numpy": np.__version__}
        if not (self.output / FILE_NAME).exists():
            return Manifest(self.precision, source, versions, {})
        known = read_manifest(self.output)
        if known.source != source:
            raise ConfigError(
                f"output={self.output}: holds a store made of {known.source}, not of {source}: give another folder"
            )
        if known.precision != self.precision:
            raise ConfigError(
                f"output={self.output}: holds a store of {known.precision} precision, not of {self.precision}: give "
                "another folder"
            )
        return Manifest(self.precision, source, versions, known.volumes)

    def _drop(self, manifest: Manifest, names: Set[str]) -> int:
        """Removes volumes that are no longer usable ones of the source.  -> how many"""
        gone = [name for name in manifest.volumes if name not in names]
        for name in gone:
            del manifest.volumes[name]
        if gone:
            write_manifest(self.output, manifest)  # before the files: a manifest names nothing that is not there
            for name in gone:
                volume_path(self.output, name).unlink(missing_ok=True)
        return len(gone)

    def _need_space(self, jobs: Sequence["_Job"]) -> None:
        needed = sum(job.info.num_slices * slice_type(job.info, self.precision).itemsize for job in jobs)
        free = shutil.disk_usage(self.output).free
        if needed > free:
            raise ConfigError(
                f"output={self.output}: {filesize.decimal(needed)} are needed and {filesize.decimal(free)} are free: "
                "choose another disk" + ("" if self.precision == "half" else ", or precision=half")
            )

    def _write(self, manifest: Manifest, jobs: Sequence["_Job"]) -> None:
        written = time.monotonic()
        try:
            for done, (name, volume) in enumerate(self._volumes(jobs), start=1):
                manifest.volumes[name] = volume
                if time.monotonic() - written > _SECONDS_BETWEEN_MANIFESTS:
                    write_manifest(self.output, manifest)
                    written = time.monotonic()
                self.progress("Preparing", done, len(jobs))
        except BaseException:
            with suppress(OSError):  # report the original write error
                write_manifest(self.output, manifest)
            raise
        write_manifest(self.output, manifest)

    def _volumes(self, jobs: Sequence["_Job"]) -> Iterator[tuple[str, PreparedVolume]]:
        if min(self.num_processes, len(jobs)) < 2:
            yield from map(prepare_volume, jobs)
            return
        killed = (
            f"{self.root}: a process that prepared its volumes was killed, for want of memory perhaps. What was done "
            "is kept: go on in one process with num_workers=0"
        )
        # Not forked: torch's threads do not survive it.
        spawn = multiprocessing.get_context("spawn")
        yield from in_processes(prepare_volume, jobs, self.num_processes, spawn, killed, _use_one_thread)


class _Job(NamedTuple):
    name: str
    info: ScanInfo
    path: Path
    precision: str
    data_range: float
    source: tuple[int, int]


def _is_kept(volume: PreparedVolume | None, job: _Job) -> bool:
    """Whether a volume was already made of the file as it is now."""
    if volume is None or volume.source != job.source or not job.path.is_file():
        return False
    return job.path.stat().st_size == volume.size


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def prepare_volume(job: _Job) -> tuple[str, PreparedVolume]:
    """Writes one volume.  -> its name and its entry in the manifest"""
    dtype = slice_type(job.info, job.precision)
    errors: list[float] = []
    records = _records(job, dtype, errors)
    sha256 = slices_file.write(job.path, dtype, job.info.num_slices, records)
    stat = job.path.stat()
    volume = PreparedVolume(
        replace(job.info, path=job.path),
        job.data_range,
        stat.st_size,
        stat.st_mtime_ns,
        sha256,
        job.source,
        max(errors, default=0.0),
    )
    return job.name, volume


def _records(job: _Job, dtype: np.dtype, errors: list[float]) -> Iterator[np.ndarray]:
    size = image_size(job.info)
    for i in range(job.info.num_slices):
        kspace, target = fastmri.read_slice(job.info, i)
        assert target is not None
        hybrid = to_hybrid(torch.from_numpy(kspace), size[0])
        record = pack(hybrid.numpy(), center_crop(torch.from_numpy(target), size).numpy(), dtype)
        if job.precision == "half":
            errors.append(_error(hybrid, torch.from_numpy(unpack(record)[0]), size[1]))
        yield record


def _error(hybrid: torch.Tensor, kept: torch.Tensor, num_cols: int) -> float:
    """The norm of the difference of two images over that of the first.  (coil y w), (coil y w)"""
    image, other = (rss(center_crop(ifft1c(h, dim=-1), (h.shape[-2], num_cols))) for h in (hybrid, kept))
    norm = float(image.norm())
    return float((image - other).norm()) / norm if norm > 0 else 0.0
