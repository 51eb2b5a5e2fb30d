"""Classifies the loss at each step size: it crawls, converges, oscillates or diverges."""

from collections.abc import Sequence

import numpy as np

from mrirecon.apps.study.results import Family, PartResults, Setting

_RISES = 0.2  # a loss that rises in more than this share of the steps oscillates
_CRAWLS = 0.5  # a loss that falls by less than this share of the largest fall crawls


def step_size(results: PartResults) -> list[str]:
    """Sentences naming the step sizes at which the loss crawls, converges, oscillates or diverges."""
    return [sentence for family in results.families for sentence in _regimes(family)]


def _regimes(family: Family) -> list[str]:
    losses = {setting: _losses(setting) for setting in family.settings}
    falls = {setting: _fall(values) for setting, values in losses.items()}
    largest = max(falls.values(), default=0.0)
    regimes: dict[str, list[Setting]] = {}
    for setting, values in losses.items():
        regimes.setdefault(_regime(setting, values, largest), []).append(setting)
    parts = []
    for name in ("crawls", "converges", "oscillates", "diverges"):
        if name in regimes:
            parts.append(f"{name} at {_rates(regimes[name], family)} ({_evidence(name, regimes[name], losses)})")
    num_steps = max(map(len, losses.values()))
    return [f"{family.label}, {num_steps} steps: the loss {', '.join(parts)}."]


def _losses(setting: Setting) -> list[float]:
    """Losses of the first seed, up to the first that is not finite."""
    values = setting.runs[0].content["losses"]
    return values[: values.index(None)] if None in values else values


def _fall(losses: Sequence[float]) -> float:
    """Relative fall of the loss; negative where it grew."""
    return 1 - losses[-1] / losses[0] if losses and losses[0] > 0 else 0.0


def _rises(losses: Sequence[float]) -> float:
    """Share of the steps in which the loss rose."""
    return float(np.mean(np.diff(losses) > 0)) if len(losses) > 1 else 0.0


def _regime(setting: Setting, losses: Sequence[float], largest: float) -> str:
    if setting.runs[0].is_diverged or _fall(losses) < 0:
        return "diverges"
    if _rises(losses) > _RISES:
        return "oscillates"
    return "crawls" if _fall(losses) < _CRAWLS * largest else "converges"


def _evidence(regime: str, settings: Sequence[Setting], losses: dict[Setting, list[float]]) -> str:
    if regime == "diverges":
        ended = [setting for setting in settings if setting.runs[0].is_diverged]
        texts = []
        if ended:
            steps = _range([float(len(losses[setting])) for setting in ended], "{:.0f}")
            texts.append(f"no longer finite after {steps} steps")
        if len(ended) < len(settings):
            texts.append("above where it began at the end")
        return " or ".join(texts)
    if regime == "oscillates":
        return "it rises in " + _range([100 * _rises(losses[s]) for s in settings], "{:.0f}") + " % of the steps"
    return "it falls by " + _range([100 * _fall(losses[s]) for s in settings], "{:.0f}") + " %"


def _rates(settings: Sequence[Setting], family: Family) -> str:
    """Learning rates as text, neighbours on the grid joined.  -> `lr 0.001, 0.1 to 1`"""
    runs: list[list[Setting]] = []
    for setting in settings:
        place = family.settings.index(setting)
        if runs and family.settings.index(runs[-1][-1]) == place - 1:
            runs[-1].append(setting)
        else:
            runs.append([setting])
    texts = [f"{run[0].lr:g}" if len(run) == 1 else f"{run[0].lr:g} to {run[-1].lr:g}" for run in runs]
    return f"lr {', '.join(texts)}"


def _range(values: Sequence[float], form: str) -> str:
    least, most = form.format(min(values)), form.format(max(values))
    return least if least == most else f"{least} to {most}"
