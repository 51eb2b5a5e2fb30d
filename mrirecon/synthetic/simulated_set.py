"""The simulated data set: k-space made from magnitude images, written once in the fastMRI layout, then read as such."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mrirecon.errors import ConfigError, InputError
from mrirecon.io.images import find as images
from mrirecon.io.images.find import ImageSource
from mrirecon.io.images.volume import SLICE_AXES, ImageVolume
from mrirecon.io.raw.fastmri_writer import write_volume
from mrirecon.io.scan import MIN_SIZE
from mrirecon.synthetic.random_fields import volume_generator
from mrirecon.synthetic.simulation import Simulation, object_level, simulate_from_images
from mrirecon.synthetic.subjects import digest, file_names, plain, split_subjects
from mrirecon.synthetic.written_set import SPLITS, Count, Job, Plan, WrittenSet

log = logging.getLogger(__name__)

VERSION = 1
"""Increase when the same parameters give other numbers, so that older folders are refused."""

# Slices with a smaller share of object pixels count as empty.
_LEAST_OBJECT = 0.02
# Chosen slices are spread over this middle part of the volume; beyond it a head is scalp or neck.
_MIDDLE = 0.7
# Mean centre of the coils along z, in halves of the field of view.
_COIL_MIDDLE = 0.25

_TRAINED_ON = (
    "there are images of {} only, and the same serve training, validation and test: scores are of the images that are "
    "trained on; they show that the path works, nothing else. Three subjects or more are split"
)


class Looked(NamedTuple):
    """A source that was read and is usable, with its chosen slices."""

    source: ImageSource
    file_name: str
    slices: tuple[int, ...]
    num_empty: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SimulatedSet:
    """Settings of a data set simulated from images; images and settings determine it.

    output: folder to write to; None: below data/simulated/, named by a digest of images and settings.
    num_coils: 1: a uniform coil, and single-coil files are written too. seed: of phase, coils, noise, splits.
    snr: mean signal inside the object over the standard deviation of the noise, see `synthetic.simulation`.
    slice_axis: axial, coronal, sagittal, or native: the plane the slices are stored in.
    num_slices: per volume, evenly spread over its middle part; None: all. Slices without object are left out.
    matrix: size (readout, phase encoding) of the centre of k-space that is kept; None: size of the image.
    acquisition: label of the files; None: description of the DICOM series, else SIM.
    val_fraction, test_fraction: of the subjects, at least one unless 0; one or two subjects are in all splits.
    on_bad_image: "error": stop at an unusable image; "skip": leave it out and log it.
    Raises ConfigError for an invalid parameter.
    """

    output: str | None
    num_coils: int
    snr: float
    seed: int
    slice_axis: str
    num_slices: int | None
    matrix: Sequence[int] | None
    acquisition: str | None
    val_fraction: float
    test_fraction: float
    on_bad_image: str

    def __post_init__(self) -> None:
        if self.matrix is not None:  # a plain tuple, to compare with the manifest
            object.__setattr__(self, "matrix", tuple(int(side) for side in self.matrix))
        _expect(self.num_coils >= 1, "num_coils", "at least 1", self.num_coils)
        _expect(0 < self.snr < math.inf, "snr", "a positive number", self.snr)
        _expect(self.seed >= 0, "seed", "at least 0", self.seed)
        _expect(self.slice_axis in SLICE_AXES, "slice_axis", f"one of {', '.join(SLICE_AXES)}", self.slice_axis)
        _expect(
            self.num_slices is None or self.num_slices >= 1,
            "num_slices",
            "at least 1, or null for all",
            self.num_slices,
        )
        good = self.matrix is None or (len(self.matrix) == 2 and min(self.matrix) >= MIN_SIZE)
        _expect(good, "matrix", f"two sizes of at least {MIN_SIZE}, or null", self.matrix)
        _expect(self.acquisition != "", "acquisition", "a label, or null", self.acquisition)
        for name in ("val_fraction", "test_fraction"):
            _expect(0 <= getattr(self, name) < 1, name, "at least 0 and less than 1", getattr(self, name))
        total = self.val_fraction + self.test_fraction
        _expect(total < 1, "val_fraction", "less than 1 together with test_fraction", total)
        _expect(self.on_bad_image in ("error", "skip"), "on_bad_image", "error or skip", self.on_bad_image)

    def folder(self, root: Path) -> Path:
        """Folder of the set made from the images below `root`, written or not."""
        root = Path(root)
        return self._written(root, images.list_files(root)[0]).root

    def write(self, root: Path, progress: Count | None = None) -> Path:
        """Writes missing files of the set made from the images below `root` (or the one file).  -> its folder

        progress: gets (steps done, in total); an image is a step of reading, then one of writing. Can be interrupted
        and run again; a second process waits. Raises InputError for unusable images, ConfigError where the folder
        holds other data, which is never overwritten.
        """
        root, count = Path(root), progress or (lambda done, total: None)
        paths, num_ignored = images.list_files(root)
        written = self._written(root, paths)
        num_steps = 0

        def plan() -> Plan:
            nonlocal num_steps
            sources = images.find(root, paths)
            if num_ignored:
                log.info("%s: %d other files ignored", root, num_ignored)
            num_steps = len(sources)
            return self._plan(written.root, sources, count)

        written.write(plan, lambda done, total: count(num_steps + done, num_steps + total))
        for warning in (written.manifest() or {}).get("warnings", []):
            log.warning("%s: %s", root, warning)
        return written.root

    def simulate(self, source: ImageSource, slices: Sequence[int]) -> Simulation:
        """Fully sampled volume of some slices of a source; deterministic."""
        volume = source.read(self.slice_axis)
        level = object_level(torch.from_numpy(volume.values))
        matrix = None if self.matrix is None else (self.matrix[0], self.matrix[1])
        return simulate_from_images(
            torch.from_numpy(volume.values[list(slices)]),
            _positions(volume, slices),
            level,
            matrix=matrix,
            num_coils=self.num_coils,
            snr=self.snr,
            generator=volume_generator(self.seed, int(digest(source.name), 16)),
        )

    def _written(self, root: Path, paths: Sequence[Path]) -> WrittenSet:
        base = root.parent if root.is_file() else root
        stats = [(path.relative_to(base).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        settings = {key: value for key, value in asdict(self).items() if key != "output"}
        parameters = json.loads(json.dumps({"version": VERSION, **settings, "images": digest(stats)}))
        folder = Path("data/simulated") / f"{plain(root.resolve().name)}-{digest(parameters)}"
        return WrittenSet(
            root=Path(self.output) if self.output else folder,
            kind="simulated",
            parameters=parameters,
            key="data.writer.output",
            num_workers=2,  # each holds the k-space of a volume in memory
        )

    # Looking

    def _plan(self, folder: Path, sources: Sequence[ImageSource], count: Count) -> Plan:
        looked, left_out = self._look_at_all(sources, count)
        subjects = sorted({item.source.subject for item in looked})
        splits = split_subjects(subjects, self.val_fraction, self.test_fraction, self.seed)
        chosen = {split: [item for item in looked if item.source.subject in splits[split]] for split in SPLITS}
        warnings = [f"{item.source.name}: {note}" for item in looked for note in item.notes]
        if len(subjects) < 3:
            warnings.append(_TRAINED_ON.format("one subject" if len(subjects) == 1 else "two subjects"))
        warnings += [f"left out: {reason}" for reason in left_out.values()]
        record = {
            "splits": {split: [item.source.name for item in items] for split, items in chosen.items()},
            "slices": {item.source.name: item.slices for item in looked},
            "empty_slices": {item.source.name: item.num_empty for item in looked},
            "left_out": left_out,
            "warnings": warnings,
        }
        jobs = [self._job(folder, item, [s for s in SPLITS if item.source.subject in splits[s]]) for item in looked]
        num_empty = sum(item.num_empty for item in looked)
        log.info("%d volumes of %d subjects; %d slices of air are left out", len(looked), len(subjects), num_empty)
        return Plan(jobs, record)

    def _look_at_all(self, sources: Sequence[ImageSource], count: Count) -> tuple[list[Looked], dict[str, str]]:
        """Reads every source before anything is written. Returns usable sources, and reasons by name of the others."""
        names = file_names([source.name for source in sources])
        looked: list[Looked] = []
        bad: dict[str, str] = {}
        for done, (source, name) in enumerate(zip(sources, names, strict=True)):
            count(done, 2 * len(sources))
            try:
                looked.append(self._look(source, name))
            except InputError as error:
                bad[source.name] = str(error)
        if bad and (self.on_bad_image == "error" or not looked):
            more = f" (and {len(bad) - 1} more of {len(sources)})" if bad.keys() - {next(iter(bad))} else ""
            cure = "; data.writer.on_bad_image=skip leaves such images out" if looked else ""
            raise InputError(next(iter(bad.values())) + more + cure)
        return looked, bad

    def _look(self, source: ImageSource, file_name: str) -> Looked:
        volume = source.read(self.slice_axis)
        if self.matrix is not None and any(np.greater(self.matrix, volume.values.shape[1:])):
            raise InputError(
                f"{source.name}: expected images of at least data.writer.matrix={list(self.matrix)}, but they are "
                f"{list(volume.values.shape[1:])}: choose a smaller matrix, or leave the image out"
            )
        values = torch.from_numpy(volume.values)
        share = (values > object_level(values)).float().mean(dim=(-2, -1)).numpy()
        filled = np.flatnonzero(share >= _LEAST_OBJECT)
        if not len(filled):
            raise InputError(
                f"{source.name}: expected slices with an object in at least {_LEAST_OBJECT:.0%} of their pixels, but "
                f"none of its {len(share)} has (at most {share.max():.2%}). Crop the images, or leave them out"
            )
        slices = choose_slices(filled, self.num_slices)
        return Looked(source, file_name, slices, len(share) - len(filled), volume.notes)

    # Writing

    def _job(self, folder: Path, item: Looked, splits: Sequence[str]) -> Job:
        coils = ("multicoil", "singlecoil") if self.num_coils == 1 else ("multicoil",)
        paths = [folder / f"{kind}_{split}" / item.file_name for split in splits for kind in coils]
        return Job(paths, lambda: self._write_volume(paths, item))

    def _write_volume(self, paths: Sequence[Path], item: Looked) -> None:
        kspace, target, _ = self.simulate(item.source, item.slices)
        for path in paths:
            multi = path.parent.name.startswith("multicoil")
            write_volume(
                path,
                kspace.numpy() if multi else kspace[:, 0].numpy(),
                {"reconstruction_rss" if multi else "reconstruction_esc": target.numpy()},
                acquisition=self.acquisition or item.source.label or "SIM",
                patient_id=f"simulated-{digest(item.source.subject)}",  # a digest, since it may be a patient's name
                recon_size=(target.shape[-2], target.shape[-1]),
                extra_attrs=self._attrs(item),
            )

    def _attrs(self, item: Looked) -> Mapping[str, Any]:
        return {
            "simulated": True,
            "simulated_from": item.source.name,
            "snr": self.snr,
            "num_coils": self.num_coils,
            "seed": self.seed,
        }


def choose_slices(filled: Sequence[int] | np.ndarray, num_slices: int | None) -> tuple[int, ...]:
    """`num_slices` slices, evenly spread over the middle part of `filled`; all for None or too few."""
    if num_slices is None or num_slices >= len(filled):
        return tuple(int(i) for i in filled)
    middle = max(num_slices, round(_MIDDLE * len(filled)))
    first = (len(filled) - middle) / 2
    places = first + (np.arange(num_slices) + 0.5) * middle / num_slices
    return tuple(int(filled[int(place)]) for place in places)


def _positions(volume: ImageVolume, slices: Sequence[int]) -> torch.Tensor:
    """Positions of slices along the coils' axis, in halves of the field of view; the volume is centred on the coils."""
    num_slices, y, x = volume.values.shape
    across, along_y, along_x = volume.voxel_size
    half_view = (y * along_y + x * along_x) / 4
    centred = torch.tensor(list(slices), dtype=torch.float32) - (num_slices - 1) / 2
    return centred * (across / half_view) + _COIL_MIDDLE


def _expect(good: bool, name: str, expected: str, came: object) -> None:
    if not good:
        raise ConfigError(f"data.writer.{name}={came}: expected {expected}. Change {name}")
