"""Bootstrap confidence intervals of means over volumes and a signed-rank test, with the patient as the unit."""

import math
import warnings
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 9999
MIN_PAIRS = 6
"""With fewer pairs a two-sided signed-rank p cannot be below .05: with five the smallest is .0625."""

_BATCH = 1 << 20  # resampled numbers held at a time; bounds memory


class ConfidenceInterval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float | None  # None: a single value has no interval
    high: float | None
    num_units: int  # patients where known, else volumes
    method: str  # "BCa", "percentile", "constant" or "none"

    @property
    def contains_zero(self) -> bool:
        """Whether zero lies in the interval; True without an interval."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


class SignedRank(NamedTuple):
    """A Wilcoxon signed-rank test."""

    p_value: float | None
    reason: str  # why p_value is None, else ""


def mean_interval(values: Sequence[float], units: Sequence[Hashable], seed: int = 0) -> ConfidenceInterval:
    """Mean of values and its 95 % bootstrap interval.

    Values of one unit (the volumes of one patient) are resampled together, since they are correlated; every value has
    the same weight in the mean. BCa interval (doi:10.1080/01621459.1987.10478410) where it exists, else percentile.
    """
    sums, counts = _per_unit(values, units)
    mean = math.fsum(sums) / int(counts.sum())
    if len(sums) < 2:
        return ConfidenceInterval(mean, None, None, len(sums), "none")
    if np.ptp(sums / counts) == 0:
        return ConfidenceInterval(mean, mean, mean, len(sums), "constant")
    for method in ("BCa", "percentile"):
        low, high = _bootstrap(sums, counts, method, seed)
        if math.isfinite(low) and math.isfinite(high):
            break
    return ConfidenceInterval(mean, low, high, len(sums), method)


def signed_rank(differences: Sequence[float], units: Sequence[Hashable]) -> SignedRank:
    """Two-sided Wilcoxon signed-rank test of paired differences; each unit enters once, with its mean difference.

    Differences of zero are left out, as in Wilcoxon's original test.
    """
    sums, counts = _per_unit(differences, units)
    pairs = sums / counts
    different = pairs[pairs != 0]
    if not len(different):
        return SignedRank(None, "all differences are zero")
    if len(different) < MIN_PAIRS:
        return SignedRank(None, f"too few pairs ({len(different)} differ)")
    return SignedRank(float(stats.wilcoxon(different).pvalue), "")


def _per_unit(values: Sequence[float], units: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values per unit, in order of first appearance.  -> (unit), (unit)"""
    grouped: dict[Hashable, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        grouped.setdefault(unit, []).append(value)
    return np.array([math.fsum(group) for group in grouped.values()]), np.array([len(g) for g in grouped.values()])


def _bootstrap(sums: np.ndarray, counts: np.ndarray, method: str, seed: int) -> tuple[float, float]:
    """Ends of the interval; not finite where the method has none."""
    with warnings.catch_warnings():
        # Where BCa divides by zero scipy warns and returns NaN, which the caller handles.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            (sums, counts), _ratio, paired=True, vectorized=True, confidence_level=CONFIDENCE, method=method,
            n_resamples=NUM_RESAMPLES, batch=max(1, _BATCH // len(sums)), rng=np.random.default_rng(seed),
        )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _ratio(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> Any:
    return sums.sum(axis=axis) / counts.sum(axis=axis)
