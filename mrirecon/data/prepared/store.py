"""A prepared store: volumes in hybrid space, written once by `prepare`, and read in training.

One file per volume, and a manifest that says what each was made of. Readout is an image, cropped to the target's rows:
exact for masks of columns, since the transform along the readout commutes with them.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrirecon.data.catalog import index_file, scan_record
from mrirecon.data.catalog.volumes import Progress
from mrirecon.data.prepared import slices_file
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import ScanInfo
from mrirecon.physics.sample import HybridSlice, Slice
from mrirecon.sampling.acquired import image_size
from mrirecon.system.atomic import write_whole
from mrirecon.system.invocation import typed_as

log = logging.getLogger(__name__)

VERSION = 2
"""Raise it when the same file means something else: older stores are then refused."""

FILE_NAME = "prepared.json"
PRECISIONS = ("single", "half")
_FORMAT = "mrirecon prepared store"
_LARGEST_HALF = 32768.0


class PreparedVolume(NamedTuple):
    """One volume of a store."""

    info: ScanInfo  # its path is the prepared file's, its name the name of the scan's file
    data_range: float  # measured maximum of the target volume
    size: int  # bytes of the prepared file
    modified: int  # its time, nanoseconds since 1970
    sha256: str
    source: tuple[int, int]  # size and time of the file it was made of
    error: float  # of the images, relative to them, that half precision makes


class Manifest(NamedTuple):
    """The volumes of a store, by the name of the scan's own file: `singlecoil_train/file1.h5`."""

    precision: str
    source: str  # the folder it was made of
    versions: Mapping[str, str]
    volumes: dict[str, PreparedVolume]


def volume_path(root: Path, name: str) -> Path:
    """The prepared file of a volume."""
    return root / f"{name}.npy"


def slice_type(info: ScanInfo, precision: str) -> np.dtype:
    """The type of one slice's record."""
    (rows, cols), num_columns = image_size(info), info.kspace_size[1]
    shape = (info.num_coils, rows, num_columns)
    kspace: list[Any] = [("kspace", "<c8", shape)]
    if precision == "half":
        kspace = [("factor", "<f4"), ("kspace", "<f2", (*shape, 2))]
    return np.dtype([*kspace, ("target", "<f4", (rows, cols))])


def pack(hybrid: np.ndarray, target: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A slice as its record.  complex64 (coil y w), float32 (y x) -> () of dtype"""
    record = np.zeros((), dtype)
    record["target"] = target
    if "factor" not in dtype.names:  # type: ignore[operator]
        record["kspace"] = hybrid
        return record
    parts = np.ascontiguousarray(hybrid).view(np.float32).reshape(*hybrid.shape, 2)
    record["factor"] = max(float(np.abs(parts).max()) / _LARGEST_HALF, float(np.finfo(np.float32).tiny))
    record["kspace"] = parts / record["factor"]
    return record


def unpack(record: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slice of a record.  -> complex64 (coil y w), float32 (y x)"""
    names = record.dtype.names or ()
    if "factor" not in names:
        return record["kspace"], record["target"]
    parts = record["kspace"].astype(np.float32) * record["factor"]
    return parts.view(np.complex64)[..., 0], record["target"]


class PreparedReader:
    """Reads slices in hybrid space."""

    slice_type: type[Slice] = HybridSlice

    def __init__(self, precisions: Mapping[Path, str]) -> None:
        self._precisions = dict(precisions)  # by the folder of the store

    def size(self, info: ScanInfo) -> tuple[int, int]:
        """(y, w)"""
        return image_size(info)[0], info.kspace_size[1]

    def read(self, info: ScanInfo, slice_num: int) -> tuple[np.ndarray, np.ndarray | None]:
        """One slice.  -> complex64 (coil y w), float32 (y x)"""
        dtype = _cached_type(info, self._precisions[info.path.parent.parent])
        return unpack(slices_file.read(info.path, dtype, info.num_slices, slice_num))


_cached_type = lru_cache(maxsize=1 << 14)(slice_type)


class PreparedVolumes:
    """The volumes of one or several stores, used as one: `volumes.Volumes` for what is prepared.

    check: "full" compares a file with its checksum where its time is not the one it was written at.
    """

    def __init__(self, roots: Sequence[Path], challenge: fastmri.Challenge, check: str, progress: Progress) -> None:
        self.roots, self.challenge = list(roots), challenge
        self.manifests = {root: read_manifest(root) for root in self.roots}
        self.reader = PreparedReader({root: manifest.precision for root, manifest in self.manifests.items()})
        self.check, self._progress = check, progress

    def paths(self, folders: Sequence[str]) -> list[Path]:
        """The volumes' own files, as they would lie in the store.  Raises InputError for a folder without any."""
        found = []
        for root in self.roots:
            for folder in folders:
                volumes = [path for path in self._paths(root) if path.parent.name == folder]
                if not volumes:
                    there = sorted({path.parent.name for path in self._paths(root)})
                    raise InputError(
                        f"data.prepared={root}: expected volumes of {folder}, but there are those of {there}. Prepare "
                        "the folder, or correct the path"
                    )
                found += volumes
        return found

    @property
    def beside(self) -> Path | None:
        """The folder where more may be kept of these volumes."""
        return self.roots[0]

    def write(self) -> None:
        """A store is written by scripts/prepare_data.py alone."""

    def all_paths(self) -> list[Path]:
        """The volumes of all splits."""
        return [path for root in self.roots for path in self._paths(root)]

    def scan(self, info: ScanInfo) -> Path | None:
        """The scan's own file, where it still is where it was prepared from, unchanged."""
        root = info.path.parent.parent
        name = info.path.relative_to(root).with_suffix("")
        path = Path(self.manifests[root].source) / name
        stamp = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
        return path if stamp == self.manifests[root].volumes[name.as_posix()].source else None

    def headers(self, paths: Sequence[Path], where: str, needs_target: bool = True) -> list[ScanInfo]:
        """The volumes of these files.  Raises InputError for one that is not there as it was written."""
        volumes = [self._volume(path) for path in paths]
        for volume in volumes:
            fastmri.need_challenge(volume.info, self.challenge)
            size = volume.info.path.stat().st_size if volume.info.path.is_file() else None
            if size != volume.size:
                came = "is not there" if size is None else f"has {size} bytes"
                raise InputError(
                    f"{volume.info.path}: expected a file of {volume.size} bytes, but it {came}. Prepare the volume "
                    "again with prepare_data"
                )
        return [volume.info for volume in volumes]

    def values(
        self, infos: Sequence[ScanInfo], where: str, exact: bool, needs_target: bool = True
    ) -> tuple[list[ScanInfo], list[float]]:
        """The volumes that pass the check, and the maximum of each one's target, which was measured."""
        volumes = [self._volume(info.path.with_suffix("")) for info in infos]
        if self.check == "full":
            changed = [volume for volume in volumes if volume.info.path.stat().st_mtime_ns != volume.modified]
            for done, volume in enumerate(changed, start=1):
                _need_digest(volume)
                self._progress(f"Checking {where}", done, len(changed))
        return [volume.info for volume in volumes], [volume.data_range for volume in volumes]

    def _paths(self, root: Path) -> list[Path]:
        return [root / name for name in sorted(self.manifests[root].volumes)]

    def _volume(self, path: Path) -> PreparedVolume:
        root = path.parent.parent
        return self.manifests[root].volumes[path.relative_to(root).as_posix()]


def _need_digest(volume: PreparedVolume) -> None:
    if slices_file.digest(volume.info.path) != volume.sha256:
        raise InputError(
            f"{volume.info.path}: does not have the checksum it was written with: it is damaged. Prepare the volume "
            "again with prepare_data"
        )


# The manifest


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Writes `prepared.json`, whole or not at all; one line per volume, so that a person can read it."""
    head = {"format": _FORMAT, "version": VERSION, **manifest._asdict()}
    del head["volumes"]
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(_record(v))}" for name, v in sorted(manifest.volumes.items()))
    write_whole(root / FILE_NAME, json.dumps(head)[:-1] + f', "volumes": {{\n{lines}\n}}}}\n')


def read_manifest(root: Path) -> Manifest:
    """The manifest of a store, validated.

    Raises ConfigError where there is no store, InputError where its manifest is damaged or of another version.
    """
    path = root / FILE_NAME
    if not path.is_file():
        raise ConfigError(
            f"data.prepared={root}: expected a folder that prepare_data wrote; it has no {FILE_NAME}. "
            f"Write one: {typed_as('prepare_data')} data.root=DIR output=DIR"
        )
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT or content["version"] != VERSION or content["precision"] not in PRECISIONS:
            raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
        volumes = {name: _parse(root, name, content["precision"], v) for name, v in content["volumes"].items()}
        return Manifest(content["precision"], str(content["source"]), dict(content["versions"]), volumes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: is no sound manifest of version {VERSION} ({error}). Prepare the data again in another folder"
        ) from error


def _record(volume: PreparedVolume) -> dict[str, Any]:
    return {**volume._asdict(), "info": scan_record.record(volume.info)}


def _parse(root: Path, name: str, precision: str, record: Mapping[str, Any]) -> PreparedVolume:
    index_file.need_name(name)
    numbers = [record["size"], record["modified"], *record["source"]]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(numbers) != 4:
        raise ValueError(f"{name}: sizes and times {numbers}")
    if not all(type(record[key]) in (int, float) and np.isfinite(record[key]) for key in ("data_range", "error")):
        raise ValueError(f"{name}: data_range {record['data_range']!r}, error {record['error']!r}")
    info = scan_record.parse(root / name, record["info"], record["size"])
    content = info.num_slices * slice_type(info, precision).itemsize
    if not content < record["size"] < content + 4096:
        raise ValueError(f"{name}: {record['size']} bytes for {content} bytes of slices")
    return PreparedVolume(
        info=replace(info, path=volume_path(root, name)),
        data_range=float(record["data_range"]),
        size=record["size"],
        modified=record["modified"],
        sha256=str(record["sha256"]),
        source=(record["source"][0], record["source"][1]),
        error=float(record["error"]),
    )
