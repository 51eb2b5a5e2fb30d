"""Descriptions of scans (ScanInfo) as JSON, for the index and the prepared store; validated on reading."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrirecon.io.geometry import Geometry
from mrirecon.io.raw.fastmri_header import LAYOUTS
from mrirecon.io.scan import MIN_SIZE, ScanInfo, System, Target

# Deflate shrinks at most 1032 times: a description of more k-space than that would be a bomb.
_MAX_RATIO = 1100


def record(info: ScanInfo) -> dict[str, Any]:
    """A description as JSON can hold it, without the path and name of its file."""
    plain = {key: getattr(info, key) for key in _SOUND}
    plain["mask"] = None if info.mask is None else _mask_texts(info.mask)
    plain["target"] = None if info.target is None else info.target._asdict()
    plain["geometry"] = None if info.geometry is None else _geometry_record(info.geometry)
    plain["system"] = info.system._asdict()
    return plain


def parse(path: Path, content: Any, num_bytes: int) -> ScanInfo:
    """The description that `record` gave.  Raises ValueError for what no file of that many bytes can be."""
    need(isinstance(content, dict) and content.keys() == _SOUND.keys(), path.name, content)
    for key, is_sound in _SOUND.items():
        need(is_sound(content[key]), f"{path.name}: {key}", content[key])
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    plain["mask"] = None if content["mask"] is None else _mask(content["mask"])
    target, geometry = content["target"], content["geometry"]
    plain["target"] = None if target is None else Target(tuple(target["size"]), target["maximum"])
    plain["geometry"] = None if geometry is None else _geometry(geometry)
    plain["system"] = System(**content["system"])
    info = ScanInfo(path=path, name=path.name, **plain)
    need(_agrees(info, num_bytes), path.name, "sizes that do not fit each other")
    return info


def need(good: bool, what: str, came: Any) -> None:
    """Raises ValueError naming what is not sound and the beginning of what came instead."""
    if not good:
        raise ValueError(f"{what[:60]}: {str(came)[:60]!r}")


def is_int(value: Any, least: int) -> bool:
    """Whether this is a whole number, not a bool, from `least` up to what 62 bits hold."""
    return type(value) is int and least <= value < 1 << 62


def is_maximum(value: Any) -> bool:
    """Whether this is None or a finite number."""
    return value is None or _is_number(value)


def _agrees(info: ScanInfo, num_bytes: int) -> bool:
    """Whether the parts of a description fit each other and the size of the file."""
    (h, w), (first, last) = info.kspace_size, info.acquired
    order = None if info.geometry is None else info.geometry.slice_order
    return (
        info.num_slices * info.num_coils * h * w * 8 <= num_bytes * _MAX_RATIO
        and (info.fastmri_challenge == "multicoil" or info.num_coils == 1)
        and 0 <= first < last <= w
        and (info.mask is None or (info.mask.shape in ((w,), (h, w)) and bool(info.mask.any())))
        and (info.target is None or info.target.size == info.recon_size)
        and (order is None or len(order) == info.num_slices)
    )


def _mask_texts(mask: NDArray[np.bool_]) -> str | list[str]:
    """Zeros and ones: one text for columns, one per row for a pattern.  (w,) or (h, w)"""
    rows = ["".join("01"[int(sampled)] for sampled in row) for row in np.atleast_2d(mask)]
    return rows if mask.ndim == 2 else rows[0]


def _mask(texts: str | list[str]) -> NDArray[np.bool_]:
    """The mask of such texts.  Raises ValueError for rows of different lengths."""
    rows = [texts] if isinstance(texts, str) else texts
    need(len({len(row) for row in rows}) == 1, "mask", "rows of different lengths")
    mask = np.array([[sampled == "1" for sampled in row] for row in rows])
    return mask[0] if isinstance(texts, str) else mask


def _geometry_record(geometry: Geometry) -> dict[str, Any]:
    affine = None if geometry.affine is None else geometry.affine.tolist()
    return {**{key: getattr(geometry, key) for key in _GEOMETRY}, "affine": affine}


def _geometry(content: dict[str, Any]) -> Geometry:
    """Raises ValueError for what Geometry refuses."""
    order, affine = content["slice_order"], content["affine"]
    return Geometry(
        tuple(content["field_of_view"]),
        content["slice_thickness"],
        None if affine is None else np.array(affine, np.float64),
        None if order is None else tuple(order),
    )


def _is_number(value: Any) -> bool:
    return abs(value) < 1 << 62 if type(value) is int else type(value) is float and math.isfinite(value)


def _is_numbers(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(_is_number(number) for number in value)


def _is_pair(value: Any, least: int) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_int(number, least) for number in value)


def _is_text(value: Any, least: int = 0) -> bool:
    return isinstance(value, str) and least <= len(value) <= 200


def _is_mask(value: Any) -> bool:
    rows = value if isinstance(value, list) else [value]
    return bool(rows) and all(isinstance(row, str) and set(row) <= {"0", "1"} for row in rows)


def _is_affine(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_numbers(row, 4) for row in value)


def _is_order(value: Any) -> bool:
    return isinstance(value, list) and all(is_int(number, 0) for number in value)


def _has(fields: dict[str, Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """Tells a JSON object that has these fields, each of them sound, and no other."""

    def is_sound(value: Any) -> bool:
        is_whole = isinstance(value, dict) and value.keys() == fields.keys()
        return is_whole and all(is_field_sound(value[key]) for key, is_field_sound in fields.items())

    return is_sound


def _or_none(is_sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_sound(value)


_TARGET: dict[str, Callable[[Any], bool]] = {
    "size": lambda value: _is_pair(value, MIN_SIZE),
    "maximum": _or_none(lambda value: _is_number(value) and value >= 0),
}
_SYSTEM: dict[str, Callable[[Any], bool]] = {
    "vendor": _or_none(_is_text),
    "model": _or_none(_is_text),
    "field_strength": _or_none(lambda value: _is_number(value) and value > 0),
}
# Geometry itself refuses numbers that cannot be meant.
_GEOMETRY: dict[str, Callable[[Any], bool]] = {
    "field_of_view": lambda value: _is_numbers(value, 2),
    "slice_thickness": _or_none(_is_number),
    "affine": _or_none(_is_affine),
    "slice_order": _or_none(_is_order),
}
# What each field of a description may hold; `path` and `name` come from where the file was found.
_SOUND: dict[str, Callable[[Any], bool]] = {
    "num_slices": lambda value: is_int(value, 1),
    "num_coils": lambda value: is_int(value, 1),
    "kspace_size": lambda value: _is_pair(value, MIN_SIZE),
    "acquired": lambda value: _is_pair(value, 0),
    "mask": _or_none(_is_mask),
    "num_low_frequency": _or_none(lambda value: is_int(value, 0)),
    "recon_size": lambda value: _is_pair(value, MIN_SIZE),
    "target": _or_none(_has(_TARGET)),
    "geometry": _or_none(_has(_GEOMETRY)),
    "acquisition": lambda value: _is_text(value, least=1),
    "patient": _or_none(_is_text),
    "system": _has(_SYSTEM),
    "simulated": lambda value: isinstance(value, bool),
    # Only files in the fastMRI layout are trained on, so only they are kept.
    "fastmri_challenge": lambda value: value in tuple(LAYOUTS),
    "notes": lambda value: isinstance(value, list) and all(isinstance(note, str) for note in value),
}
