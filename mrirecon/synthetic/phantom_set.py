"""The phantom data set: simulated heads, written once in the fastMRI layout."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fastmri.data.subsample import RandomMaskFunc

from mrirecon.errors import ConfigError
from mrirecon.io.raw.fastmri_writer import write_volume
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import ifft2c
from mrirecon.sampling.masks import draw_mask, volume_seed
from mrirecon.synthetic import head as phantom
from mrirecon.synthetic.written_set import COILS, SPLITS, Count, Job, Plan, WrittenSet

VERSION = 1
"""Increase when the same parameters give other numbers, so that older folders are refused."""


class PhantomVolume(NamedTuple):
    """Parameters of one volume of the set."""

    split: str
    number: int
    acquisition: str
    recon_size: int
    width: int

    @property
    def file_name(self) -> str:
        """File name, the same in the multi-coil and single-coil folders, and so the mask seeded by it."""
        return f"phantom_{self.split}_{self.number:04d}_{self.acquisition}.h5"

    def paths(self, root: Path) -> dict[str, Path]:
        """Path of its file per kind of coil."""
        return {coils: root / f"{coils}_{self.split}" / self.file_name for coils in COILS}


@dataclass(frozen=True, kw_only=True)
class PhantomSet:
    """Parameters of a phantom data set, which determine it; a volume depends on its seed, split and number.

    snr: mean signal inside the head over the standard deviation of the noise, see `synthetic.head.simulate`.
    acceleration, center_fraction: of the random mask of a test volume, seeded by its file name.
    matrix_sizes: (target size, phase encoding columns), used in turn; the readout is twice the target.
    Raises ConfigError for an invalid parameter.
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
        # Plain tuples, to compare with the manifest.
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
        """Raises ConfigError where the centre has no columns, or all sampled ones: fastMRI would divide by zero."""
        num_low = round(width * self.center_fraction)
        most = f"some columns, but fewer than 1/{self.acceleration} (acceleration) of {width}"
        good = self.acceleration == 1 or 0 < num_low * self.acceleration < width
        _expect(good, "center_fraction", most, self.center_fraction)

    @property
    def volumes(self) -> list[PhantomVolume]:
        """Volumes of the set in writing order."""
        counts = zip(SPLITS, (self.num_train, self.num_val, self.num_test), strict=True)
        return [self._volume(split, number) for split, count in counts for number in range(count)]

    def is_complete(self, root: Path) -> bool:
        """Whether `root` holds this set completely, see `WrittenSet.is_complete`."""
        return self._written(root).is_complete(self._names(root))

    def folder(self, root: Path) -> Path:
        """Folder of the set, written or not."""
        return Path(root)

    def write(self, root: Path, progress: Count | None = None) -> Path:
        """Writes missing files of the set below `root`, see `WrittenSet.write`. Raises ConfigError.  -> `root`"""
        root = Path(root)
        self._written(root).write(lambda: self._plan(root), progress, self._names(root))
        return root

    def _written(self, root: Path) -> WrittenSet:
        parameters = json.loads(json.dumps({"version": VERSION, **asdict(self)}))
        return WrittenSet(root=Path(root), kind="phantom", parameters=parameters, key="data.root")

    def _plan(self, root: Path) -> Plan:
        return Plan([self._job(root, volume) for volume in self.volumes])

    def _job(self, root: Path, volume: PhantomVolume) -> Job:
        return Job([*volume.paths(root).values()], lambda: self._write_volume(root, volume))

    def _names(self, root: Path) -> list[str]:
        """Paths of all files of the set, relative to `root`."""
        paths = (path for volume in self.volumes for path in volume.paths(Path(root)).values())
        return [path.relative_to(root).as_posix() for path in paths]

    def _volume(self, split: str, number: int) -> PhantomVolume:
        rounds, contrast = divmod(number, len(phantom.ACQUISITIONS))
        # Shifted by one per round of contrasts, so that each contrast occurs in each size.
        recon_size, width = self.matrix_sizes[(number + rounds) % len(self.matrix_sizes)]
        return PhantomVolume(split, number, phantom.ACQUISITIONS[contrast], recon_size, width)

    def _write_volume(self, root: Path, volume: PhantomVolume) -> None:
        paths = volume.paths(root)
        kspace, target, _ = self.simulate(volume)
        single = phantom.emulate_single_coil(kspace, target)
        rss, size = {"reconstruction_rss": target.numpy()}, (volume.recon_size, volume.recon_size)
        esc = {"reconstruction_esc": center_crop(ifft2c(single), size).abs().numpy()}
        self._write_file(volume, paths["multicoil"], kspace.numpy(), rss)
        # Both targets, as in fastMRI's knee files; the first gives the attribute `max`.
        self._write_file(volume, paths["singlecoil"], single.numpy(), esc | rss)

    def simulate(self, volume: PhantomVolume) -> phantom.Phantom:
        """Fully sampled volume; deterministic."""
        return phantom.simulate(
            volume.acquisition,
            volume.recon_size,
            volume.width,
            num_slices=self.num_slices,
            num_coils=self.num_coils,
            snr=self.snr,
            generator=phantom.volume_generator(self.seed, SPLITS.index(volume.split), volume.number),
        )

    def _write_file(
        self, volume: PhantomVolume, path: Path, kspace: np.ndarray, targets: dict[str, np.ndarray]
    ) -> None:
        mask, attrs = None, None
        if volume.split == "test":
            mask_func = RandomMaskFunc([self.center_fraction], [self.acceleration])
            size = (2 * volume.recon_size, volume.width)
            mask, acs_mask = (m[0] for m in draw_mask(mask_func, size, volume_seed(volume.file_name)))
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
