"""A comparison as text: tables, verdicts (better, or within noise) and cautions."""

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrirecon.metrics.scores import MAIN_SCORES, SCORE_TABLE
from mrirecon.reports.comparison import Comparison, Difference, Group, Mean
from mrirecon.reports.runs import condition_text
from mrirecon.reports.statistics import MIN_PAIRS, ConfidenceInterval


class DifferenceRow(NamedTuple):
    """Cells of a table row for one difference."""

    volumes: str
    runs: str
    score: str
    mean: str  # with its interval
    verdict: str
    p_value: str
    pairs: str


def range_text(interval: ConfidenceInterval, score: str, signed: bool = False) -> str:
    """Ends of an interval, or "no interval".  -> "[0.71, 0.79]" """
    if interval.low is None or interval.high is None:
        return "no interval"
    low, high = (SCORE_TABLE[score].shown(end, signed=signed) for end in (interval.low, interval.high))
    return f"[{low}, {high}]"


def _signed(interval: ConfidenceInterval, score: str) -> str:
    """A mean difference with its interval.  -> "+0.0123 [+0.0100, +0.0150]" """
    return f"{SCORE_TABLE[score].shown(interval.mean, signed=True)} {range_text(interval, score, True)}"


def best_runs(group: Group, score: str) -> set[str]:
    """Runs whose mean, rounded as shown, is the best of a group; empty where all are equal."""
    shown = {
        name: SCORE_TABLE[score].shown(mean.interval.mean * SCORE_TABLE[score].sign)
        for name, mean in group.means[score].items()
        if mean.interval is not None
    }
    top = max(shown.values(), key=float, default=None)
    best = {name for name, value in shown.items() if value == top}
    return best if len(best) < len(group.means[score]) else set()


def verdict(difference: Difference) -> str:
    """Verdict on a difference, such as "within noise"."""
    interval, better = difference.interval, difference.better
    if interval is None:
        return "not comparable: no volume has the score in both"
    if interval.mean == 0 and interval.low == interval.high:  # all are zero, or the only one is
        return "equal"
    if interval.low is None:
        return f"{better} is better in this one only"
    if interval.contains_zero:
        return "within noise"
    if interval.num_units < MIN_PAIRS:
        return f"{better} is better here, but {interval.num_units} are too few to be sure"
    return f"{better} is better"


def p_text(difference: Difference) -> str:
    """The p-value, or the reason why there is none."""
    if difference.test is None:
        return "-"
    p = difference.test.p_value
    return difference.test.reason if p is None else ("< 0.0001" if p < 1e-4 else f"{p:.4f}")


def units_text(group: Group) -> str:
    """Number of volumes of a group, and of patients where that differs.  -> "12 volumes of 4 patients" """
    text = _plural(group.num_scans, "volume")
    if group.is_one_patient:
        return f"{text} of 1 patient"
    return text if group.num_units == group.num_scans else f"{text} of {_plural(group.num_units, 'patient')}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def summary(comparison: Comparison) -> str:
    """One paragraph: volumes, mean of the first score per run, every pair of runs over all volumes, cautions."""
    group = comparison.overall
    return " ".join(
        [_scored(comparison), *(_pair(comparison, d.first, d.second) for d in _pairs(group)), *cautions(group)]
    )


def left_out_text(comparison: Comparison) -> str:
    """Sentence naming the conditions that were not compared; "" where all were."""
    conditions = ", ".join(map(condition_text, comparison.left_out))
    return f"Not in all runs, and so left out: {conditions}." if conditions else ""


def _pairs(group: Group) -> list[Difference]:
    return next(iter(group.differences.values()), [])


def _scored(comparison: Comparison) -> str:
    group, score = comparison.overall, next(iter(comparison.scores), None)
    over = f"Over {units_text(group)} ({group.title}, effective acceleration {group.effective:.2f})"
    if score is None:
        return f"{over} the runs have no score in common."
    means = [f"{name} {_mean_text(mean, score)}" for name, mean in group.means[score].items()]
    return f"{over} the mean {SCORE_TABLE[score].heading} is: {', '.join(means)}."


def _mean_text(mean: Mean, score: str) -> str:
    if mean.interval is None:
        return "undefined"
    return f"{SCORE_TABLE[score].shown(mean.interval.mean)} {range_text(mean.interval, score)}"


def _pair(comparison: Comparison, first: str, second: str) -> str:
    """Sentence comparing two runs by the main scores."""
    parts = []
    for score in main_scores(comparison):
        (d,) = (d for d in comparison.overall.differences[score] if (d.first, d.second) == (first, second))
        shown = f"{_signed(d.interval, score)} " if d.interval else ""
        parts.append(f"{SCORE_TABLE[score].heading} {shown}({verdict(d)})")
    return f"{second} against {first}: {'; '.join(parts)}."


def cautions(group: Group) -> Iterator[str]:
    """Warnings on the numbers of a group: few units, one patient, undefined scores."""
    if group.is_one_patient:
        yield "All volumes are of one patient: the intervals tell how these differ, nothing of other patients."
    if group.num_units == 1:
        yield "One independent volume, or patient, gives no interval: do not conclude from it."
    elif group.num_units < MIN_PAIRS:
        count = _plural(group.num_units, "independent volume")
        yield f"With only {count} the intervals are rough and likely too narrow: do not conclude from them."
    undefined = sum(mean.num_undefined for means in group.means.values() for mean in means.values())
    if undefined:
        are = "is" if undefined == 1 else "are"
        yield f"{_plural(undefined, 'score')} {are} undefined and left out, in a difference together with the partner."


def print_comparison(comparison: Comparison) -> None:
    """Prints the means, the paired differences and the summary."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160, highlight=False)
    groups = [*comparison.groups, *comparison.conditions[1:]]
    console.print(_means_table(comparison, groups))
    if len(comparison.runs) > 1:
        console.print(_differences_table(comparison, groups))
    rest = [SCORE_TABLE[score].heading for score in comparison.scores if score not in main_scores(comparison)]
    if rest and len(comparison.runs) > 1:
        console.print(f"Differences of {', '.join(rest)} are in the report: --output DIR.")
    for score in comparison.not_in_all:
        console.print(f"{SCORE_TABLE[score].heading} is not in all runs and was not compared.")
    if comparison.left_out:
        console.print(escape(left_out_text(comparison)), soft_wrap=True)
    console.print(escape(summary(comparison)), soft_wrap=True)


def _means_table(comparison: Comparison, groups: list[Group]) -> Table:
    table = Table(title="Means over volumes [95 % bootstrap interval]", title_justify="left")
    for column in ("volumes", "run", "n", "accel.", *(SCORE_TABLE[score].heading for score in comparison.scores)):
        table.add_column(column, justify="right" if column in ("n", "accel.") else "left")
    for group in groups:
        for name in comparison.runs:
            cells = [_cell(group, score, name) for score in comparison.scores]
            table.add_row(escape(group.title), escape(name), str(group.num_scans), f"{group.effective:.2f}", *cells)
        table.add_section()
    return table


def _cell(group: Group, score: str, name: str) -> str:
    mean = group.means[score][name]
    if mean.interval is None:
        return "-"
    shown = SCORE_TABLE[score].shown(mean.interval.mean)
    if name in best_runs(group, score):
        shown = f"[bold]{shown}[/]"
    undefined = f" ({mean.num_undefined} undefined)" if mean.num_undefined else ""
    return f"{shown} {escape(range_text(mean.interval, score))}{undefined}"


def _differences_table(comparison: Comparison, groups: list[Group]) -> Table:
    table = Table(title="Paired differences [95 % bootstrap interval]", title_justify="left")
    for column in ("volumes", "difference", "score", "mean", "verdict", "Wilcoxon p", "pairs"):
        table.add_column(column)
    for group in groups:
        for score in main_scores(comparison):
            for difference in group.differences[score]:
                table.add_row(*map(escape, difference_row(group, difference)))
        table.add_section()
    return table


def main_scores(comparison: Comparison) -> Sequence[str]:
    """Those of `MAIN_SCORES` that all runs have; without any of them, all their scores."""
    return [name for name in MAIN_SCORES if name in comparison.scores] or comparison.scores


def difference_row(group: Group, difference: Difference) -> DifferenceRow:
    """Table row of a difference."""
    interval, score = difference.interval, difference.score
    return DifferenceRow(
        volumes=group.title,
        runs=f"{difference.second} - {difference.first}",
        score=SCORE_TABLE[score].heading,
        mean=_signed(interval, score) if interval else "-",
        verdict=verdict(difference),
        p_value=p_text(difference),
        pairs=f"{difference.num_pairs}" + (f" ({difference.num_dropped} undefined)" if difference.num_dropped else ""),
    )
