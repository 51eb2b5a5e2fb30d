"""A folder of scans as Lightning's loaders: checked before the first step, undersampled on the device."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
from fastmri.data.subsample import MaskFunc
from torch.utils.data import DataLoader

from mrirecon.data.batches import ShapeBatches
from mrirecon.data.masks import check_budget, draw_mask, volume_seed
from mrirecon.data.phantom_set import PhantomSet
from mrirecon.data.sample import Sample, Slice, undersample
from mrirecon.data.sources import FastmriSource, MaskedSlices, image_size
from mrirecon.errors import ConfigError, InputError
from mrirecon.io import fastmri
from mrirecon.io.scan import ScanInfo

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
CHALLENGES = ("singlecoil", "multicoil")
CHECKS = ("full", "headers")


class ReconDataModule(pl.LightningDataModule):
    """The official folder layout, `root/{singlecoil,multicoil}_{train,val,test}/*.h5`.

    root: the folder above the splits. challenge: singlecoil or multicoil.
    mask: one of fastMRI's mask classes; None where every scan brings its own mask.
    batch_size: slices; a batch holds one k-space shape. num_workers: processes that read.
    check: "full" looks for NaN and Inf in every value before the first step; "headers" only when a slice is read.
    split: what evaluation scores, val or test; only this folder need exist for it.
    seed: of shuffling and of training masks.
    phantom: the phantom set to write to `root` first, where it is not there yet; None for data of your own.
    progress: called with (what, done, total) while the data is written and checked.

    Raises ConfigError for settings that cannot work, InputError for data that cannot be used, both in `setup`.
    """

    def __init__(
        self,
        root: str,
        challenge: str,
        mask: MaskFunc | None,
        batch_size: int,
        num_workers: int,
        check: str,
        split: str,
        seed: int,
        phantom: PhantomSet | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        _one_of("data.challenge", challenge, CHALLENGES)
        _one_of("data.check", check, CHECKS)
        _one_of("split", split, ("val", "test"))
        if batch_size < 1 or num_workers < 0:
            raise ConfigError(
                f"data.batch_size={batch_size} and data.num_workers={num_workers}: expected at least 1 and at least 0"
            )
        self.root, self.mask = Path(root), mask
        self.challenge = cast(fastmri.Challenge, challenge)
        self.batch_size, self.num_workers, self.check = batch_size, num_workers, check
        self.split, self.seed, self.phantom = split, seed, phantom
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.sets: dict[str, MaskedSlices] = {}

    def prepare_data(self) -> None:
        """Writes the phantom set where it is asked for and not there."""
        if self.phantom is not None:
            self.phantom.write(self.root, lambda done, total: self.progress("Writing the phantom set", done, total))

    def setup(self, stage: str) -> None:
        """Opens and checks the splits of a stage (fit, validate, test), once."""
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": (self.split,)}[stage]
        for split in wanted:
            if split not in self.sets:
                self.sets[split] = self._open(split)

    def _open(self, split: str) -> MaskedSlices:
        folder = self.root / f"{self.challenge}_{split}"
        paths, num_ignored = fastmri.list_volumes(folder)
        if num_ignored:
            log.info("%s: %d other files and folders ignored", folder, num_ignored)
        infos, ranges = [], []
        for done, path in enumerate(paths):
            info = fastmri.inspect(path, self.challenge)
            infos.append(info)
            ranges.append(self._check_volume(info, exact_range=split != "train"))
            self.progress(f"Checking {folder.name}", done + 1, len(paths))
        dataset = MaskedSlices(FastmriSource(infos, ranges), self.mask, seed=self.seed if split == "train" else None)
        for info in {info.kspace_size[1]: info for info in infos if info.mask is None}.values():
            self._check_mask(info)
        log.info("%s: %d volumes, %d slices", folder, len(infos), len(dataset))
        return dataset

    def _check_volume(self, info: ScanInfo, exact_range: bool) -> float:
        """The maximum of the target volume; everything that would stop a run later is refused here."""
        for note in info.notes:
            log.warning("%s: %s", info.path, note)
        if info.target is None:
            raise InputError(
                f"{info.path}: has no target ({'reconstruction_rss' if info.is_multicoil else 'reconstruction_esc'}), "
                "which training and scores need; scans without one can be reconstructed with scripts/reconstruct.py"
            )
        measured = fastmri.check_values(info) if self.check == "full" else None
        if measured is None and (exact_range or info.maximum is None):
            measured = fastmri.target_maximum(info)
        if measured is None:
            assert info.maximum is not None
            return info.maximum
        if info.maximum is not None and abs(info.maximum - measured) > 1e-4 * abs(measured):
            log.warning(
                "%s: its attribute max is %g, but its target's maximum is %g; the target's is used",
                info.path, info.maximum, measured,
            )  # fmt: skip
        return measured

    def _check_mask(self, info: ScanInfo) -> None:
        if self.mask is None:
            raise ConfigError(
                f"{info.path}: is fully sampled and has no mask of its own: choose one with mask=random_4x"
            )
        num_cols = info.kspace_size[1]
        try:
            check_budget(self.mask, num_cols)
            mask, _ = draw_mask(self.mask, num_cols, volume_seed(info.name))
        except (ValueError, ArithmeticError, IndexError) as error:
            raise ConfigError(f"{info.path}: with its {num_cols} columns: {error}") from error
        if not mask.any():
            raise ConfigError(f"{info.path}: mask samples none of its {num_cols} columns: choose another mask")

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


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value!r}: expected one of {', '.join(choices)}")
