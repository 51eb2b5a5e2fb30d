"""Reads volumes in the fastMRI layout (HDF5): finds, describes and checks them."""

from pathlib import Path

import numpy as np
from h5py import h5t
from numpy.typing import NDArray

from mrirecon.errors import ConfigError, InputError
from mrirecon.io.hdf5 import contiguous
from mrirecon.io.hdf5 import open as hdf5
from mrirecon.io.hdf5.checks import Stored
from mrirecon.io.hdf5.contiguous import Array
from mrirecon.io.probe import Probe
from mrirecon.io.raw.fastmri_header import LAYOUTS, describe
from mrirecon.io.raw.fastmri_header import Challenge as Challenge
from mrirecon.io.scan import Scan, ScanInfo

_KSPACE, _TARGET = np.dtype(np.complex64), np.dtype(np.float32)
# Numbers looked at in one go: their bytes and the verdicts on them stay in the processor's cache.
_AT_ONCE = 1 << 18

# Finding and describing volumes


def list_volumes(folder: Path) -> tuple[list[Path], int]:
    """The `*.h5` of a folder, sorted, and how many other entries it has.  Raises InputError where there are none.

    Hidden files are others: they are what a copying program or a killed writer left.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with *.h5 volumes; {_what_is_there(folder)}. Correct the path")
    entries = sorted(folder.iterdir())
    volumes = [entry for entry in entries if entry.suffix == ".h5" and not entry.name.startswith(".")]
    if not volumes:
        raise InputError(
            f"{folder}: expected *.h5 volumes, found none among its {len(entries)} entries "
            f"({[entry.name for entry in entries[:10]]}). Correct the path, or put the volumes there"
        )
    return volumes, len(entries) - len(volumes)


def recognise(probe: Probe) -> bool:
    """Whether this is HDF5 with something called `kspace`, of whatever kind."""
    h5file = probe.hdf5
    return h5file is not None and h5file.id.links.exists(b"kspace")


def inspect(path: Path, challenge: Challenge | None = None) -> ScanInfo:
    """A volume's description, without reading a value of its k-space.

    `challenge` says what the volume has to be; None takes what it is. A file's other target is never used instead: a
    volume without its own has none. Raises InputError.
    """
    if challenge is not None and challenge not in LAYOUTS:
        raise ConfigError(f"challenge: expected one of {[*LAYOUTS]} or null, got {challenge!r}. Correct it")
    with hdf5.open_untrusted(path) as h5file:
        info = describe(h5file)
    if challenge is not None:
        need_challenge(info, challenge)
    return info


def need_challenge(info: ScanInfo, challenge: Challenge) -> None:
    """Raises InputError where a volume is single-coil and should be multi-coil, or the other way round."""
    found = info.fastmri_challenge
    if found != challenge:
        raise InputError(
            f"{info.path}: expected {challenge} k-space {LAYOUTS[challenge].axes}, but its shape {_shape(info)} is "
            f"{found}. Choose data=fastmri_{found} (data.challenge={found}), or give {challenge} volumes"
        )


def target_name(info: ScanInfo) -> str:
    """The data set that holds the target of such a volume, whether it is there or not."""
    return LAYOUTS[_challenge(info)].target


# Reading values


def read_slice(info: ScanInfo, i: int) -> tuple[NDArray[np.complex64], NDArray[np.float32] | None]:
    """K-space and target of slice `i`, all values finite.  -> (coil h w), (y x) or None

    Raises InputError naming file and slice.
    """
    arrays = _arrays(info)
    values = contiguous.read_slice(info.path, arrays, i)
    if values is None:
        values = _read_slice_anew(info, arrays, i)
    for array, slice_values in zip(arrays, values, strict=True):
        _need_finite(info, array, i, slice_values)
    kspace = values[0].reshape(info.num_coils, *info.kspace_size)
    return kspace, None if info.target is None else values[1]


def read(path: Path, challenge: Challenge | None = None) -> Scan:
    """The whole volume in memory, all values finite.  Raises InputError."""
    info = inspect(path, challenge)
    with hdf5.open_untrusted(path) as h5file:
        kspace, *target = [_finite_volume(h5file, info, array) for array in _arrays(info)]
    shape = (info.num_slices, info.num_coils, *info.kspace_size)
    return Scan(info, kspace.reshape(shape), target[0] if target else None)


def check_values(info: ScanInfo) -> float | None:
    """Reads every value, a slice at a time; gives the maximum of the target volume, None without target.

    Raises InputError naming file and slice where a value is not finite.
    """
    kspace, *target = _arrays(info)
    with hdf5.open_untrusted(info.path) as h5file:
        for i in range(info.num_slices):
            _finite_slice(h5file, info, kspace, i)
        return _maximum(h5file, info, target[0]) if target else None


def target_maximum(info: ScanInfo) -> float:
    """The maximum of the target volume, read a slice at a time; the volume must have one."""
    with hdf5.open_untrusted(info.path) as h5file:
        return _maximum(h5file, info, _arrays(info)[1])


def _arrays(info: ScanInfo) -> tuple[Array, ...]:
    """The k-space and, where there is one, the target, as they lie in the file."""
    kspace = Array("kspace", _shape(info), _KSPACE)
    if info.target is None:
        return (kspace,)
    return kspace, Array(target_name(info), (info.num_slices, *info.target.size), _TARGET)


def _shape(info: ScanInfo) -> tuple[int, ...]:
    """The shape of the k-space in the file."""
    return info.num_slices, *((info.num_coils,) if _challenge(info) == "multicoil" else ()), *info.kspace_size


def _challenge(info: ScanInfo) -> Challenge:
    assert info.fastmri_challenge is not None, f"{info.path} is not in the fastMRI layout"
    return info.fastmri_challenge


def _maximum(h5file: hdf5.UntrustedFile, info: ScanInfo, target: Array) -> float:
    return max(float(_finite_slice(h5file, info, target, i).max()) for i in range(info.num_slices))


def _read_slice_anew(info: ScanInfo, arrays: tuple[Array, ...], i: int) -> list[np.ndarray]:
    """Slice `i` of each array through HDF5, with all checks; remembers where they lie for the next slice."""
    with hdf5.open_untrusted(info.path) as h5file:
        datasets = [_dataset(h5file, array) for array in arrays]
        values = [_read(h5file, array, dataset, i) for array, dataset in zip(arrays, datasets, strict=True)]
        pairs = zip(arrays, datasets, strict=True)
        offsets = [offset for array, dataset in pairs if (offset := _offset(array, dataset)) is not None]
        if len(offsets) == len(arrays):
            contiguous.remember(info.path, arrays, h5file.stat, offsets)
    return values


def _finite_volume(h5file: hdf5.UntrustedFile, info: ScanInfo, array: Array) -> np.ndarray:
    return np.stack([_finite_slice(h5file, info, array, i) for i in range(info.num_slices)])


def _finite_slice(h5file: hdf5.UntrustedFile, info: ScanInfo, array: Array, i: int) -> np.ndarray:
    values = _read(h5file, array, _dataset(h5file, array), i)
    _need_finite(info, array, i, values)
    return values


def _dataset(h5file: hdf5.UntrustedFile, array: Array) -> Stored:
    dataset = hdf5.array(h5file, array.name, array.dtype.kind)
    if dataset is None or dataset.shape != array.shape:
        came = "is gone" if dataset is None else f"has shape {dataset.shape}"
        raise InputError(
            f"{h5file.path}: `{array.name}` had shape {array.shape} and now {came}: the file was changed. Start again"
        )
    return dataset


def _read(h5file: hdf5.UntrustedFile, array: Array, dataset: Stored, i: int) -> np.ndarray:
    try:
        values = dataset.read(i)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{h5file.path}: slice {i} of `{array.name}` cannot be read ({error}). The file is damaged: copy it again"
        ) from error
    # A double too large for a float becomes Inf, and is refused as such.
    with np.errstate(over="ignore"):
        return np.asarray(values, array.dtype)


def _offset(array: Array, dataset: Stored) -> int | None:
    """Where the values begin, if they lie there as they are in memory: in one piece, of the same type."""
    # HDF5 tells an offset of contiguous data only.
    return dataset.id.get_offset() if dataset.id.get_type() == h5t.py_create(array.dtype) else None


def _need_finite(info: ScanInfo, array: Array, i: int, values: np.ndarray) -> None:
    numbers = values.reshape(-1).view(np.float32)
    if not all(np.isfinite(numbers[start : start + _AT_ONCE]).all() for start in range(0, numbers.size, _AT_ONCE)):
        raise InputError(
            f"{info.path}: slice {i} of `{array.name}`: expected finite numbers, found NaN or Inf in {array.dtype}. "
            "Repair the slice, or leave the volume out"
        )


def _what_is_there(folder: Path) -> str:
    """What a mistyped folder could have meant: the folders of the nearest parent that exists."""
    if folder.exists():
        return "it is a file"
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    folders = sorted(entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return f"there is none; {parent} has the folders {folders[:20]}"
