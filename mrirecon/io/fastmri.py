"""The fastMRI HDF5 format: reading it without trusting it, and writing it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
import h5py
import numpy as np
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from mrirecon.errors import ConfigError, InputError
from mrirecon.io import hdf5
from mrirecon.io.scan import MIN_SIZE, Scan, ScanInfo

Challenge = Literal["singlecoil", "multicoil"]
# The rank of the k-space, its axes, and the target.
_LAYOUTS = {
    "singlecoil": (3, "(slice, h, w)", "reconstruction_esc"),
    "multicoil": (4, "(slice, coil, h, w)", "reconstruction_rss"),
}
_LIMITS = "{*}encodingLimits/{*}kspace_encoding_step_1/{*}"


# A header that asks for images so many times larger than its k-space is damaged or forged.
_MAX_GROWTH = 8


class _Header(NamedTuple):
    recon_size: tuple[int, int] | None
    acquired: tuple[int, int] | None


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


def inspect(path: Path, challenge: Challenge | None = None) -> ScanInfo:
    """A volume's description, without reading a value of its k-space.

    `challenge` says what the volume has to be; None takes what it is. A file's other target is never used instead: a
    volume without its own has none. Raises InputError.
    """
    if challenge is not None and challenge not in _LAYOUTS:
        raise ConfigError(f"challenge: expected one of {[*_LAYOUTS]} or null, got {challenge!r}. Correct it")
    with hdf5.open_untrusted(path) as h5file:
        info = _describe(path, h5file)
    if challenge is not None:
        need_challenge(info, challenge)
    return info


def need_challenge(info: ScanInfo, challenge: Challenge) -> None:
    """Raises InputError where a volume is single-coil and should be multi-coil, or the other way round."""
    layout = "multicoil" if info.is_multicoil else "singlecoil"
    if layout != challenge:
        raise InputError(
            f"{info.path}: expected {challenge} k-space {_LAYOUTS[challenge][1]}, but its shape {_shape(info)} is "
            f"{layout}. Choose data=fastmri_{layout} (data.challenge={layout}), or give {challenge} volumes"
        )


def target_name(info: ScanInfo) -> str:
    """The data set that holds the target of such a volume, whether it is there or not."""
    return _LAYOUTS["multicoil" if info.is_multicoil else "singlecoil"][2]


# Reading values


def read_slice(info: ScanInfo, i: int) -> tuple[NDArray[np.complex64], NDArray[np.float32] | None]:
    """K-space and target of slice `i`, all values finite.  -> (coil h w), (y x) or None

    Raises InputError naming file and slice.
    """
    with hdf5.open_untrusted(info.path) as h5file:
        return _kspace_slice(h5file, info, i), _target_slice(h5file, info, i) if info.target else None


def read(path: Path, challenge: Challenge | None = None) -> Scan:
    """The whole volume in memory, all values finite.  Raises InputError."""
    info = inspect(path, challenge)
    with hdf5.open_untrusted(path) as h5file:
        kspace = np.stack([_kspace_slice(h5file, info, i) for i in range(info.num_slices)])
        target = None
        if info.target:
            target = np.stack([_target_slice(h5file, info, i) for i in range(info.num_slices)])
    return Scan(info, kspace, target)


def check_values(info: ScanInfo) -> float | None:
    """Reads every value, a slice at a time; gives the maximum of the target volume, None without target.

    Raises InputError naming file and slice where a value is not finite.
    """
    with hdf5.open_untrusted(info.path) as h5file:
        for i in range(info.num_slices):
            _kspace_slice(h5file, info, i)
        return _target_maximum(h5file, info) if info.target else None


def target_maximum(info: ScanInfo) -> float:
    """The maximum of the target volume, read a slice at a time; the volume must have one."""
    with hdf5.open_untrusted(info.path) as h5file:
        return _target_maximum(h5file, info)


def _target_maximum(h5file: h5py.File, info: ScanInfo) -> float:
    return max(float(_target_slice(h5file, info, i).max()) for i in range(info.num_slices))


def _kspace_slice(h5file: h5py.File, info: ScanInfo, i: int) -> NDArray[np.complex64]:
    return _slice(h5file, info, "kspace", _shape(info), i, np.complex64).reshape(info.num_coils, *info.kspace_size)


def _shape(info: ScanInfo) -> tuple[int, ...]:
    """The shape of the k-space in the file."""
    return info.num_slices, *((info.num_coils,) if info.is_multicoil else ()), *info.kspace_size


def _target_slice(h5file: h5py.File, info: ScanInfo, i: int) -> NDArray[np.float32]:
    assert info.target is not None
    assert info.target_size is not None
    return _slice(h5file, info, info.target, (info.num_slices, *info.target_size), i, np.float32)


def _slice(h5file: h5py.File, info: ScanInfo, name: str, shape: tuple[int, ...], i: int, dtype: Any) -> np.ndarray:
    dataset = hdf5.array(h5file, name, np.dtype(dtype).kind)
    if dataset is None or dataset.shape != shape:
        came = "is gone" if dataset is None else f"has shape {dataset.shape}"
        raise InputError(f"{info.path}: `{name}` had shape {shape} and now {came}: the file was changed. Start again")
    # A double too large for a float becomes Inf, and is refused as such.
    with np.errstate(over="ignore"):
        values = np.asarray(_read(dataset, i, info.path), dtype)
    if not np.isfinite(values).all():
        raise InputError(
            f"{info.path}: slice {i} of `{name}`: expected finite numbers, found NaN or Inf in {np.dtype(dtype)}. "
            "Repair the slice, or leave the volume out"
        )
    return values


def _read(dataset: h5py.Dataset, i: int, path: Path) -> np.ndarray:
    try:
        return dataset[i]
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: slice {i} of `{dataset.name[1:]}` cannot be read ({error}). The file is damaged: copy it again"
        ) from error


# What a file says of itself


def _describe(path: Path, h5file: h5py.File) -> ScanInfo:
    notes: list[str] = []
    shape, layout = _kspace_shape(h5file)
    kspace_size = (shape[-2], shape[-1])
    target_size = _target_size(h5file, layout, shape, notes)
    header = _header_fields(h5file, kspace_size[1], notes)
    return ScanInfo(
        path=path,
        name=path.name,
        num_slices=shape[0],
        num_coils=shape[1] if len(shape) == 4 else 1,
        kspace_size=kspace_size,
        is_multicoil=layout == "multicoil",
        target=_LAYOUTS[layout][2] if target_size else None,
        target_size=target_size,
        recon_size=target_size or _recon_size(header, kspace_size, notes),
        acquired=header.acquired or (0, kspace_size[1]),
        mask=_mask(h5file, kspace_size[1]),
        num_low_frequency=_num_low_frequency(h5file, notes),
        acquisition=_acquisition(h5file, notes),
        maximum=_maximum(h5file, target_size is not None, notes),
        simulated=_simulated(h5file, notes),
        notes=tuple(notes),
    )


def _kspace_shape(h5file: h5py.File) -> tuple[tuple[int, ...], str]:
    """The shape of the k-space, and the layout that it is of."""
    axes = " or ".join(f"{axes} for {layout}" for layout, (_, axes, _) in _LAYOUTS.items())
    dataset = hdf5.array(h5file, "kspace", "c")
    if dataset is None:
        raise InputError(
            f"{h5file.filename}: expected a data set `kspace`, {axes}; the file has {hdf5.keys(h5file)}. "
            "Give a file in the fastMRI layout"
        )
    layout = next((name for name, (rank, *_) in _LAYOUTS.items() if rank == dataset.ndim), None)
    if layout is None:
        raise InputError(f"{h5file.filename}: expected `kspace` as {axes}; its shape is {dataset.shape}. Reshape it")
    _need_size(h5file, "kspace", dataset.shape[-2:])
    return dataset.shape, layout


def _need_size(h5file: h5py.File, name: str, size: tuple[int, ...]) -> None:
    if min(size) < MIN_SIZE:
        raise InputError(
            f"{h5file.filename}: `{name}`: expected images of at least {MIN_SIZE}x{MIN_SIZE} (the window of the SSIM), "
            f"but they are {size[0]}x{size[1]}. Leave the volume out"
        )


def _target_size(h5file: h5py.File, layout: str, kspace: tuple[int, ...], notes: list[str]) -> tuple[int, int] | None:
    """The size (y, x) of the layout's own target, or None where the file has none."""
    name = _LAYOUTS[layout][2]
    dataset = hdf5.array(h5file, name, "f")
    if dataset is None:
        others = [other for _, _, other in _LAYOUTS.values() if hdf5.child(h5file, other) is not None]
        notes += [f"`{other}` is not the target of {layout} data (`{name}` is) and is not used" for other in others]
        return None
    if dataset.ndim != 3 or dataset.shape[0] != kspace[0]:
        raise InputError(
            f"{h5file.filename}: expected `{name}` as (slice, y, x) with the {kspace[0]} slices of `kspace`, but its "
            f"shape is {dataset.shape}. Repair the file, or leave it out"
        )
    _need_size(h5file, name, dataset.shape[1:])
    _need_fit(h5file, name, dataset.shape[1:], kspace[-2:])
    return dataset.shape[1:]


def _need_fit(h5file: h5py.File, name: str, target: tuple[int, int], kspace: tuple[int, ...]) -> None:
    """Narrow FLAIR scans (203 columns) have a wider target: both are then cropped to a square as wide as the scan."""
    (y, x), (h, w) = target, kspace
    if y > h or (x > w and w > y):
        raise InputError(
            f"{h5file.filename}: `{name}`: expected images no larger than the k-space's {h}x{w}, but they are {y}x{x}. "
            "Repair the file (are the axes swapped?), or leave it out"
        )


def _mask(h5file: h5py.File, num_columns: int) -> NDArray[np.bool_] | None:
    dataset = hdf5.array(h5file, "mask", "biuf")
    if dataset is None:
        return None
    values = dataset[()] if dataset.shape == (num_columns,) else np.zeros(0)
    if not values.any() or not np.isin(values, (0, 1)).all():
        raise InputError(
            f"{h5file.filename}: expected `mask` to hold a 0 or 1, not all 0, for each of the {num_columns} columns; "
            f"it has shape {dataset.shape} or other values. Correct or remove it"
        )
    return values.astype(bool)


def _num_low_frequency(h5file: h5py.File, notes: list[str]) -> int | None:
    value = hdf5.attribute(h5file, "num_low_frequency")
    if value is None or (isinstance(value, int) and value >= 0):
        return value
    notes.append(f"the attribute `num_low_frequency` is {str(value)[:60]!r} and not a count: not used")
    return None


def _acquisition(h5file: h5py.File, notes: list[str]) -> str:
    value = hdf5.attribute(h5file, "acquisition")
    if isinstance(value, str) and value:
        return value[:200]
    notes.append("no attribute `acquisition`: counted as 'unknown'")
    return "unknown"


def _maximum(h5file: h5py.File, has_target: bool, notes: list[str]) -> float | None:
    value = hdf5.attribute(h5file, "max")
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    if has_target:
        came = "no attribute `max`" if value is None else f"the attribute `max` is {str(value)[:60]!r}"
        notes.append(f"{came}: the maximum has to be computed from the target")
    return None


def _simulated(h5file: h5py.File, notes: list[str]) -> bool:
    value = hdf5.attribute(h5file, "simulated")
    if value is None or value in (False, True):
        return bool(value)
    notes.append(f"the attribute `simulated` is {str(value)[:60]!r}, not true or false: counted as simulated")
    return True


# The ISMRMRD header


def _header_fields(h5file: h5py.File, num_columns: int, notes: list[str]) -> _Header:
    """What the header tells; a note for each thing that it does not."""
    encoding = _encoding(h5file)
    if encoding is None:
        notes.append("no readable `ismrmrd_header`: every column counts as acquired")
        return _Header(None, None)
    x, y = (_integer(encoding, f"{{*}}reconSpace/{{*}}matrixSize/{{*}}{axis}") for axis in "xy")
    recon_size = None if x is None or y is None or min(x, y) < MIN_SIZE else (x, y)
    return _Header(recon_size, _acquired(encoding, num_columns, notes))


def _encoding(h5file: h5py.File) -> Element | None:
    """The header's first encoding, or None.  Raises InputError where the XML declares a document type."""
    raw = hdf5.text(h5file, "ismrmrd_header")
    if raw is None:
        return None
    try:
        return defusedxml.ElementTree.fromstring(raw, forbid_dtd=True).find("{*}encoding")
    except DefusedXmlException as error:
        raise InputError(
            f"{h5file.filename}: `ismrmrd_header`: expected XML without a document type or entities, found them "
            f"({type(error).__name__}). They can exhaust the memory: remove them"
        ) from error
    except (ParseError, ValueError, LookupError):  # the last two: encodings that Python does not know
        return None


def _integer(encoding: Element, path: str) -> int | None:
    digits = (encoding.findtext(path) or "").strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def _acquired(encoding: Element, num_columns: int, notes: list[str]) -> tuple[int, int] | None:
    """fastMRI's `padding_left` and `padding_right`: no line outside them was measured."""
    encoded = _integer(encoding, "{*}encodedSpace/{*}matrixSize/{*}y")
    center, maximum = _integer(encoding, _LIMITS + "center"), _integer(encoding, _LIMITS + "maximum")
    if encoded is None or center is None or maximum is None:
        notes.append("`ismrmrd_header` does not tell the encoding limits: every column counts as acquired")
        return None
    left = encoded // 2 - center
    first, last = max(left, 0), min(left + maximum + 1, num_columns)
    if first >= last:
        notes.append(f"`ismrmrd_header` places the acquired columns at {first}:{last}: every column counts as acquired")
        return None
    return first, last


def _recon_size(header: _Header, kspace_size: tuple[int, int], notes: list[str]) -> tuple[int, int]:
    h, w = kspace_size
    if header.recon_size and max(header.recon_size) <= _MAX_GROWTH * max(h, w):
        return header.recon_size
    if header.recon_size:
        notes.append(f"the header's image size {header.recon_size} cannot be meant: images keep the k-space's, {h}x{w}")
        return h, w
    notes.append(f"neither a target nor the header tells the image size: images keep the k-space's own, {h}x{w}")
    return h, w


def _what_is_there(folder: Path) -> str:
    """What a mistyped folder could have meant: the folders of the nearest parent that exists."""
    if folder.exists():
        return "it is a file"
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    folders = sorted(entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return f"there is none; {parent} has the folders {folders[:20]}"


# Writing


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
) -> None:
    """Writes one volume in the fastMRI layout, uncompressed; a file of that name is replaced.

    `kspace` is (slice h w) for single-coil or (slice coil h w) for multi-coil data; `targets` maps
    `reconstruction_esc` or `reconstruction_rss` to (slice y x), the first one giving the attributes `max` and `norm`;
    `recon_size` is (y, x); `mask` is (w,).
    """
    arrays = {"kspace": np.asarray(kspace, np.complex64)}
    arrays |= {name: np.asarray(target, np.float32) for name, target in targets.items()}
    if mask is not None:
        arrays["mask"] = np.asarray(mask, bool)
    attrs = {"acquisition": acquisition, "patient_id": patient_id, **(extra_attrs or {})}
    if targets:
        first = arrays[next(iter(targets))]
        attrs |= {"max": float(first.max()), "norm": float(np.linalg.norm(first))}
    header = _header_xml(arrays["kspace"].shape[-2:], recon_size)
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
    with hdf5.atomic_writer(path, num_bytes) as h5file:
        for name, data in datasets.items():
            h5file.create_dataset(name, data=data)
        h5file.attrs.update(attrs)


def _header_xml(kspace_size: tuple[int, ...], recon_size: tuple[int, int]) -> str:
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
