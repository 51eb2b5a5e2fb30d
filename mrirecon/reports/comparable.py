"""Evaluations as they were written to metrics.json, and whether two of them may be compared at all."""

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from mrirecon.errors import ConfigError, InputError

Run = dict[str, Any]
Key = tuple[str, str, str, str]

_MAX_BYTES = 1 << 30
_NEEDED: dict[str, type | tuple[type, ...]] = {"name": str, "acquisition": str, "acceleration": (int, float)}
_SHOWN_OF_DATA = ("num_slices", "acquisition", "data_range")


def read_run(path: Path) -> Run:
    """The content of a metrics.json, or of the one in a run's folder.

    Raises ConfigError where there is none, InputError where it is no evaluation.
    """
    file = path / "metrics.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{path}: expected the folder of an evaluation or its metrics.json, but {file} is no file")
    if file.stat().st_size > _MAX_BYTES:
        raise InputError(f"{file}: {file.stat().st_size} bytes are too many for an evaluation: give a metrics.json")
    try:
        run = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON as evaluate.py writes it ({error}): evaluate again") from error
    check_run(run, str(file))
    return run


def check_run(run: Any, name: str) -> None:
    """Raises InputError where an evaluation lacks what a comparison needs; `name` is how the message calls it."""
    if not isinstance(run, dict) or not isinstance(run.get("volumes"), list) or not run["volumes"]:
        raise InputError(f"{name}: expected the scores of an evaluation, but there is no list of volumes: give another")
    for part in ("conventions", "made_by"):
        if not isinstance(run.get(part), dict):
            raise InputError(f"{name}: `{part}` is missing: it cannot be told how the scores were made; evaluate again")
    if not isinstance(run["made_by"].get("data_sha256"), str):
        raise InputError(f"{name}: made_by.data_sha256, the fingerprint of the data, is missing: evaluate again")
    for number, volume in enumerate(run["volumes"]):
        _check_volume(volume, f"{name}: volumes[{number}]")
    if len(volumes_of(run)) < len(run["volumes"]):
        raise InputError(f"{name}: a volume is there twice with one mask and condition: evaluate again")


def _check_volume(volume: Any, place: str) -> None:
    if not isinstance(volume, dict):
        raise InputError(f"{place}: expected a volume's scores, but it is {type(volume).__name__}: evaluate again")
    for key, kind in _NEEDED.items():
        if not isinstance(volume.get(key), kind):
            raise InputError(f"{place}.{key} is missing, or of a wrong type: evaluate again")
    if not isinstance(volume.get("mask_sha256"), str):
        raise InputError(f"{place}.mask_sha256, the fingerprint of the mask, is missing: evaluate again")
    _check_slices(place, volume.get("slices"))


def _check_slices(place: str, slices: Any) -> None:
    if slices is None:
        return
    lists = [slices.get(key) for key in ("slice_num", "ssim")] if isinstance(slices, dict) else []
    numbers = [len(v) for v in lists if isinstance(v, list) and all(isinstance(x, int | float | None) for x in v)]
    if len(numbers) != 2 or numbers[0] != numbers[1]:
        raise InputError(f"{place}.slices: expected as many numbers in slice_num as in ssim: evaluate again")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def key_of(volume: Mapping[str, Any]) -> Key:
    """What volumes of two evaluations are paired by: folder, name, mask, condition."""
    folder, name, mask, condition = (str(volume.get(key) or "") for key in ("folder", "name", "mask", "condition"))
    return folder, name, mask, condition


def volumes_of(run: Run) -> dict[Key, dict[str, Any]]:
    """The volumes of an evaluation by their key, in their order."""
    return {key_of(volume): volume for volume in run["volumes"]}


def describe(key: Key) -> str:
    """A key in words.  -> "file1.h5, mask 8x, noise 0.5" """
    folder, name, mask, condition = key
    path = f"{folder}/{name}" if folder else name
    return ", ".join(filter(None, (path, mask and f"mask {mask}", condition)))


def score_of(volume: Mapping[str, Any], score: str) -> float | None:
    """A score of a volume; None where it is undefined."""
    value = volume.get(score)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def check_comparable(runs: Mapping[str, Run]) -> None:
    """Raises ConfigError, naming the first difference, unless all were scored by one convention on one data set."""
    for (name, run), (other_name, other) in pairwise(runs.items()):
        who = f"{name} and {other_name} cannot be compared"
        _check_conventions(who, run["conventions"], other["conventions"])
        _check_data(who, run, other)
        _check_masks(who, run, other)


def _check_conventions(who: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    for key in (*one, *(key for key in other if key not in one)):
        if one.get(key) != other.get(key):
            values = (repr(side[key]) if key in side else "not stated" for side in (one, other))
            raise ConfigError(
                f"{who}: their conventions differ, `{key}` is {' and '.join(values)}; evaluate both in one way"
            )


def _check_data(who: str, run: Run, other: Run) -> None:
    ones, others = volumes_of(run), volumes_of(other)
    for key in (*ones, *(key for key in others if key not in ones)):
        if key not in ones or key not in others:
            raise ConfigError(f"{who}: {describe(key)} is only in the {'first' if key in ones else 'second'}; {_DATA}")
        for name in _SHOWN_OF_DATA:
            values = ones[key].get(name), others[key].get(name)
            if values[0] != values[1]:
                raise ConfigError(f"{who}: {describe(key)} differs, {name} is {values[0]} and {values[1]}; {_DATA}")
    prints = [side["made_by"]["data_sha256"] for side in (run, other)]
    if prints[0] != prints[1]:
        raise ConfigError(f"{who}: made_by.data_sha256 is {prints[0]} and {prints[1]}; {_DATA}")


_DATA = "evaluate both on the same volumes"


def _check_masks(who: str, run: Run, other: Run) -> None:
    others = volumes_of(other)
    for key, volume in volumes_of(run).items():
        masks = [str(side["mask_sha256"]) for side in (volume, others[key])]
        if masks[0] != masks[1]:
            raise ConfigError(
                f"{who}: {describe(key)} was sampled by other masks, mask_sha256 is {masks[0][:12]} and "
                f"{masks[1][:12]}; evaluate both with the same mask"
            )
