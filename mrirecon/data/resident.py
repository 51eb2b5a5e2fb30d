"""Keeps a data set in the memory of one device and gathers batches there, without workers."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from math import prod
from typing import Any, NamedTuple

import torch
from rich import filesize
from torch import Tensor
from torch.utils.data import DataLoader

from mrirecon.data.batches import ShapeBatches
from mrirecon.data.sources import Draw, MaskedSlices, Source
from mrirecon.errors import ConfigError
from mrirecon.physics.sample import HybridSlice, Slice
from mrirecon.physics.zero_filled import to_hybrid
from mrirecon.system.memory import free_memory

_AHEAD = 8
"""Batches whose masks are drawn while the device computes."""


class _Group(NamedTuple):
    """The slices of one shape."""

    kspace: Tensor  # complex64 (slice coil h|y w)
    target: Tensor  # float32 (slice y x)
    size: Tensor  # int64 (slice 2)
    data_range: Tensor  # float32 (slice)
    slice_num: Tensor  # int64 (slice)


class Resident:
    """The slices of a source in the memory of a device.

    hybrid: keep them in hybrid space, which is half the size and all that masks of columns and a model of the image
    need. num_workers: processes that read. progress: called with (done, total) slices.
    Raises ConfigError with the sizes where the memory does not suffice.
    """

    def __init__(
        self,
        source: Source,
        hybrid: bool,
        device: torch.device,
        num_workers: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self.device = device
        self.slice_type = HybridSlice if hybrid else source.reader.slice_type
        shapes = [_kept_shape(source, item, hybrid) for item in range(len(source))]
        _need_memory(sum(map(_num_bytes, shapes)), device)
        items: dict[tuple[int, ...], list[int]] = defaultdict(list)
        self.place: list[tuple[tuple[int, ...], int]] = []  # of each slice: its group, and its number there
        for item, shape in enumerate(shapes):
            self.place.append((shape, len(items[shape])))
            items[shape].append(item)
        self.groups = {shape: _empty(shape, len(members), device) for shape, members in items.items()}
        loader: DataLoader[Slice] = DataLoader(source, batch_size=None, num_workers=num_workers)  # type: ignore[arg-type]
        for item, read in enumerate(loader):
            self._keep(item, read)
            progress(item + 1, len(source))

    def _keep(self, item: int, read: Slice) -> None:
        shape, number = self.place[item]
        group, kspace = self.groups[shape], read.kspace.to(self.device)
        if self.slice_type is HybridSlice and not isinstance(read, HybridSlice):
            kspace = to_hybrid(kspace, shape[1])
        group.kspace[number] = kspace
        assert read.target is not None
        for kept, value in zip(group[1:], (read.target, read.size, read.data_range, read.slice_num), strict=True):
            kept[number] = value

    def gather(self, items: Sequence[int], **drawn: Any) -> Slice:
        """A batch of slices of one shape on the device, with the fields that were drawn for it."""
        group = self.groups[self.place[items[0]][0]]
        rows = self._sent(torch.tensor([self.place[item][1] for item in items]))
        fields: dict[str, Any] = {
            name: None if values is None else self._sent(values) for name, values in drawn.items()
        }
        return self.slice_type(
            kspace=group.kspace[rows],
            target=group.target[rows],
            size=group.size[rows],
            data_range=group.data_range[rows],
            slice_num=group.slice_num[rows],
            **fields,
        )

    def _sent(self, values: Tensor) -> Tensor:
        """A small tensor on the device, without waiting for what the device is doing."""
        if self.device.type == "cuda":
            return values.pin_memory().to(self.device, non_blocking=True)
        return values


class ResidentLoader:
    """Batches of a resident data set, in the place of a DataLoader. Masks are those that workers would have drawn.

    They are drawn some batches ahead in a thread, so that the device does not wait for them.
    """

    def __init__(self, resident: Resident, dataset: MaskedSlices, batches: ShapeBatches) -> None:
        self.resident = resident
        self.dataset = dataset
        self.batch_sampler = batches  # Lightning sets the epoch on its `sampler`

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Slice]:
        with ThreadPoolExecutor(1) as thread:
            draws = iter(self.batch_sampler)
            ahead: deque[Future[Slice]] = deque(thread.submit(self._batch, some) for some in islice(draws, _AHEAD))
            try:
                while ahead:
                    batch = ahead.popleft().result()
                    ahead.extend(thread.submit(self._batch, some) for some in islice(draws, 1))
                    yield batch
            finally:
                for future in ahead:
                    future.cancel()

    def _batch(self, draws: Sequence[Draw]) -> Slice:
        cases = [(*self.dataset.split(draw.item), draw.epoch) for draw in draws]
        drawn = [self.dataset.drawn(*case) for case in cases]
        stacked = {key: None if drawn[0][key] is None else torch.stack([one[key] for one in drawn]) for key in drawn[0]}
        volumes = [self.dataset.number(name, self.dataset.source.where(item)[1]) for name, item, _ in cases]
        return self.resident.gather([item for _, item, _ in cases], volume=torch.tensor(volumes), **stacked)


def _kept_shape(source: Source, item: int, hybrid: bool) -> tuple[int, ...]:
    """(coil, h|y, w, y, x) of a slice as it is kept."""
    num_coils, h, w, y, x = source.shape(item)
    return num_coils, y if hybrid else h, w, y, x


def _num_bytes(shape: tuple[int, ...]) -> int:
    return 8 * prod(shape[:3]) + 4 * prod(shape[3:])


def _empty(shape: tuple[int, ...], num_slices: int, device: torch.device) -> _Group:
    return _Group(
        torch.empty(num_slices, *shape[:3], dtype=torch.complex64, device=device),
        torch.empty(num_slices, *shape[3:], device=device),
        torch.empty(num_slices, 2, dtype=torch.int64, device=device),
        torch.empty(num_slices, device=device),
        torch.empty(num_slices, dtype=torch.int64, device=device),
    )


def _need_memory(needed: int, device: torch.device) -> None:
    free = free_memory(device)
    if needed > free:
        raise ConfigError(
            f"data.resident=true: the data needs {filesize.decimal(needed)} on {device}, which has "
            f"{filesize.decimal(free)} free: choose less of it (data.volume_sample_rate, data.acquisitions), or leave "
            "data.resident out and give data.prepared"
        )
