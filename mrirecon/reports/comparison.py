"""Compares evaluations: means per contrast and acceleration with intervals, and paired differences."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

from mrirecon.errors import ConfigError
from mrirecon.metrics.scores import ALL_SCORES, SCORE_TABLE
from mrirecon.reports.runs import Run, VolumeKey, check_comparable, check_run, in_common, score_of, volumes_of
from mrirecon.reports.statistics import ConfidenceInterval, SignedRank, mean_interval, signed_rank

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""The same volumes of every run, in one order."""


class Mean(NamedTuple):
    """Mean of one score of one run over a group."""

    interval: ConfidenceInterval | None  # None: no volume has the score
    num_volumes: int
    num_undefined: int


class Difference(NamedTuple):
    """Second run's score minus the first's, over the volumes where both are defined."""

    first: str
    second: str
    score: str
    interval: ConfidenceInterval | None  # None: there is no such volume
    test: SignedRank | None
    num_pairs: int
    num_dropped: int

    @property
    def better(self) -> str | None:
        """Name of the run with the better mean; None where they are equal or no volume has both."""
        if self.interval is None or self.interval.mean == 0:
            return None
        return self.second if self.interval.mean * SCORE_TABLE[self.score].sign > 0 else self.first


@dataclass(frozen=True)
class Group:
    """The volumes of one contrast and acceleration, or of several ("all"), under one condition."""

    acquisition: str
    acceleration: str
    condition: str
    keys: tuple[VolumeKey, ...]
    effective: float  # acquirable points per sampled point, mean over volumes
    num_scans: int  # a scan counts once, however many masks it was scored with
    num_units: int  # patients where several are known, else scans
    is_one_patient: bool  # several scans, all of one patient
    means: dict[str, dict[str, Mean]]  # score -> run
    differences: dict[str, list[Difference]]  # score -> every pair of runs

    @property
    def title(self) -> str:
        """Name of the group for people."""
        return ", ".join(filter(None, (self.acquisition, self.acceleration, self.condition)))


@dataclass(frozen=True)
class Comparison:
    """Means and differences of some evaluations.

    groups: per contrast and acceleration, then per acceleration; the last is over all volumes. conditions: one group
    over all volumes per condition, the undisturbed first; empty where there is only one condition.
    """

    runs: Mapping[str, Run]  # with the volumes under the conditions that all of them have
    scores: tuple[str, ...]
    not_in_all: tuple[str, ...]  # scores that only some of the runs have
    left_out: tuple[str, ...]  # conditions that only some of the runs have
    groups: tuple[Group, ...]
    conditions: tuple[Group, ...]

    @property
    def overall(self) -> Group:
        """All volumes, undisturbed."""
        return self.groups[-1]


def compare(runs: Mapping[str, Run]) -> Comparison:
    """Means and paired differences of evaluations, given by name, in that order.

    Only conditions that all of them have are compared. Raises InputError where an evaluation lacks an entry,
    ConfigError where they may not be compared.
    """
    if not runs:
        raise ConfigError("there is nothing to compare: give an evaluation")
    for name, run in runs.items():
        check_run(run, name)
    runs, left_out = in_common(runs)
    check_comparable(runs)
    tables = {name: volumes_of(run) for name, run in runs.items()}
    table = next(iter(tables.values()))
    held = [{score for score in ALL_SCORES if any(score in v for v in run["volumes"])} for run in runs.values()]
    scores = tuple(score for score in ALL_SCORES if all(score in names for names in held))
    conditions = list(dict.fromkeys(key[3] for key in table))
    base = "" if "" in conditions else conditions[0]
    undisturbed = [key for key in table if key[3] == base]
    groups = [_group(tables, scores, *label, base, keys) for label, keys in _split(table, undisturbed)]
    others = [c for c in conditions if c != base]
    disturbed = [
        _group(tables, scores, "all", "", condition, [key for key in table if key[3] == condition])
        for condition in ([base, *others] if others else [])
    ]
    not_in_all = tuple(score for score in ALL_SCORES if score not in scores and any(score in names for names in held))
    return Comparison(runs, scores, not_in_all, left_out, tuple(groups), tuple(disturbed))


def acceleration_of(volume: Mapping[str, Any]) -> str:
    """Name of the mask, else the nominal acceleration as "4x", else ""."""
    nominal = volume.get("nominal_acceleration")
    return str(volume.get("mask") or (f"{nominal:g}x" if nominal else ""))


def _split(
    table: Mapping[VolumeKey, Mapping[str, Any]], keys: Sequence[VolumeKey]
) -> Iterator[tuple[tuple[str, str], list[VolumeKey]]]:
    """Groups per contrast and acceleration, per acceleration, and over all; duplicates are left out."""
    by_both: dict[tuple[str, str], list[VolumeKey]] = {}
    by_acceleration: dict[str, list[VolumeKey]] = {}
    for key in keys:
        acquisition, acceleration = table[key]["acquisition"], acceleration_of(table[key])
        by_both.setdefault((acquisition, acceleration), []).append(key)
        by_acceleration.setdefault(acceleration, []).append(key)
    if len(by_both) == 1:
        yield from by_both.items()
        return
    yield from sorted(by_both.items())
    if 1 < len(by_acceleration) < len(by_both):
        yield from ((("all", acceleration), chosen) for acceleration, chosen in sorted(by_acceleration.items()))
    yield ("all", next(iter(by_acceleration)) if len(by_acceleration) == 1 else ""), list(keys)


def _group(
    tables: Mapping[str, Mapping[VolumeKey, Mapping[str, Any]]],
    scores: Sequence[str],
    acquisition: str,
    acceleration: str,
    condition: str,
    keys: Sequence[VolumeKey],
) -> Group:
    rows = {name: [table[key] for key in keys] for name, table in tables.items()}
    first = next(iter(rows.values()))
    units, is_one_patient = _units(first)
    pairs = list(combinations(rows, 2))
    return Group(
        acquisition=acquisition,
        acceleration=acceleration,
        condition=condition,
        keys=tuple(keys),
        effective=fmean(volume["acceleration"] for volume in first),
        num_scans=len({key[:2] for key in keys}),
        num_units=len(set(units)),
        is_one_patient=is_one_patient,
        means={score: {name: _mean(rows[name], units, score) for name in rows} for score in scores},
        differences={score: [_difference(rows, pair, units, score) for pair in pairs] for score in scores},
    )


def _units(volumes: Sequence[Mapping[str, Any]]) -> tuple[list[Hashable], bool]:
    """Bootstrap unit of each volume (patient where known, else scan), and whether all scans are of one patient.

    Scans of a single patient are units themselves; their interval does not generalise to other patients.
    """
    scans: list[Hashable] = [("scan", volume.get("folder") or "", volume["name"]) for volume in volumes]
    patients = [volume.get("patient") for volume in volumes]
    if len(set(patients)) == 1 and patients[0] and len(set(scans)) > 1:
        return scans, True
    return [("patient", one) if one else scan for one, scan in zip(patients, scans, strict=True)], False


def _mean(rows: Sequence[Mapping[str, Any]], units: Sequence[Hashable], score: str) -> Mean:
    found = [
        (value, unit) for row, unit in zip(rows, units, strict=True) if (value := score_of(row, score)) is not None
    ]
    interval = mean_interval([value for value, _ in found], [unit for _, unit in found]) if found else None
    return Mean(interval, len(found), len(rows) - len(found))


def _difference(rows: Rows, pair: tuple[str, str], units: Sequence[Hashable], score: str) -> Difference:
    values, kept = [], []
    for one, other, unit in zip(rows[pair[0]], rows[pair[1]], units, strict=True):
        a, b = score_of(one, score), score_of(other, score)
        if a is not None and b is not None:
            values.append(b - a)
            kept.append(unit)
    num_dropped = len(units) - len(values)
    if not values:
        return Difference(*pair, score, None, None, 0, num_dropped)
    return Difference(*pair, score, mean_interval(values, kept), signed_rank(values, kept), len(values), num_dropped)
