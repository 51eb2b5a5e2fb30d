"""Sources of slices, `len(s)`, `s[i] -> Slice`, `s.shape(i)`, `s.name(i)`, and the masks drawn over them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch.utils.data import Dataset

from mrirecon.data.augmentation import IDENTITY, Augmentation
from mrirecon.errors import InputError
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import ScanInfo
from mrirecon.physics.crop import center_crop
from mrirecon.physics.sample import Slice
from mrirecon.sampling.acquired import Sampling, acquired, drawn, image_size
from mrirecon.sampling.masks import Masking, contiguous_center, is_2d, volume_seed
from mrirecon.sampling.splitting import Splitting


class Reader(Protocol):
    """How the slices of a volume are read."""

    slice_type: type[Slice]

    def size(self, info: ScanInfo) -> tuple[int, int]:
        """The last two axes of what is read as `kspace`."""

    def read(self, info: ScanInfo, slice_num: int) -> tuple[np.ndarray, np.ndarray | None]:
        """One slice.  -> complex64 (coil h w), float32 (y x) or None where the scan has no target"""


class Condition(Protocol):
    """A disturbance of a measurement, applied to k-space or hybrid space before any mask."""

    @property
    def name(self) -> str:
        """A few words, the same for every volume."""

    @property
    def meaning(self) -> str:
        """What is done, with the unit of its number."""

    def check(self, info: ScanInfo) -> None:
        """Raises ConfigError where it cannot be done to that volume."""

    def __call__(self, kspace: np.ndarray, info: ScanInfo, slice_num: int, data_range: float) -> np.ndarray:
        """The same for the same slice, always.  complex64 (coil h|y w) -> complex64 (coil h|y w)"""


class FastmriReader:
    """Reads k-space from files in the fastMRI layout."""

    slice_type: type[Slice] = Slice

    def size(self, info: ScanInfo) -> tuple[int, int]:
        """(h, w)"""
        return info.kspace_size

    def read(self, info: ScanInfo, slice_num: int) -> tuple[np.ndarray, np.ndarray | None]:
        """One slice, every value finite.  Raises InputError."""
        return fastmri.read_slice(info, slice_num)


class Source:
    """The slices of some volumes; the mask of each is what was acquired.

    data_ranges: per volume, the maximum of its target volume. slices: the numbers, in the order of all slices, of those
    that take part; None is all. needs_target: refuse a volume without a target.
    """

    def __init__(
        self,
        volumes: Sequence[ScanInfo],
        data_ranges: Sequence[float],
        slices: Sequence[int] | None = None,
        reader: Reader | None = None,
        needs_target: bool = True,
    ) -> None:
        self.volumes = list(volumes)
        self.data_ranges = list(data_ranges)
        self.reader: Reader = reader or FastmriReader()
        self.needs_target = needs_target
        self.condition: Condition | None = None
        counts = [info.num_slices for info in self.volumes]
        self._volume = np.repeat(np.arange(len(counts)), counts)
        self._slice = np.concatenate([np.arange(count) for count in counts]) if counts else np.empty(0, dtype=int)
        if slices is not None:
            self._volume, self._slice = self._volume[slices], self._slice[slices]
        names = Counter(info.name for info in self.volumes)
        self._repeated = {name for name, count in names.items() if count > 1}

    def under(self, condition: Condition | None) -> Self:
        """The same slices under a condition; None reads them as they are."""
        other = copy(self)
        other.condition = condition
        return other

    def __len__(self) -> int:
        return len(self._volume)

    def where(self, index: int) -> tuple[ScanInfo, int, int]:
        """The volume, its number and the slice number of a slice of this source."""
        volume = int(self._volume[index])
        return self.volumes[volume], volume, int(self._slice[index])

    def name(self, index: int) -> str:
        """The file name and slice number, for messages."""
        info, _, slice_num = self.where(index)
        return f"{self.label(info)} slice {slice_num}"

    def folder(self, info: ScanInfo) -> str | None:
        """The folder of a volume whose name another one has, too; None where the name is enough."""
        return str(info.path.parent) if info.name in self._repeated else None

    def label(self, info: ScanInfo) -> str:
        """A volume's name, with its folder where another one has the same name."""
        return str(info.path) if info.name in self._repeated else info.name

    def shape(self, index: int) -> tuple[int, ...]:
        """What slices of one batch share: (coil, h, w, y, x)."""
        info, _, _ = self.where(index)
        return info.num_coils, *self.reader.size(info), *image_size(info)

    def __getitem__(self, index: int) -> Slice:
        info, volume, slice_num = self.where(index)
        kspace, target = self.reader.read(info, slice_num)
        if target is None and self.needs_target:
            raise InputError(f"{info.path}: has no target to train against or to score with")
        if self.condition is not None:
            kspace = self.condition(kspace, info, slice_num, self.data_ranges[volume])
        sampling, size = acquired(info), image_size(info)
        return self.reader.slice_type(
            kspace=torch.from_numpy(kspace),
            mask=torch.from_numpy(sampling.mask)[None],
            acs_mask=torch.from_numpy(sampling.acs_mask)[None],
            loss_mask=None,
            target=None if target is None else center_crop(torch.from_numpy(target), size),
            size=torch.tensor(size),
            data_range=torch.tensor(self.data_ranges[volume], dtype=torch.float32),
            volume=torch.tensor(volume),
            slice_num=torch.tensor(slice_num),
            affine=torch.from_numpy(IDENTITY),
        )


class Draw(NamedTuple):
    """One slice to read, and the epoch its mask is drawn for."""

    item: int  # of the data set
    epoch: int


class MaskedSlices(Dataset[Slice]):
    """A source with a mask drawn over every fully sampled slice; a scan that brings its own mask keeps it.

    masks: under each name a mask that every volume is given, so that a volume is there once for each; one mask has the
    name "". A `volume` of this data set is a volume under one of its masks.
    seed: None draws one mask per volume from its name, the same in every epoch and everywhere, as evaluation needs;
    a number draws a new one for every (seed, epoch, volume, slice), whatever the order, workers or ranks.
    fixed: the epoch does not count, so that a slice has one mask for the whole training.
    augmentation: moves the images of fully sampled scans, as drawn for every (seed, epoch, volume, slice), too.
    splitting: holds a part of each mask back from the model, as drawn for every (seed, epoch, volume, slice), too.
    """

    def __init__(
        self,
        source: Source,
        masks: Mapping[str, Masking | None],
        seed: int | None,
        fixed: bool = False,
        augmentation: Augmentation | None = None,
        splitting: Splitting | None = None,
    ) -> None:
        assert (augmentation is None and splitting is None) or seed is not None
        self.source = source
        self.masks = dict(masks)
        self.seed = seed
        self.fixed = fixed
        self.augmentation = augmentation
        self.splitting = splitting

    def under(self, condition: Condition | None) -> Self:
        """The same volumes and masks under a condition; None reads them as they are."""
        other = copy(self)
        other.source = self.source.under(condition)
        return other

    def __len__(self) -> int:
        return len(self.source) * len(self.masks)

    def __getitem__(self, draw: Draw) -> Slice:
        name, item = self.split(draw.item)
        read = self.source[item]
        number = self.number(name, int(read.volume))
        return read._replace(volume=torch.tensor(number), **self.drawn(name, item, draw.epoch))

    def drawn(self, name: str, item: int, epoch: int) -> dict[str, Any]:
        """What is drawn for a slice of the source: `mask`, `acs_mask`, `loss_mask` and `affine` of a `Slice`."""
        sampling = self.sampling(name, item, epoch)
        mask, acs_mask, loss_mask = sampling.mask, sampling.acs_mask, None
        if self.splitting is not None and self.seed is not None:
            info, volume, slice_num = self.source.where(item)
            seed = (self.seed, epoch, volume, slice_num)
            mask, held_back = self.splitting.draw(mask, info.kspace_size[0], seed)
            kept = contiguous_center(mask) if len(mask) == 1 else acs_mask & mask & self.splitting.centre(mask.shape)
            acs_mask, loss_mask = kept, torch.from_numpy(held_back)[None]
        return {
            "mask": torch.from_numpy(mask)[None],
            "acs_mask": torch.from_numpy(acs_mask)[None],
            "loss_mask": loss_mask,
            "affine": torch.from_numpy(self.affine(item, epoch)),
        }

    def split(self, item: int) -> tuple[str, int]:
        """The mask's name and the slice of the source that an item is."""
        return list(self.masks)[item // len(self.source)], item % len(self.source)

    def number(self, name: str, volume: int) -> int:
        """The number here of a volume of the source under a mask."""
        return list(self.masks).index(name) * len(self.source.volumes) + volume

    def volume(self, number: int) -> tuple[ScanInfo, str]:
        """The volume and the name of its mask."""
        volumes = self.source.volumes
        return volumes[number % len(volumes)], list(self.masks)[number // len(volumes)]

    def shape(self, item: int) -> tuple[int, ...]:
        """What items of one batch share: shape of the slice, whether its mask is a pattern, whether it has a target."""
        name, index = self.split(item)
        info, _, _ = self.source.where(index)
        own = info.mask
        pattern = self.has_points or (is_2d(self.masks[name]) if own is None else own.ndim == 2)
        return *self.source.shape(index), pattern, info.target is not None

    @property
    def has_points(self) -> bool:
        """Whether masks of columns become patterns in both directions."""
        return self.splitting is not None and self.splitting.unit == "points"

    def sampling(self, name: str, item: int, epoch: int) -> Sampling:
        """The sampling of a slice of the source, before anything is held back."""
        info, volume, slice_num = self.source.where(item)
        if self.seed is None:
            return self.volume_sampling(info, name)
        return drawn(info, self.masks[name], (self.seed, 0 if self.fixed else epoch, volume, slice_num))

    def affine(self, item: int, epoch: int) -> np.ndarray:
        """How the image of a slice of the source is moved.  -> float32 (2 3)"""
        info, volume, slice_num = self.source.where(item)
        if self.augmentation is None or self.seed is None or info.mask is not None:
            return IDENTITY
        return self.augmentation.draw((self.seed, epoch, volume, slice_num))

    def volume_sampling(self, info: ScanInfo, name: str) -> Sampling:
        """The sampling of a volume whose mask is drawn from its name."""
        return drawn(info, self.masks[name], volume_seed(info.name))
