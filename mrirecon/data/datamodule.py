"""Lightning's data module of a folder of scans: files are checked before the first step, masks drawn while reading."""

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mrirecon.data.augmentation import Augmentation, apply_affine
from mrirecon.data.batches import ShapeBatches, collate_samples
from mrirecon.data.catalog.selection import Selection
from mrirecon.data.catalog.volumes import Progress
from mrirecon.data.conditions import applicable
from mrirecon.data.reading import Reading, one_of
from mrirecon.data.resident import Resident, ResidentLoader
from mrirecon.data.sensitivities import Sensitivities
from mrirecon.data.sources import Condition, MaskedSlices, Source
from mrirecon.data.undersampling import Undersampling
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.scan import ScanInfo
from mrirecon.physics.sample import FULL_READOUT, HybridSlice, Model, Sample, Slice, collate, undersample
from mrirecon.sampling.acquired import image_size
from mrirecon.sampling.masks import Masking, is_2d
from mrirecon.sampling.splitting import Splitting

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Loading:
    """batch_size: slices; a batch holds one k-space shape. num_workers: processes that read.
    resident: hold the data in the memory of the device and gather batches there, without workers.

    Raises ConfigError for numbers that cannot be.
    """

    batch_size: int = 1
    num_workers: int = 0
    resident: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_workers < 0:
            raise ConfigError(
                f"data.batch_size={self.batch_size} and data.num_workers={self.num_workers}: expected at least "
                "1 and at least 0"
            )


def recon_datamodule(
    *,
    split: str,
    seed: int,
    mask: Masking | None = None,
    augmentation: Augmentation | None = None,
    splitting: Splitting | None = None,
    scored_masks: Mapping[str, Masking] | None = None,
    conditions: Sequence[Condition] = (),
    needs_target: bool = True,
    progress: Progress | None = None,
    **settings: Any,
) -> "ReconDataModule":
    """The data module of the settings that the files in conf/data list: those of `Reading`, `Selection`, `Loading`.

    The others: see `Undersampling` and `ReconDataModule`. Raises ConfigError.
    """
    known = {f.name for kind in (Reading, Loading) for f in fields(kind)} | set(SELECTION) | {"fixed_masks"}
    if not settings.keys() <= known:
        raise ConfigError(f"data: {', '.join(sorted(settings.keys() - known))}: there is no such setting")
    return ReconDataModule(
        Reading(**_of(Reading, settings)),
        Selection(**{key: settings[key] for key in SELECTION if key in settings}, seed=seed),
        Undersampling(
            mask=mask,
            fixed_masks=settings.get("fixed_masks", False),
            augmentation=augmentation,
            splitting=splitting,
            scored_masks=scored_masks,
        ),
        Loading(**_of(Loading, settings)),
        split,
        seed,
        conditions,
        needs_target,
        progress,
    )


SELECTION = ("files", "acquisitions", "num_cols", "volume_sample_rate", "sample_rate", "train_splits")
"""The settings of `Selection`."""


def _of(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: settings[f.name] for f in fields(kind) if f.name in settings}


class ReconDataModule(pl.LightningDataModule):
    """The official folder layout, `root/{singlecoil,multicoil}_{train,val,test}/*.h5`.

    reading, selection, undersampling, loading: where the data lies, what of it takes part, how it is undersampled, and
    how it comes to the device.
    split: what evaluation scores, val or test; only this folder need exist for it. seed: of shuffling and of training
    masks. conditions: what evaluation may put the volumes under; see `score_under`.
    needs_target: whether training volumes without a target are refused.
    progress: called with (what, done, total) while the data is written and checked.

    Raises ConfigError for settings that cannot work, InputError for data that cannot be used, both in `setup`.
    """

    def __init__(
        self,
        reading: Reading,
        selection: Selection,
        undersampling: Undersampling,
        loading: Loading,
        split: str,
        seed: int,
        conditions: Sequence[Condition] = (),
        needs_target: bool = True,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        one_of("split", split, ("val", "test"))
        self.reading, self.selection, self.undersampling, self.loading = reading, selection, undersampling, loading
        self.split, self.seed, self.needs_target = split, seed, needs_target
        self.conditions = conditions
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.volumes = reading.volumes(loading.num_workers, self.progress)
        self.sets: dict[str, MaskedSlices] = {}
        self._model: Model | None = None
        self._sensitivities: Sensitivities | None = None
        self._residents = defaultdict[str, dict[bool, Resident]](dict)

    @property
    def where(self) -> str:
        """The folders above the splits, for people."""
        return ", ".join(map(str, self.volumes.roots))

    @property
    def challenge(self) -> str:
        """singlecoil or multicoil"""
        return self.reading.challenge

    def prepare_data(self) -> None:
        """Makes the data where a writer does and it is not there; looks the files up for all ranks."""
        if not self.sets:
            self.volumes.write()
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
            if "val" in self.selection.train_splits:
                log.warning("data.train_splits has val: the validation scores are of volumes that are trained on")
        for split, infos in headers.items():
            self.sets[split] = self._open(split, infos)

    def _folders(self, split: str) -> list[str]:
        """The names of the folders that make a split."""
        return [f"{self.challenge}_{name}" for name in (self.selection.train_splits if split == "train" else (split,))]

    def _where(self, split: str) -> str:
        """The folders that make a split, for people."""
        return ", ".join(str(root / folder) for root in self.volumes.roots for folder in self._folders(split))

    def _headers(self, split: str) -> list[ScanInfo]:
        """Every listed volume of a split whose header suits."""
        where, paths = self._where(split), self.volumes.paths(self._folders(split))
        if self.selection.files is not None:
            self.selection.check_files(self.volumes.all_paths())
            paths = self.selection.listed(paths, where)
        return self.volumes.headers(paths, where, self._needs_target(split))

    def _needs_target(self, split: str) -> bool:
        return self.needs_target or split != "train"

    def _open(self, split: str, infos: Sequence[ScanInfo]) -> MaskedSlices:
        where, training, needs_target = self._where(split), split == "train", self._needs_target(split)
        infos = self.selection.of_kind(infos, where)
        if training:
            infos = self.selection.some_volumes(infos, where)
        infos, ranges = self.volumes.values(infos, where, exact=not training, needs_target=needs_target)
        slices = self.selection.some_slices(sum(info.num_slices for info in infos), where) if training else None
        source = Source(infos, ranges, slices, self.volumes.reader, needs_target)
        made = self.undersampling.training(source, self.seed) if training else self.undersampling.evaluation(source)
        if self.undersampling.has_points() and self._is_hybrid and any(info.mask is None for info in infos):
            raise ConfigError(
                "data.prepared: a prepared store suits masks of whole columns, but mask= chooses a pattern in both "
                "directions: give data.root=DIR with the scans, and data.prepared=null"
            )
        if split == self.split:
            self.conditions = applicable(self.conditions, infos)
        log.info("%s: %d volumes, %d slices", where, len(infos), len(source))
        return made

    @property
    def _is_hybrid(self) -> bool:
        return self.volumes.reader.slice_type is HybridSlice

    def serve(self, model: Model) -> None:
        """Prepares batches for a model from here on.

        Raises InputError for the first volume whose image is too small for it, ConfigError where it needs the whole
        readout and the data has none.
        """
        self._model = model
        if FULL_READOUT in model.needs and self._is_hybrid:
            raise ConfigError(
                "data.prepared: a prepared store has the image along the readout, but the model works on k-space of "
                "the whole readout: give data.root=DIR with the scans, and data.prepared=null"
            )
        for dataset in self.sets.values():
            for info in dataset.source.volumes:
                if min(image_size(info)) < model.min_size:
                    y, x = image_size(info)
                    raise InputError(
                        f"{info.path}: its image of {y}x{x} is too small for the model, which needs at least "
                        f"{model.min_size}x{model.min_size}: leave the file out, or lower model.num_pool_layers"
                    )

    @property
    def _needs(self) -> Collection[str]:
        """What the model needs; all that data can give, until a model is known."""
        if self._model is not None:
            return self._model.needs
        return ("kspace",) if self._is_hybrid else ("kspace", FULL_READOUT)

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
        dataset, loading = self.sets[split], self.loading
        shapes = [dataset.shape(item) for item in range(len(dataset))]
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        batches = ShapeBatches(shapes, loading.batch_size, self.seed if shuffle else None, ranks, rank)
        if loading.resident:
            return ResidentLoader(self._resident(split), dataset, batches)
        # On a CPU workers undersample, too, and send an image instead of k-space. Kept sensitivities are looked up by
        # the k-space of the file, which the workers would not send.
        workers_undersample = loading.num_workers > 0 and self._device.type == "cpu" and "sens_maps" not in self._needs
        is_moved = shuffle and self.undersampling.augmentation is not None
        to_sample = partial(collate_samples, needs=self._needs, is_moved=is_moved)
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=to_sample if workers_undersample else collate,
            num_workers=loading.num_workers,
            persistent_workers=loading.num_workers > 0,
            pin_memory=self._device.type == "cuda",
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Sample | Any:
        """The CPU reads, the device computes: the mask is applied, and sensitivities found, where the model runs."""
        if not isinstance(batch, Slice):
            return batch
        training = self.trainer is not None and bool(self.trainer.training)
        if training and self.undersampling.augmentation is not None:
            batch = apply_affine(batch)
        sample = undersample(batch, self._needs)
        if "sens_maps" not in self._needs or self._model is None:
            return sample
        if self._sensitivities is None:
            self._sensitivities = self.reading.kept_sensitivities(self.volumes)
        sens_maps = self._sensitivities.of(batch, sample.measurement, self._model.sensitivities)
        return sample._replace(measurement=sample.measurement._replace(sens_maps=sens_maps))

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _resident(self, split: str) -> Resident:
        """The slices of a split on the device, brought there once."""
        dataset = self.sets[split]
        for info in dataset.source.volumes:
            if info.target is None:
                raise ConfigError(f"data.resident=true: {info.path} has no target: leave data.resident out")
        # A pattern in both directions, and a model of the whole readout, need k-space.
        own = [info.mask for info in dataset.source.volumes if info.mask is not None]
        patterns = dataset.has_points or any(map(is_2d, dataset.masks.values())) or any(mask.ndim == 2 for mask in own)
        hybrid = FULL_READOUT not in self._needs and not patterns
        kept = self._residents[split]
        if hybrid not in kept:
            progress = partial(self.progress, f"Loading {self._where(split)} to {self._device}")
            kept[hybrid] = Resident(dataset.source, hybrid, self._device, self.loading.num_workers, progress)
        return kept[hybrid]
