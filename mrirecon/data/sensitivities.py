"""Coil sensitivities of slices: estimated once on the device, kept in memory and on disk, keyed by content.

The name of a kept map is a digest of all it depends on: the values of the fully sampled centre, the shape, the settings
of the estimate. So a changed file, another mask or a disturbed measurement has other maps, and none is ever stale; the
folder may be removed at any time.
"""

import logging
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrirecon.physics.sample import Measurement, Slice
from mrirecon.system.atomic import write_whole
from mrirecon.system.memory import free_memory

log = logging.getLogger(__name__)

Estimate = Callable[[Measurement], Tensor]

VERSION = 1
"""Raise it when the same centre gives other maps: those that were kept are then not found."""

FOLDER = "sensitivities"
_SHARE_OF_MEMORY = 0.25


class Sensitivities:
    """Estimates and keeps the maps of slices.

    folder: where they are kept, made at the first map; None keeps them in memory alone, the latest as far as a quarter
    of the free memory takes them.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._num_bytes = 0
        self._most_bytes: int | None = None

    def of(self, batch: Slice, measurement: Measurement, estimate: Estimate) -> Tensor:
        """The maps of a batch, in the form of the measurement's k-space.  -> complex64 (b coil h|y w)

        batch: what the measurement was made of. Raises InputError where the centre of k-space was not sampled.
        """
        names = [_digest(batch, measurement, estimate, row) for row in range(len(batch.kspace))]
        found = {name: maps for name in names if (maps := self._find(name)) is not None}
        missing = [row for row, name in enumerate(names) if name not in found]
        if missing:
            some = measurement._replace(
                kspace=None if measurement.kspace is None else measurement.kspace[missing],
                mask=measurement.mask[missing],
                acs_mask=measurement.acs_mask[missing],
            )
            for row, maps in zip(missing, estimate(some), strict=True):
                found[names[row]] = maps
                self._keep(names[row], maps)
        return torch.stack([found[name].to(batch.kspace.device) for name in names])

    def _find(self, name: str) -> Tensor | None:
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        return None if self.folder is None else _read(self._path(self.folder, name))

    def _keep(self, name: str, maps: Tensor) -> None:
        if self.folder is not None:
            try:
                _write(self._path(self.folder, name), maps)
                return
            except OSError as error:
                log.warning("%s: sensitivities cannot be kept: %s; they stay in memory", self.folder, error.strerror)
                self.folder = None
        if self._most_bytes is None:
            self._most_bytes = int(_SHARE_OF_MEMORY * free_memory(maps.device))
        self._kept[name] = maps
        self._num_bytes += maps.nbytes
        while self._num_bytes > self._most_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.nbytes

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / name[:2] / f"{name}.npz"


def _digest(batch: Slice, measurement: Measurement, estimate: Estimate, row: int) -> str:
    """What the maps of one slice depend on: values in the units of the file, so that no other mask changes a bit."""
    acs_mask = batch.acs_mask[row, 0]
    columns = acs_mask.any(dim=0)
    centre = batch.kspace[row][..., columns].contiguous().cpu().numpy()
    shape = (tuple(batch.kspace.shape[1:]), measurement.size, measurement.readout, type(batch).__name__)
    digest = blake2b(repr((VERSION, shape, estimate)).encode(), digest_size=20)
    digest.update(np.packbits(acs_mask.cpu().numpy()).tobytes())
    digest.update(centre.tobytes())
    return digest.hexdigest()


def _write(path: Path, maps: Tensor) -> None:
    buffer = BytesIO()
    np.savez(buffer, maps=maps.cpu().numpy())  # a zip file has a checksum of its content
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue())


def _read(path: Path) -> Tensor | None:
    """None where there are none; damaged ones are estimated again, and reported."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return torch.from_numpy(content["maps"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s: is damaged (%s): the sensitivities are estimated again", path, error)
        return None
