"""A folder of scans as Lightning's loaders: checked before the first step, undersampled on the device."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from mrirecon.data.batches import ShapeBatches
from mrirecon.data.index import Index, usable
from mrirecon.data.index_file import Entry
from mrirecon.data.masks import Masking, volume_mask
from mrirecon.data.phantom_set import PhantomSet
from mrirecon.data.sample import Sample, Slice, undersample
from mrirecon.data.selection import Selection
from mrirecon.data.sources import FastmriSource, MaskedSlices, image_size
from mrirecon.errors import ConfigError, InputError
from mrirecon.io import fastmri
from mrirecon.io.scan import ScanInfo

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
CHALLENGES = ("singlecoil", "multicoil")
CHECKS = ("full", "headers")
SPLITS = ("train", "val", "test")


class ReconDataModule(pl.LightningDataModule):
    """The official folder layout, `root/{singlecoil,multicoil}_{train,val,test}/*.h5`.

    root: the folder above the splits, or a list of such folders, which are used as one.
    challenge: singlecoil or multicoil.
    mask: one of fastMRI's mask classes, or a FileMask; None where every scan brings its own mask.
    fixed_masks: one training mask per slice for all epochs, instead of a new one in every epoch.
    batch_size: slices; a batch holds one k-space shape. num_workers: processes that read.
    check: "full" looks for NaN and Inf in every value before the first step, once per file; "headers" only when a slice
    is read. on_bad_file: "error" stops at a file that cannot be used, "skip" leaves it out and says so.
    split: what evaluation scores, val or test; only this folder need exist for it.
    seed: of shuffling, of training masks and of what a sample rate chooses.
    train_splits: the folders to train on. The other keys choose among the files: see `selection.Selection`.
    phantom: the phantom set to write to `root` first, where it is not there yet; None for data of your own.
    progress: called with (what, done, total) while the data is written and checked.

    Raises ConfigError for settings that cannot work, InputError for data that cannot be used, both in `setup`.
    """

    def __init__(
        self,
        root: str | Sequence[str],
        challenge: str,
        mask: Masking | None,
        batch_size: int,
        num_workers: int,
        check: str,
        split: str,
        seed: int,
        on_bad_file: str = "error",
        files: str | None = None,
        acquisitions: Sequence[str] | None = None,
        num_cols: Sequence[int] | None = None,
        volume_sample_rate: float | None = 1.0,
        sample_rate: float | None = 1.0,
        train_splits: Sequence[str] = ("train",),
        fixed_masks: bool = False,
        phantom: PhantomSet | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        _one_of("data.challenge", challenge, CHALLENGES)
        _one_of("data.check", check, CHECKS)
        _one_of("data.on_bad_file", on_bad_file, ("error", "skip"))
        _one_of("split", split, ("val", "test"))
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                f"data.batch_size={batch_size} and data.num_workers={num_workers}: expected at least 1 and at least 0"
            )
        self.roots, self.mask = _roots(root), mask
        self.challenge = cast(fastmri.Challenge, challenge)
        self.batch_size, self.num_workers, self.check = batch_size, num_workers, check
        self.split, self.seed, self.on_bad_file = split, seed, on_bad_file
        self.train_splits = _train_splits(train_splits)
        self.fixed_masks = fixed_masks
        self.selection = Selection(files, acquisitions, num_cols, volume_sample_rate, sample_rate, seed)
        self.phantom = phantom
        if phantom is not None and len(self.roots) > 1:
            raise ConfigError(
                f"data.root={root}: expected one folder to write the phantom set to; give data.phantom=null"
            )
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.sets: dict[str, MaskedSlices] = {}
        self._indexes: dict[Path, Index] = {}

    @property
    def where(self) -> str:
        """The folders above the splits, for people."""
        return ", ".join(map(str, self.roots))

    def prepare_data(self) -> None:
        """Writes the phantom set where it is asked for and not there; looks the files up for all ranks."""
        if self.phantom is not None:
            self.phantom.write(self.roots[0], lambda done, total: self.progress("Writing the phantom set", done, total))
        if self.trainer is not None and self.trainer.world_size > 1:
            # Every rank raises it in its own setup; raised here by one, it would leave the others waiting.
            with suppress(ConfigError, InputError):
                self.setup(str(self.trainer.state.fn.value))  # type: ignore[union-attr]

    def setup(self, stage: str) -> None:
        """Opens and checks the splits of a stage (fit, validate, test), once."""
        wanted = {"fit": ("train", "val", self.split), "validate": ("val",), "test": (self.split,)}[stage]
        missing = [split for split in dict.fromkeys(wanted) if split not in self.sets]
        # The headers of all come first: they take seconds, and a search for NaN can take an hour.
        headers = {split: self._headers(split) for split in missing}
        if stage == "fit" and missing:
            self.selection.check_acquisitions({info.acquisition for infos in headers.values() for info in infos})
            if "val" in self.train_splits:
                log.warning("data.train_splits has val: the validation scores are of volumes that are trained on")
        for split, infos in headers.items():
            self.sets[split] = self._open(split, infos)

    def _open(self, split: str, infos: Sequence[ScanInfo]) -> MaskedSlices:
        where, training = self._where(split), split == "train"
        infos = self.selection.of_kind(infos, where)
        if training:
            infos = self.selection.some_volumes(infos, where)
        infos, ranges = self._values(infos, where, exact=not training)
        slices = self.selection.some_slices(sum(info.num_slices for info in infos), where) if training else None
        source = FastmriSource(infos, ranges, slices)
        for info in infos:
            if info.mask is None:
                self._check_mask(info)
        log.info("%s: %d volumes, %d slices", where, len(infos), len(source))
        return MaskedSlices(source, self.mask, self.seed if training else None, self.fixed_masks)

    def _folders(self, split: str) -> list[tuple[Path, Path]]:
        """(root, folder) of everything that makes a split."""
        names = self.train_splits if split == "train" else (split,)
        return [(root, root / f"{self.challenge}_{name}") for root in self.roots for name in names]

    def _where(self, split: str) -> str:
        """The folders that make a split, for people."""
        return ", ".join(str(folder) for _, folder in self._folders(split))

    def _headers(self, split: str) -> list[ScanInfo]:
        """Every listed volume of a split whose header suits."""
        where, volumes = self._where(split), []
        for _, folder in self._folders(split):
            paths, num_ignored = fastmri.list_volumes(folder)
            if num_ignored:
                log.info("%s: %d other files and folders ignored", folder, num_ignored)
            volumes += paths
        if self.selection.files is not None:
            self.selection.check_files([p for root in self.roots for p in root.glob(f"{self.challenge}_*/*.h5")])
            volumes = self.selection.listed(volumes, where)
        infos = [info for info, _ in self._usable(volumes, f"Reading headers of {where}")]
        for info in infos:
            for note in info.notes:
                log.warning("%s: %s", info.path, note)
        return infos

    def _values(self, infos: Sequence[ScanInfo], where: str, exact: bool) -> tuple[list[ScanInfo], list[float]]:
        """The volumes that pass the check, and the maximum of each one's target."""
        full = self.check == "full"
        found = self._usable([info.path for info in infos], f"Checking {where}", full, exact)
        return [info for info, _ in found], [_data_range(info, entry, full or exact) for info, entry in found]

    def _usable(
        self, paths: Sequence[Path], what: str, full: bool = False, exact: bool = False
    ) -> list[tuple[ScanInfo, Entry]]:
        """The volumes that can be used, in order. Bad ones are refused or left out, as `on_bad_file` says."""
        good: list[tuple[ScanInfo, Entry]] = []
        bad: list[str] = []
        for path, entry in zip(paths, self._look_up(paths, what, full, exact), strict=True):
            try:
                good.append((usable(path, entry, self.challenge, needs_target=True), entry))
            except InputError as error:
                bad.append(str(error))
        if bad and (self.on_bad_file == "error" or not good):
            more = f" (and {len(bad) - 1} more of {len(paths)}; scripts/check_data.py lists them)" if bad[1:] else ""
            raise InputError(bad[0] + more)
        if bad:
            lines = "".join(f"\n  {message}" for message in bad)
            log.warning("%d of %d volumes are left out (data.on_bad_file=skip):%s", len(bad), len(paths), lines)
        return good

    def _look_up(self, paths: Sequence[Path], what: str, full: bool, exact: bool) -> list[Entry]:
        """What the indexes know of some files; each root has its own."""
        found: dict[Path, Entry] = {}
        for root in self.roots:
            if root not in self._indexes:
                self._indexes[root] = Index(root, num_processes=0 if self.num_workers == 0 else None)
            own = [path for path in paths if path.parent.parent == root]
            progress = partial(self.progress, what if len(self.roots) == 1 else f"{what}, those in {root}")
            found.update(zip(own, self._indexes[root].look_up(own, full, exact, progress), strict=True))
        return [found[path] for path in paths]

    def _check_mask(self, info: ScanInfo) -> None:
        if self.mask is None:
            raise ConfigError(
                f"{info.path}: is fully sampled and has no mask of its own: choose one with mask=random_4x"
            )
        try:
            volume_mask(self.mask, info.kspace_size[1], info.name)
        except ConfigError as error:
            raise ConfigError(f"{info.path}: {error}") from error

    def check_image_sizes(self, min_size: int) -> None:
        """Raises InputError for the first volume whose image is too small for a model."""
        for dataset in self.sets.values():
            for info in dataset.source.volumes:
                if min(image_size(info)) < min_size:
                    y, x = image_size(info)
                    raise InputError(
                        f"{info.path}: its image of {y}x{x} is too small for the model, which needs at least "
                        f"{min_size}x{min_size}: leave the file out, or lower model.num_pool_layers"
                    )

    def scored(self) -> MaskedSlices:
        """The split that evaluation scores."""
        return self.sets[self.split]

    def train_dataloader(self) -> DataLoader[Slice]:
        return self._loader(self.sets["train"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Slice]:
        return self._loader(self.sets["val"], shuffle=False)

    def test_dataloader(self) -> DataLoader[Slice]:
        return self._loader(self.scored(), shuffle=False)

    def _loader(self, dataset: MaskedSlices, shuffle: bool) -> DataLoader[Slice]:
        shapes = [dataset.source.shape(index) for index in range(len(dataset))]
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        batches = ShapeBatches(shapes, self.batch_size, self.seed if shuffle else None, ranks, rank)
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Sample | Any:
        """The CPU reads, the device computes: the mask is applied where the model runs."""
        return undersample(batch) if isinstance(batch, Slice) else batch


def _data_range(info: ScanInfo, entry: Entry, measured: bool) -> float:
    """The maximum of the target volume: the measured one where it was asked for, or the file states none."""
    if not measured and info.maximum is not None:
        return info.maximum
    assert entry.maximum is not None
    if info.maximum is not None and abs(info.maximum - entry.maximum) > 1e-4 * abs(entry.maximum):
        log.warning(
            "%s: its attribute max is %g, but its target's maximum is %g; the target's is used",
            info.path, info.maximum, entry.maximum,
        )  # fmt: skip
    return entry.maximum


def _roots(root: Any) -> list[Path]:
    roots = [root] if isinstance(root, str | Path) else root
    if not isinstance(roots, list | tuple) or not roots or not all(isinstance(item, str | Path) for item in roots):
        raise ConfigError(f"data.root={root!r}: expected a folder, or a list of folders as in data.root=[A,B]")
    if len({Path(item).resolve() for item in roots}) < len(roots):
        raise ConfigError(f"data.root={root}: names a folder twice; its volumes would count double. Name it once")
    return [Path(item) for item in roots]


def _train_splits(splits: Any) -> tuple[str, ...]:
    if isinstance(splits, str) or not splits or not set(splits) <= set(SPLITS) or len(set(splits)) < len(splits):
        raise ConfigError(f"data.train_splits={splits!r}: expected a list of some of {', '.join(SPLITS)}, each once")
    return tuple(splits)


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value!r}: expected one of {', '.join(choices)}")
