"""Searches the regularisation weight lambda with the best score on a validation set."""

import math
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from mrirecon.errors import ConfigError, InputError
from mrirecon.evaluation.scoring import Metrics
from mrirecon.metrics.scores import MAIN_SCORES, SCORE_TABLE

_GOLDEN = (math.sqrt(5) - 1) / 2
_DIGITS = 3  # significant digits of a weight

Trials = dict[float, Metrics]


def check_search(model: nn.Module, score: str, low: float, high: float, num_grid: int, num_refinements: int) -> None:
    """Raises ConfigError for a model without reg_weight, or an invalid score, range or count."""
    if not hasattr(model, "reg_weight"):
        raise ConfigError("model: has no reg_weight to choose: give model=tv, model=wavelet or model=cg_sense")
    if score not in MAIN_SCORES:
        raise ConfigError(f"search.score={score!r}: expected one of {', '.join(MAIN_SCORES)}")
    if not 0 < low < high < math.inf:
        raise ConfigError(f"search.low={low}, search.high={high}: expected 0 < low < high; the grid is logarithmic")
    if num_grid < 2 or num_refinements < 0:
        raise ConfigError(
            f"search.num_grid={num_grid}, search.num_refinements={num_refinements}: expected 2 or more, and 0 or more"
        )


def search(
    evaluate: Callable[[float], Metrics], score: str, low: float, high: float, num_grid: int, num_refinements: int
) -> Trials:
    """Metrics by weight: a logarithmic grid from `low` to `high`, then golden-section steps around its best weight.

    Raises InputError where the score is undefined for all volumes.
    """
    trials: Trials = {}

    def gain(log_weight: float) -> float:
        weight = float(f"{math.exp(log_weight):.{_DIGITS}g}")
        if weight not in trials:
            trials[weight] = evaluate(weight)
        return _gain(trials[weight], score)

    step = (math.log(high) - math.log(low)) / (num_grid - 1)
    grid = [math.log(low) + step * number for number in range(num_grid)]
    middle = max(grid, key=gain)
    left, right = max(middle - step, grid[0]), min(middle + step, grid[-1])
    for _ in range(num_refinements):
        inner = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        if gain(inner[0]) >= gain(inner[1]):
            right = inner[1]
        else:
            left = inner[0]
    return trials


def best_weight(trials: Trials, score: str) -> float:
    """Weight with the best score; of ties, the smallest."""
    return max(sorted(trials), key=lambda weight: _gain(trials[weight], score))


def _gain(report: Metrics, score: str) -> float:
    if report[score] is None:
        raise InputError(
            f"the {score} of every volume is undefined, so no lambda is better than another: check the targets"
        )
    return SCORE_TABLE[score].sign * report[score]


def summary(trials: Trials, score: str) -> dict[str, Any]:
    """Content of choose_lambda.json: best weight, override to type, scores of every trial, conventions, provenance."""
    best = best_weight(trials, score)
    return {
        "reg_weight": best,
        "override": f"model.reg_weight={best:g}",
        "chosen_by": score,
        "at_edge_of_range": best in (min(trials), max(trials)),
        "trials": [
            {"reg_weight": weight, **{name: trials[weight][name] for name in MAIN_SCORES}} for weight in sorted(trials)
        ],
        "conventions": trials[best]["conventions"],
        "made_by": trials[best]["made_by"],
    }


def print_trials(title: str, trials: Trials, score: str) -> None:
    """Prints lambda and scores as a table with the best marked, and the override to type."""
    best = best_weight(trials, score)
    table = Table(title=escape(title), title_justify="left")
    shown = [SCORE_TABLE[name] for name in MAIN_SCORES]
    for column in ("lambda", *(each.heading for each in shown), ""):
        table.add_column(column, justify="right")
    for weight in sorted(trials):
        cells = [each.shown(trials[weight][each.name]) for each in shown]
        table.add_row(f"{weight:g}", *cells, f"best {score}" if weight == best else "")
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100)
    console.print(table)
    if best in (min(trials), max(trials)):
        console.print("The best is at the edge of what was tried: widen search.low or search.high.")
    console.print(f"Use it with: model.reg_weight={best:g}")
