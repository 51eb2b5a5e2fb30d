"""The phantom data set: simulated heads, written once in the fastMRI layout, read by what reads fastMRI."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fastmri.data.subsample import RandomMaskFunc

from mrirecon.data.masks import draw_mask, volume_seed
from mrirecon.errors import ConfigError
from mrirecon.io.atomic import replacing
from mrirecon.io.fastmri_writer import write_volume
from mrirecon.physics import phantom
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import ifft2c

SPLITS = ("train", "val", "test")
COILS = ("multicoil", "singlecoil")

VERSION = 1
"""Raise it when the same parameters give other numbers: older folders are then refused, not used."""

_MANIFEST, _PARTIAL, _LOCK = "phantom.json", "phantom.partial.json", ".phantom.lock"


class Volume(NamedTuple):
    """One volume of the set, before it is simulated."""

    split: str
    number: int
    acquisition: str
    recon_size: int
    width: int

    @property
    def file_name(self) -> str:
        """The same in the multi-coil and in the single-coil folder, and so is the mask drawn from it."""
        return f"phantom_{self.split}_{self.number:04d}_{self.acquisition}.h5"

    def paths(self, root: Path) -> dict[str, Path]:
        """Its file for each kind of coil."""
        return {coils: root / f"{coils}_{self.split}" / self.file_name for coils in COILS}


@dataclass(frozen=True, kw_only=True)
class PhantomSet:
    """Which volumes there are. The same parameters give the same set; a volume depends on seed, split and number only.

    snr: mean signal inside the head over the standard deviation of the noise, see `physics.phantom.simulate`.
    acceleration, center_fraction: of a test volume's random mask, which is seeded by its file name.
    matrix_sizes: (size of the target, number of phase encoding columns), taken in turns; readout is twice the target.
    Raises ConfigError for a parameter that cannot work.
    """

    seed: int = 0
    num_train: int
    num_val: int
    num_test: int
    num_slices: int
    num_coils: int
    snr: float
    acceleration: int
    center_fraction: float
    matrix_sizes: Sequence[Sequence[int]] = ((128, 128), (144, 160))

    def __post_init__(self) -> None:
        # Plain tuples, whatever list type came: they are compared with the manifest's.
        object.__setattr__(self, "matrix_sizes", tuple((int(n), int(w)) for n, w in self.matrix_sizes))
        least = {
            "seed": 0,
            "num_train": 0,
            "num_val": 0,
            "num_test": 0,
            "num_slices": 1,
            "num_coils": 1,
            "acceleration": 1,
        }
        for name, bound in least.items():
            _expect(getattr(self, name) >= bound, name, f"at least {bound}", getattr(self, name))
        _expect(self.snr > 0, "snr", "a positive number", self.snr)
        _expect(bool(self.matrix_sizes), "matrix_sizes", "at least one pair", self.matrix_sizes)
        for recon_size, width in self.matrix_sizes:
            _expect(16 <= recon_size <= width, "matrix_sizes", "16 <= target size <= columns", (recon_size, width))
            self._check_center(width)

    def _check_center(self, width: int) -> None:
        """Refuses a fully sampled centre of nothing, or all that the acceleration leaves: fastMRI divides by zero."""
        num_low = round(width * self.center_fraction)
        most = f"some columns, but fewer than 1/{self.acceleration} (acceleration) of {width}"
        good = self.acceleration == 1 or 0 < num_low * self.acceleration < width
        _expect(good, "center_fraction", most, self.center_fraction)

    @property
    def volumes(self) -> list[Volume]:
        """Every volume of the set, in the order of writing."""
        counts = zip(SPLITS, (self.num_train, self.num_val, self.num_test), strict=True)
        return [self._volume(split, number) for split, count in counts for number in range(count)]

    def is_complete(self, root: Path) -> bool:
        """Whether `root` holds this very set, whole: its manifest says so, and every file has its size."""
        manifest = _read_json(Path(root) / _MANIFEST)
        if manifest is None or manifest["parameters"] != self._parameters():
            return False
        files = {name: _size(path) for name, path in self._paths(Path(root)).items()}
        return files == manifest["files"] and None not in files.values()

    def write(self, root: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Writes what is missing of the set below `root`; `progress` gets (volumes done, volumes in total), from 0 on.

        Interrupted at any moment, it can be run again; of two processes the second waits, and finds the set complete.
        Raises ConfigError where `root` holds anything else, which is never overwritten.
        """
        root = Path(root)
        if self.is_complete(root):
            return
        with _locked(root):
            if self.is_complete(root):
                return
            self._refuse_others(root)
            _write_json(root / _PARTIAL, {"parameters": self._parameters(), "files": {}})
            files = self._write_volumes(root, progress or (lambda done, total: None))
            _write_json(root / _MANIFEST, {"parameters": self._parameters(), "files": files})
            (root / _PARTIAL).unlink()

    def _volume(self, split: str, number: int) -> Volume:
        rounds, contrast = divmod(number, len(phantom.ACQUISITIONS))
        # Shifted by one at every round of contrasts, so that each contrast comes in each size.
        recon_size, width = self.matrix_sizes[(number + rounds) % len(self.matrix_sizes)]
        return Volume(split, number, phantom.ACQUISITIONS[contrast], recon_size, width)

    def _paths(self, root: Path) -> dict[str, Path]:
        """Every file of the set, by its path below `root`."""
        paths = (path for volume in self.volumes for path in volume.paths(root).values())
        return {path.relative_to(root).as_posix(): path for path in paths}

    def _parameters(self) -> dict[str, Any]:
        return json.loads(json.dumps({"version": VERSION, **asdict(self)}))

    def _refuse_others(self, root: Path) -> None:
        marker = _read_json(root / _MANIFEST) or _read_json(root / _PARTIAL)
        if marker is None:
            _refuse_foreign(root)
            return
        ours, theirs = self._parameters(), marker["parameters"]
        names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        if names:
            came = ", ".join(f"{name}={theirs.get(name)} (now {ours.get(name)})" for name in names)
            raise ConfigError(
                f"data.root={root}: holds a phantom data set of other parameters: {came}. "
                "Choose another data.root, delete that folder, or set these parameters as they were"
            )

    def _write_volumes(self, root: Path, progress: Callable[[int, int], None]) -> dict[str, int]:
        """Simulates and writes what is not there. Returns the size of every file by its path below `root`."""
        sizes = (_read_json(root / _MANIFEST) or {"files": {}})["files"]
        paths = self._paths(root)
        # A file that lost its size since the manifest was written is damaged.
        _clear_folders(
            root, [path for name, path in paths.items() if _size(path) not in (None, sizes.get(name, _size(path)))]
        )
        volumes = self.volumes
        progress(0, len(volumes))
        with _workers() as pool:
            jobs = [pool.submit(self._write_volume, root, volume) for volume in volumes]
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                progress(done, len(volumes))
        return {name: path.stat().st_size for name, path in paths.items()}

    def _write_volume(self, root: Path, volume: Volume) -> None:
        paths = volume.paths(root)
        if all(path.exists() for path in paths.values()):
            return  # whole: a file appears under its name only when it is complete
        kspace, target, _ = self.simulate(volume)
        single = phantom.emulate_single_coil(kspace, target)
        rss, size = {"reconstruction_rss": target.numpy()}, (volume.recon_size, volume.recon_size)
        esc = {"reconstruction_esc": center_crop(ifft2c(single), size).abs().numpy()}
        self._write_file(volume, paths["multicoil"], kspace.numpy(), rss)
        # Both targets, as in fastMRI's knee files; the first one gives the file its attribute `max`.
        self._write_file(volume, paths["singlecoil"], single.numpy(), esc | rss)

    def simulate(self, volume: Volume) -> phantom.Phantom:
        """The fully sampled volume, the same at every call."""
        return phantom.simulate(
            volume.acquisition,
            volume.recon_size,
            volume.width,
            num_slices=self.num_slices,
            num_coils=self.num_coils,
            snr=self.snr,
            generator=phantom.volume_generator(self.seed, SPLITS.index(volume.split), volume.number),
        )

    def _write_file(self, volume: Volume, path: Path, kspace: np.ndarray, targets: dict[str, np.ndarray]) -> None:
        mask, attrs = None, None
        if volume.split == "test":
            mask_func = RandomMaskFunc([self.center_fraction], [self.acceleration])
            mask, acs_mask = draw_mask(mask_func, volume.width, volume_seed(volume.file_name))
            kspace = kspace * mask + np.complex64(0)  # the sum turns negative zeros positive, as fastMRI does
            attrs = {"acceleration": self.acceleration, "num_low_frequency": int(acs_mask.sum())}
        write_volume(
            path,
            kspace,
            targets,
            acquisition=volume.acquisition,
            patient_id=f"phantom-{self.seed}-{volume.split}-{volume.number:04d}",
            recon_size=(volume.recon_size, volume.recon_size),
            mask=mask,
            extra_attrs=attrs,
        )


def _expect(good: bool, name: str, expected: str, came: object) -> None:
    if not good:
        raise ConfigError(f"phantom data set: {name} should be {expected}, but is {came}. Change {name}")


def _folders(root: Path) -> list[Path]:
    return [root / f"{coils}_{split}" for coils in COILS for split in SPLITS]


def _refuse_foreign(root: Path) -> None:
    for folder in _folders(root):
        foreign = next(folder.glob("*.h5"), None)
        if foreign is not None:
            raise ConfigError(
                f"data.root={root}: expected an empty folder, or a phantom data set of ours, but {foreign} is there "
                f"without a {_MANIFEST}; nothing was changed. Choose another data.root"
            )


def _clear_folders(root: Path, damaged: list[Path]) -> None:
    """Makes the folders, and removes what is damaged and what a killed process left in them."""
    for path in damaged:
        path.unlink()
    for folder in _folders(root):
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """A few threads, each simulating a volume of its own; what has not begun when the block fails never begins.

    Torch's own threads gain nothing on arrays this small, and stall where another process keeps a core busy.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One process at a time; the others wait. The lock goes with its process, however that ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / _LOCK).open("w")
    except OSError as error:
        raise ConfigError(
            f"data.root={root}: expected a folder to write the phantom data set to, but: {error.strerror}. "
            "Choose another data.root"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_json(path: Path) -> dict[str, Any] | None:
    """A manifest or marker of ours, None where there is none.  Raises ConfigError where it is damaged."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        content = {"error": error}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("parameters", "files")):
        raise ConfigError(
            f"{path}: expected the record of a phantom data set; it is damaged. "
            "Delete its folder, or choose another data.root"
        )
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
