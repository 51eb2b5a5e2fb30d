"""Prints scores as a table: a row per condition, mask, acquisition and model."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrirecon.metrics.scores import MAIN_SCORES, SCORE_TABLE, Score


def print_scores(title: str, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the `grid` of each report as one table. reports: contents of metrics.json by name of the model."""
    first = next(iter(reports.values()))
    scores = [SCORE_TABLE[name] for name in MAIN_SCORES if name in first]
    words = [key for key in ("condition", "mask") if any(cell[key] for cell in first["grid"])]
    table = Table(title=escape(title), title_justify="left")
    for column in (*words, "acquisition", "model"):
        table.add_column(column)
    for column in ("volumes", "accel.", *(score.heading for score in scores)):
        table.add_column(column, justify="right")
    for cells in zip(*(report["grid"] for report in reports.values()), strict=True):
        for name, cell in zip(reports, cells, strict=True):
            texts = (*(cell[word] or "-" for word in words), cell["acquisition"], name)
            table.add_row(*map(escape, texts), *_numbers(cell, scores))
        if len(reports) > 1 or cells[0]["acquisition"] == "all":
            table.add_section()
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100 + 14 * len(words))
    console.print(table)
    _print_remarks(console, reports)


def _numbers(cell: Mapping[str, Any], scores: Sequence[Score]) -> list[str]:
    shown = (score.shown(cell[score.name]) for score in scores)
    return [str(cell["num_volumes"]), f"{cell['acceleration']:.2f}", *shown]


def _print_remarks(console: Console, reports: Mapping[str, Mapping[str, Any]]) -> None:
    how = next(iter(reports.values()))["conventions"]
    if how["simulated"] != "no":
        console.print(f"simulated: {how['simulated']}", style="bold", markup=False)
    if how["precision"] != "single":
        console.print(f"precision: {how['precision']}", markup=False)
    if how["slices"] != "all":
        console.print(f"Scored {how['slices']}.")
    rows = [row for report in reports.values() for row in report["volumes"]]
    num_undefined = sum(score in MAIN_SCORES for row in rows for score in row.get("undefined", ()))
    if num_undefined:
        console.print(f"{num_undefined} scores are undefined (reasons in metrics.json) and left out of the means.")
