"""Reports a search: a line per trial, a table of the best trials, importances, and a summary as plain data."""

import sys
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrirecon.apps.tuning.storage import DEFAULT, REASON, Search, is_result, ranked
from mrirecon.metrics.scores import MAIN_SCORES, SCORE_TABLE
from mrirecon.system.progress import duration

TRIAL_OVERRIDES, TRIAL_SCORES = "overrides", "scores"  # trial attributes: overrides drawn, and all scores
_FEWEST = 10  # complete trials needed to estimate importances


def trial_line(trial: FrozenTrial, search: Search, metric: str, num_trials: int, seconds: float | None) -> str:
    """`trial 7 (8/30)  val/ssim 0.7421  best 0.7533 (trial 4)  pruned 2  left 12 min  optimizer.lr=0.002`"""
    trials, best = search.trials(), search.best()
    best_text = "-" if best is None else f"{SCORE_TABLE[metric].shown(best.values[0])} (trial {best.number})"
    parts = [
        f"trial {trial.number} ({sum(map(is_result, trials))}/{num_trials})",
        f"val/{metric} {_outcome(trial, metric)}",
        f"best {best_text}",
        f"pruned {sum(other.state == TrialState.PRUNED for other in trials)}",
        *([] if seconds is None else [f"left {duration(seconds)}"]),
        _settings(trial),
    ]
    return "  ".join(parts)


def print_summary(search: Search, metric: str, num_shown: int = 5) -> None:
    """Prints the best trials as a table, and the importance of each dimension."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    complete = ranked([t for t in search.trials() if t.state == TrialState.COMPLETE], search.is_maximized)
    table = Table(title=f"Best of {len(complete)} trials that ran to their end", title_justify="left")
    for column in ("trial", *(f"val/{name}" for name in MAIN_SCORES)):
        table.add_column(column, justify="right")
    table.add_column("settings")
    for trial in complete[:num_shown]:
        scores = [SCORE_TABLE[name].shown(trial.user_attrs[TRIAL_SCORES][name]) for name in MAIN_SCORES]
        table.add_row(str(trial.number), *scores, escape(_settings(trial)))
    console.print(table)
    shares = importances(search)
    if shares:
        shown = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        console.print(f"Importance (PED-ANOVA, arXiv:2304.10255): {shown}", markup=False)
    for trial in search.trials():
        if REASON in trial.user_attrs:
            console.print(f"trial {trial.number}: {trial.user_attrs[REASON]}", markup=False)


def importances(search: Search) -> dict[str, float]:
    """Importance of each dimension (PED-ANOVA), as shares, largest first; empty for too few trials."""
    trials = [t for t in search.trials() if t.state == TrialState.COMPLETE]
    if len(trials) < _FEWEST or len({trial.values[0] for trial in trials}) == 1:
        return {}
    shares = optuna.importance.get_param_importances(search.study)
    return {name: float(share) for name, share in shares.items()}


def summary(search: Search, metric: str, identity: dict[str, Any]) -> dict[str, Any]:
    """Content of tune.json: all trials with overrides, scores, state and reason, the best one, importances."""
    best = search.best()
    return {
        "metric": metric,
        "best": None if best is None else best.number,
        "importances": importances(search),
        "trials": [_row(trial) for trial in search.trials() if is_result(trial)],
        **identity,
    }


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "overrides": trial.user_attrs.get(TRIAL_OVERRIDES),
        "scores": trial.user_attrs.get(TRIAL_SCORES),
        "validations": {str(epoch): score for epoch, score in trial.intermediate_values.items()},
        "reason": trial.user_attrs.get(REASON),
        "seconds": None if trial.duration is None else trial.duration.total_seconds(),
    }


def _outcome(trial: FrozenTrial, metric: str) -> str:
    reason: str | None = trial.user_attrs.get(REASON)
    if trial.state == TrialState.COMPLETE:
        return SCORE_TABLE[metric].shown(trial.values[0])
    if reason is not None:
        return reason.partition(":")[0]
    scores = trial.user_attrs.get(TRIAL_SCORES)
    return "-" if scores is None else f"{SCORE_TABLE[metric].shown(scores[metric])}, pruned"


def _settings(trial: FrozenTrial) -> str:
    overrides: Sequence[str] = trial.user_attrs.get(TRIAL_OVERRIDES, ())
    return " ".join([*(["default"] if trial.user_attrs.get(DEFAULT) else []), *overrides])
