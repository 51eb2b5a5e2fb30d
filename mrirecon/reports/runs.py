"""Reads and checks evaluations (metrics.json), and checks that they may be compared."""

import json
import math
from collections.abc import Mapping, Set
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from mrirecon.errors import ConfigError, InputError

Run = dict[str, Any]
VolumeKey = tuple[str, str, str, str]

_MAX_BYTES = 1 << 30
_NEEDED: dict[str, type | tuple[type, ...]] = {"name": str, "acquisition": str, "acceleration": (int, float)}
_SHOWN_OF_DATA = ("num_slices", "acquisition", "data_range")


def read_run(path: Path) -> Run:
    """Content of a metrics.json, given by its path or its folder.

    Raises ConfigError where the file is missing, InputError where it is not an evaluation.
    """
    file = path / "metrics.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{path}: expected the folder of an evaluation or its metrics.json, but {file} is no file")
    if file.stat().st_size > _MAX_BYTES:
        raise InputError(f"{file}: {file.stat().st_size} bytes are too many for a metrics.json: give another file")
    try:
        run = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON as evaluate writes it ({error}): evaluate again") from error
    check_run(run, str(file))
    return run


def check_run(run: Any, name: str) -> None:
    """Raises InputError where an evaluation lacks an entry that comparing needs. name: what the message calls it."""
    if not isinstance(run, dict) or not isinstance(run.get("volumes"), list) or not run["volumes"]:
        raise InputError(f"{name}: expected the scores of an evaluation, but there is no list of volumes: give another")
    for part in ("conventions", "made_by"):
        if not isinstance(run.get(part), dict):
            raise InputError(f"{name}: `{part}` is missing, which states how the scores were made: evaluate again")
    if not isinstance(run["made_by"].get("data_sha256"), str):
        raise InputError(f"{name}: made_by.data_sha256, the fingerprint of the data, is missing: evaluate again")
    if not isinstance(run["made_by"].get(_OTHERS, {}), dict):
        raise InputError(f"{name}: made_by.{_OTHERS}: expected a fingerprint for each condition: evaluate again")
    for number, volume in enumerate(run["volumes"]):
        _check_volume(volume, f"{name}: volumes[{number}]")
    if len(volumes_of(run)) < len(run["volumes"]):
        raise InputError(f"{name}: a volume occurs twice with the same mask and condition: evaluate again")


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


def volume_key(volume: Mapping[str, Any]) -> VolumeKey:
    """Key by which volumes of two evaluations are paired: folder, name, mask, condition."""
    folder, name, mask, condition = (str(volume.get(key) or "") for key in ("folder", "name", "mask", "condition"))
    return folder, name, mask, condition


def volumes_of(run: Run) -> dict[VolumeKey, dict[str, Any]]:
    """Volumes of an evaluation by key, in file order."""
    return {volume_key(volume): volume for volume in run["volumes"]}


def describe(key: VolumeKey) -> str:
    """A key for people.  -> "file1.h5, mask 8x, noise 0.5" """
    folder, name, mask, condition = key
    path = f"{folder}/{name}" if folder else name
    return ", ".join(filter(None, (path, mask and f"mask {mask}", condition)))


def score_of(volume: Mapping[str, Any], score: str) -> float | None:
    """Score of a volume; None where undefined."""
    value = volume.get(score)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def in_common(runs: Mapping[str, Run]) -> tuple[dict[str, Run], tuple[str, ...]]:
    """Runs reduced to the conditions they share, and the conditions that only some of them have.

    Raises ConfigError where they share none.
    """
    conditions = {name: dict.fromkeys(volume_key(volume)[3] for volume in run["volumes"]) for name, run in runs.items()}
    everything = dict.fromkeys(condition for found in conditions.values() for condition in found)
    shared = [condition for condition in everything if all(condition in found for found in conditions.values())]
    if not shared:
        have = "; ".join(f"{name} has {', '.join(map(condition_text, found))}" for name, found in conditions.items())
        raise ConfigError(f"the runs have no condition in common: {have}; evaluate all under one of them")
    kept = {
        name: run | {"volumes": [volume for volume in run["volumes"] if volume_key(volume)[3] in shared]}
        for name, run in runs.items()
    }
    return kept, tuple(condition for condition in everything if condition not in shared)


def condition_text(condition: str) -> str:
    """Name of a condition for people.  -> "undisturbed" """
    return condition or "undisturbed"


def check_comparable(runs: Mapping[str, Run]) -> None:
    """Raises ConfigError, naming the first difference, unless conventions, data and masks of all runs agree."""
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
    _check_fingerprints(who, run["made_by"], other["made_by"], {key[3] for key in ones})


def _check_fingerprints(who: str, one: Mapping[str, Any], other: Mapping[str, Any], conditions: Set[str]) -> None:
    if one["data_sha256"] != other["data_sha256"]:
        # Older versions took one fingerprint over the volumes of all data sets.
        cure = _DATA if all(_OTHERS in side for side in (one, other)) else f"{_DATA}, with this version"
        raise ConfigError(f"{who}: made_by.data_sha256 is {one['data_sha256']} and {other['data_sha256']}; {cure}")
    ours, theirs = (side.get(_OTHERS) or {} for side in (one, other))
    for name in sorted(conditions & ours.keys() & theirs.keys()):
        if ours[name] != theirs[name]:
            raise ConfigError(f"{who}: made_by.{_OTHERS} of {name} is {ours[name]} and {theirs[name]}; {_DATA}")


_OTHERS = "other_data_sha256"
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
