"""Confidence intervals of means over seeds and volumes, and of differences between settings."""

import math
from collections.abc import Sequence

import numpy as np

from mrirecon.apps.study.results import Setting
from mrirecon.reports.statistics import CONFIDENCE, ConfidenceInterval

_NUM_RESAMPLES = 9999


def setting_interval(setting: Setting) -> ConfidenceInterval:
    """Mean final SSIM with its interval over seeds and volumes; no interval of a single volume of a single seed."""
    return _crossed(setting.table(), setting.units())


def setting_difference(setting: Setting, other: Setting) -> ConfidenceInterval | None:
    """Mean SSIM of a setting minus that of another, paired by seed and volume, over common seeds.

    A model without weights has one result, which is used for every seed. None where they have no seed in common or were
    validated on different volumes.
    """
    if setting.units() != other.units():
        return None
    tables = [dict(zip(each.seeds, each.table(), strict=True)) for each in (setting, other)]
    for place, each in enumerate((setting, other)):
        if not each.runs[0].is_trained:
            tables[place] = dict.fromkeys(tables[1 - place], each.table()[0])
    seeds = [seed for seed in tables[0] if seed in tables[1]]
    if not seeds:
        return None
    return _crossed(np.stack([tables[0][seed] - tables[1][seed] for seed in seeds]), setting.units())


def _crossed(values: np.ndarray, units: Sequence[str]) -> ConfidenceInterval:
    """Mean of an array (seed volume) and its percentile interval, resampling seeds and units independently.

    Pigeonhole bootstrap for crossed factors (Owen 2007, doi:10.1214/07-AOAS122); volumes of a unit stay together.
    """
    mean = float(values.mean()) if values.size else math.nan
    names = list(dict.fromkeys(units))
    per_unit = np.array([[row[[u == name for u in units]].sum() for name in names] for row in values])
    counts = np.array([sum(u == name for u in units) for name in names])
    if per_unit.size < 2:
        return ConfidenceInterval(mean, None, None, len(names), "none")
    rng = np.random.default_rng(0)
    num_seeds, num_units = per_unit.shape
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), _NUM_RESAMPLES)
    drawn = rng.multinomial(num_units, np.full(num_units, 1 / num_units), _NUM_RESAMPLES)
    sums = np.einsum("rs,su,ru->r", seeds, per_unit, drawn)
    means = sums / (num_seeds * (drawn @ counts))
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return ConfidenceInterval(mean, float(low), float(high), num_units, "percentile")
