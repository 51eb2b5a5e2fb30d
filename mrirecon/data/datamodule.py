"""A folder of scans as Lightning's loaders: checked before the first step, masks drawn as slices are read."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, default_collate

from mrirecon.data.augmentation import Augmentation, moved
from mrirecon.data.batches import ShapeBatches, collate_samples
from mrirecon.data.catalog.selection import Selection
from mrirecon.data.catalog.volumes import Progress, Volumes, folders
from mrirecon.data.conditions import applicable
from mrirecon.data.prepared.store import PreparedVolumes
from mrirecon.data.resident import Resident, ResidentLoader
from mrirecon.data.sources import Condition, MaskedSlices, Source
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import ScanInfo
from mrirecon.physics.sample import HybridSlice, Sample, Slice, undersample
from mrirecon.sampling.acquired import image_size
from mrirecon.sampling.masks import Masking, by_acceleration, is_2d, volume_mask

log = logging.getLogger(__name__)

CHALLENGES = ("singlecoil", "multicoil")
CHECKS = ("full", "headers")
SPLITS = ("train", "val", "test")


class Writer(Protocol):
    """What makes a data set where it is not there yet."""

    def folder(self, root: Path) -> Path:
        """The folder above the splits of the set that belongs to `root`, written or not."""

    def write(self, root: Path, progress: Callable[[int, int], None]) -> Path:
        """Writes what is missing of that set; gives its folder."""


class ReconDataModule(pl.LightningDataModule):
    """The official folder layout, `root/{singlecoil,multicoil}_{train,val,test}/*.h5`.

    root: the folder above the splits, or a list of such folders, which are used as one; None where `prepared` is given.
    prepared: the folder, or folders, that scripts/prepare_data.py wrote, to be read in the place of `root`.
    resident: hold the data in the memory of the device and gather batches there, without workers.
    challenge: singlecoil or multicoil.
    mask: one of fastMRI's mask classes or another, see `masks.Masking`; None where every scan brings its own mask. Of
    several accelerations training draws one for each slice; evaluation scores every volume at each.
    fixed_masks: one training mask per slice for all epochs, instead of a new one in every epoch.
    batch_size: slices; a batch holds one k-space shape. num_workers: processes that read.
    check: "full" looks for NaN and Inf in every value before the first step, once per file; "headers" only when a slice
    is read. on_bad_file: "error" stops at a file that cannot be used, "skip" leaves it out and says so.
    split: what evaluation scores, val or test; only this folder need exist for it.
    seed: of shuffling, of training masks and of what a sample rate chooses.
    train_splits: the folders to train on. The other keys choose among the files: see `selection.Selection`.
    augmentation: moves the images of training slices before they are undersampled; None leaves them as they are.
    writer: what makes the data of `root`, where it is not there yet; None for data of your own.
    progress: called with (what, done, total) while the data is written and checked.

    Raises ConfigError for settings that cannot work, InputError for data that cannot be used, both in `setup`.
    """

    def __init__(
        self,
        root: str | Sequence[str] | None,
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
        prepared: str | Sequence[str] | None = None,
        resident: bool = False,
        augmentation: Augmentation | None = None,
        writer: Writer | None = None,
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
        self.mask, self.fixed_masks, self.augmentation = mask, fixed_masks, augmentation
        self.scored_masks: Mapping[str, Masking | None] | None = None  # in the place of `mask` in evaluation, if given
        self.conditions: Sequence[Condition] = ()  # what evaluation may put the volumes under; see `score_under`
        self.challenge = cast(fastmri.Challenge, challenge)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.split, self.seed = split, seed
        self.train_splits = _train_splits(train_splits)
        self.selection = Selection(files, acquisitions, num_cols, volume_sample_rate, sample_rate, seed)
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.volumes: Volumes | PreparedVolumes
        if prepared is not None:
            writer = None
            self.volumes = PreparedVolumes(folders("data.prepared", prepared), self.challenge, check, self.progress)
        else:
            if root is None:
                raise ConfigError("data.root: give the folder above the splits, data.root=DIR, or data.prepared=DIR")
            num_processes = 0 if num_workers == 0 else None
            roots = folders("data.root", root)
            self.volumes = Volumes(roots, self.challenge, check, on_bad_file, num_processes, self.progress)
            if writer is not None and len(roots) > 1:
                raise ConfigError(f"data.root={root}: expected one folder to make the data of; give data.writer=null")
        self.writer, self._written_for = writer, self.volumes.roots[0]
        self.resident, self._residents = resident, defaultdict[str, dict[bool, Resident]](dict)
        self.needs_kspace = True  # until a model says otherwise
        self.sets: dict[str, MaskedSlices] = {}

    @property
    def where(self) -> str:
        """The folders above the splits, for people."""
        return ", ".join(map(str, self.volumes.roots))

    def prepare_data(self) -> None:
        """Makes the data where a writer does and it is not there; looks the files up for all ranks."""
        if self.writer is not None and not self.sets:
            self.writer.write(self._written_for, partial(self.progress, "Writing the data set"))
        if self.trainer is not None and self.trainer.world_size > 1:
            # Every rank raises it in its own setup; raised here by one, it would leave the others waiting.
            with suppress(ConfigError, InputError):
                self.setup(str(self.trainer.state.fn.value))  # type: ignore[union-attr]

    def setup(self, stage: str) -> None:
        """Opens and checks the splits of a stage (fit, validate, test), once."""
        if self.writer is not None:
            self.volumes.roots = [self.writer.folder(self._written_for)]
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

    def _folders(self, split: str) -> list[str]:
        """The names of the folders that make a split."""
        return [f"{self.challenge}_{name}" for name in (self.train_splits if split == "train" else (split,))]

    def _where(self, split: str) -> str:
        """The folders that make a split, for people."""
        return ", ".join(str(root / folder) for root in self.volumes.roots for folder in self._folders(split))

    def _headers(self, split: str) -> list[ScanInfo]:
        """Every listed volume of a split whose header suits."""
        where, paths = self._where(split), self.volumes.paths(self._folders(split))
        if self.selection.files is not None:
            self.selection.check_files(self.volumes.all_paths())
            paths = self.selection.listed(paths, where)
        return self.volumes.headers(paths, where)

    def _open(self, split: str, infos: Sequence[ScanInfo]) -> MaskedSlices:
        where, training = self._where(split), split == "train"
        infos = self.selection.of_kind(infos, where)
        if training:
            infos = self.selection.some_volumes(infos, where)
        infos, ranges = self.volumes.values(infos, where, exact=not training)
        slices = self.selection.some_slices(sum(info.num_slices for info in infos), where) if training else None
        source = Source(infos, ranges, slices, self.volumes.reader)
        masks: dict[str, Masking | None] = {"": self.mask}
        if not training and any(info.mask is None for info in infos):
            masks = dict(self.scored_masks or by_acceleration(self.mask))
        for info in infos:
            for mask in masks.values():
                self._check_mask(info, mask)
        if split == self.split:
            self.conditions = applicable(self.conditions, infos)
        log.info("%s: %d volumes, %d slices", where, len(infos), len(source))
        if not training:
            return MaskedSlices(source, masks, seed=None)
        return MaskedSlices(source, masks, self.seed, self.fixed_masks, self.augmentation)

    def _check_mask(self, info: ScanInfo, mask_func: Masking | None) -> None:
        if info.mask is not None:
            return
        if mask_func is None:
            raise ConfigError(
                f"{info.path}: is fully sampled and has no mask of its own: choose one with mask=random_4x"
            )
        try:
            volume_mask(mask_func, info.kspace_size, info.name)
        except ConfigError as error:
            raise ConfigError(f"{info.path}: {error}") from error
        if is_2d(mask_func) and self.volumes.reader.slice_type is HybridSlice:
            raise ConfigError(
                "data.prepared: a prepared store suits masks of whole columns, but mask= chooses a pattern in both "
                "directions: give data.root=DIR with the scans, and data.prepared=null"
            )

    def check_model(self, min_size: int, needs_kspace: bool) -> None:
        """Takes note of what a model works on.

        Raises InputError for the first volume whose image is too small for it, ConfigError where it needs k-space and
        the data has none.
        """
        self.needs_kspace = needs_kspace
        if needs_kspace and self.volumes.reader.slice_type is HybridSlice:
            raise ConfigError(
                "data.prepared: a prepared store has the image along the readout, but the model works on k-space of "
                "the whole readout: give data.root=DIR with the scans, and data.prepared=null"
            )
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

    def score_under(self, condition: Condition | None) -> None:
        """Evaluation reads its split under a condition from here on; None reads it as it is."""
        self._residents.pop(self.split, None)
        self.sets[self.split] = self.scored().under(condition)

    def train_dataloader(self) -> DataLoader[Slice] | ResidentLoader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Slice] | ResidentLoader:
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader[Slice] | ResidentLoader:
        return self._loader(self.split, shuffle=False)

    def _loader(self, split: str, shuffle: bool) -> DataLoader[Slice] | ResidentLoader:
        dataset = self.sets[split]
        shapes = [dataset.shape(item) for item in range(len(dataset))]
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        batches = ShapeBatches(shapes, self.batch_size, self.seed if shuffle else None, ranks, rank)
        if self.resident:
            return ResidentLoader(self._resident(split), dataset, batches)
        # Workers of a CPU are the device: they undersample, too, and send an image instead of k-space.
        to_sample = partial(
            collate_samples, needs_kspace=self.needs_kspace, is_moved=shuffle and self.augmentation is not None
        )
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=to_sample if self.num_workers and self._device.type == "cpu" else default_collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._device.type == "cuda",
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Sample | Any:
        """The CPU reads, the device computes: the mask is applied where the model runs."""
        if not isinstance(batch, Slice):
            return batch
        is_moved = self.augmentation is not None and self.trainer is not None and bool(self.trainer.training)
        return undersample(moved(batch) if is_moved else batch, self.needs_kspace)

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _resident(self, split: str) -> Resident:
        """The slices of a split on the device, brought there once."""
        dataset = self.sets[split]
        # A pattern in both directions, and a model of k-space, need the whole readout.
        hybrid = not self.needs_kspace and not any(map(is_2d, dataset.masks.values()))
        kept = self._residents[split]
        if hybrid not in kept:
            progress = partial(self.progress, f"Loading {self._where(split)} to {self._device}")
            kept[hybrid] = Resident(dataset.source, hybrid, self._device, self.num_workers, progress)
        return kept[hybrid]


def _train_splits(splits: object) -> tuple[str, ...]:
    given = splits if isinstance(splits, list | tuple) else ()
    if not given or not set(given) <= set(SPLITS) or len(set(given)) < len(given):
        raise ConfigError(f"data.train_splits={splits!r}: expected a list of some of {', '.join(SPLITS)}, each once")
    return tuple(given)


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value!r}: expected one of {', '.join(choices)}")
