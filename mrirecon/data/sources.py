"""Where slices come from: `len(s)`, `s[i] -> Slice`, `s.shape(i)`, `s.name(i)`, and the mask drawn over a source."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from mrirecon.data.masks import Masking, center_mask, contiguous_center, draw_mask, volume_seed
from mrirecon.data.sample import Slice
from mrirecon.errors import InputError
from mrirecon.io import fastmri
from mrirecon.io.scan import ScanInfo
from mrirecon.physics.crop import center_crop, cropped_size


class FastmriSource:
    """The slices of some volumes in the fastMRI layout; the mask of each is what was acquired.

    data_ranges: per volume, the maximum of its target volume. slices: the numbers, in the order of all slices, of those
    that take part; None is all.
    """

    def __init__(
        self, volumes: Sequence[ScanInfo], data_ranges: Sequence[float], slices: Sequence[int] | None = None
    ) -> None:
        self.volumes = list(volumes)
        self.data_ranges = list(data_ranges)
        counts = [info.num_slices for info in self.volumes]
        self._volume = np.repeat(np.arange(len(counts)), counts)
        self._slice = np.concatenate([np.arange(count) for count in counts]) if counts else np.empty(0, dtype=int)
        if slices is not None:
            self._volume, self._slice = self._volume[slices], self._slice[slices]
        names = Counter(info.name for info in self.volumes)
        self._repeated = {name for name, count in names.items() if count > 1}

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
        return info.num_coils, *info.kspace_size, *image_size(info)

    def __getitem__(self, index: int) -> Slice:
        info, volume, slice_num = self.where(index)
        kspace, target = fastmri.read_slice(info, slice_num)
        if target is None:
            raise InputError(f"{info.path}: has no target to train against or to score with")
        mask, acs_mask = acquired_mask(info)
        return Slice(
            kspace=torch.from_numpy(kspace),
            mask=torch.from_numpy(mask)[None, None],
            acs_mask=torch.from_numpy(acs_mask)[None, None],
            target=center_crop(torch.from_numpy(target), image_size(info)),
            data_range=torch.tensor(self.data_ranges[volume], dtype=torch.float32),
            volume=torch.tensor(volume),
            slice_num=torch.tensor(slice_num),
        )


def image_size(info: ScanInfo) -> tuple[int, int]:
    """The size at which a scan is reconstructed and scored: its target's, less where its k-space is narrower."""
    return cropped_size(info.kspace_size, info.recon_size)


def acquired_mask(info: ScanInfo) -> tuple[np.ndarray, np.ndarray]:
    """The columns a scan acquired and the unbroken run of them in the middle.  -> bool (w), bool (w)"""
    left, right = info.acquired
    columns = np.arange(info.kspace_size[1])
    mask = (columns >= left) & (columns < right)
    if info.mask is None:
        return mask, mask
    mask = mask & info.mask
    if info.num_low_frequency is None:
        return mask, contiguous_center(mask)
    return mask, mask & center_mask(len(mask), info.num_low_frequency)


def joined_mask(info: ScanInfo, mask_func: Masking | None, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A drawn mask joined with what was acquired, and its centre; a scan's own mask is kept.  -> bool (w), bool (w)"""
    acquired, center = acquired_mask(info)
    if info.mask is not None or mask_func is None:
        return acquired, center
    mask, acs_mask = draw_mask(mask_func, info.kspace_size[1], seed)
    return mask & acquired, acs_mask & acquired


def effective_acceleration(info: ScanInfo, mask: np.ndarray) -> float:
    """Columns that could be acquired per column sampled.  bool (w)"""
    left, right = info.acquired
    return (right - left) / max(1, int(mask.sum()))


class Draw(NamedTuple):
    """One slice to read, and the epoch its mask is drawn for."""

    item: int  # of the source
    epoch: int


class MaskedSlices(Dataset[Slice]):
    """A source with a mask drawn over every fully sampled slice; a scan that brings its own mask keeps it.

    seed: None draws one mask per volume from its name, the same in every epoch and everywhere, as evaluation needs;
    a number draws a new one for every (seed, epoch, volume, slice), whatever the order, workers or ranks.
    fixed: the epoch does not count, so that a slice has one mask for the whole training.
    """

    def __init__(self, source: FastmriSource, mask_func: Masking | None, seed: int | None, fixed: bool = False) -> None:
        self.source = source
        self.mask_func = mask_func
        self.seed = seed
        self.fixed = fixed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: Draw) -> Slice:
        read = self.source[draw.item]
        info, volume, slice_num = self.source.where(draw.item)
        mask, acs_mask = self.masks(info, (0 if self.fixed else draw.epoch, volume, slice_num))
        return read._replace(mask=torch.from_numpy(mask)[None, None], acs_mask=torch.from_numpy(acs_mask)[None, None])

    def masks(self, info: ScanInfo, counter: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The mask of a slice, joined with what was acquired, and its centre.  -> bool (w), bool (w)"""
        return joined_mask(info, self.mask_func, volume_seed(info.name) if self.seed is None else (self.seed, *counter))

    def acceleration(self, info: ScanInfo) -> float:
        """The effective acceleration of a volume whose mask is drawn from its name."""
        mask, _ = self.masks(info, (0, 0, 0))
        return effective_acceleration(info, mask)
