"""Writes the fastMRI layout (HDF5): volumes, and reconstructions of volumes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrirecon.errors import ConfigError
from mrirecon.system.atomic import replacing

# Bytes that HDF5 adds to the arrays, at most: a write must find them free, too.
_OVERHEAD = 64 * 1024


def write_volume(
    path: Path,
    kspace: np.ndarray,
    targets: Mapping[str, np.ndarray],
    *,
    acquisition: str,
    patient_id: str,
    recon_size: tuple[int, int],
    mask: np.ndarray | None = None,
    extra_attrs: Mapping[str, Any] | None = None,
    header: str | None = None,
) -> None:
    """Writes one volume in the fastMRI layout, uncompressed; a file of that name is replaced.

    `kspace` is (slice h w) for single-coil or (slice coil h w) for multi-coil data; `targets` maps
    `reconstruction_esc` or `reconstruction_rss` to (slice y x), the first one giving the attributes `max` and `norm`;
    `recon_size` is (y, x); `mask` is (w,); `header` is the scan's own ISMRMRD header, None writes what fastMRI reads.
    """
    arrays = {"kspace": np.asarray(kspace, np.complex64)}
    arrays |= {name: np.asarray(target, np.float32) for name, target in targets.items()}
    if mask is not None:
        arrays["mask"] = np.asarray(mask, bool)
    attrs = {"acquisition": acquisition, "patient_id": patient_id, **(extra_attrs or {})}
    if targets:
        first = arrays[next(iter(targets))]
        attrs |= {"max": float(first.max()), "norm": float(np.linalg.norm(first))}
    header = header or header_xml(arrays["kspace"].shape[-2:], recon_size)
    _write(path, {"ismrmrd_header": header, **arrays}, attrs)


def write_reconstruction(path: Path, volume: np.ndarray, attrs: Mapping[str, Any]) -> None:
    """Writes a reconstructed volume as the data set `reconstruction`, float32.  (slice y x)

    Raises ConfigError rather than replace a file.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path}: expected a new file, but it exists and is kept. Choose another output folder")
    _write(path, {"reconstruction": np.asarray(volume, np.float32)}, attrs)


def _write(path: Path, datasets: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
    num_bytes = sum(data.nbytes if isinstance(data, np.ndarray) else len(data) for data in datasets.values())
    with _atomic_writer(path, num_bytes) as h5file:
        for name, data in datasets.items():
            h5file.create_dataset(name, data=data)
        h5file.attrs.update(attrs)


@contextmanager
def _atomic_writer(path: Path, num_bytes: int) -> Iterator[h5py.File]:
    """A new HDF5 file that gets its final name only when it is complete and on disk.

    `num_bytes` is the size of the arrays to come. Raises OSError (ENOSPC) before anything is written where the disk
    cannot hold them. A process killed midway leaves a hidden `.*.tmp` file at most, which no reader takes for a volume.
    """
    with replacing(path, num_bytes + _OVERHEAD) as temporary, h5py.File(temporary, "x") as h5file:
        yield h5file


def header_xml(kspace_size: tuple[int, ...], recon_size: tuple[int, int]) -> str:
    """The part of an ISMRMRD header that fastMRI reads; x is the readout, y the phase encoding."""
    (h, w), (y, x) = kspace_size, recon_size
    return (
        '<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        f"<trajectory>cartesian</trajectory>{_space_xml('encodedSpace', h, w)}{_space_xml('reconSpace', y, x)}"
        f"<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{w - 1}</maximum>"
        f"<center>{w // 2}</center></kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"
    )


def _space_xml(tag: str, x: int, y: int) -> str:
    return f"<{tag}><matrixSize><x>{x}</x><y>{y}</y><z>1</z></matrixSize></{tag}>"
