"""Figures of a report as inline SVG in the page's text colour."""

import hashlib
import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mrirecon.reports.statistics import ConfidenceInterval

Values = Mapping[str, Sequence[float | None]]
Curve = tuple[Sequence[float], Sequence[float]]

# Legible on white and near-black; markers and dashes distinguish runs without colour.
_COLOURS = ("#7f8a96", "#3182ce", "#dd6b20", "#2f9e6e", "#c2528b", "#8a68d0", "#a68a1c", "#2a9fae")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")
_INK = "#010203"  # stands for the page's text colour until the SVG is written
_MAX_PAIRED, _MAX_POINTS, _MAX_LINES = 30, 400, 40
_STYLE: dict[Any, Any] = {
    "font.size": 8, "font.family": "sans-serif", "text.parse_math": False, "svg.fonttype": "none",
    "svg.hashsalt": "mrirecon", "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": _INK, "grid.alpha": 0.12, "legend.frameon": False,
}  # fmt: skip


def dash_of(run: int) -> str:
    """Line style of the n-th run in every figure."""
    return _DASHES[run % len(_DASHES)]


def colour_of(run: int) -> str:
    """Colour of the n-th run in every figure."""
    return _COLOURS[run % len(_COLOURS)]


def distribution(values: Values, label: str, description: str) -> str:
    """Box plot of a score per run with a point per volume.  run -> (volume), the same volumes in each  -> SVG

    Up to 30 volumes are joined by lines from run to run; more than 400 points are shown as a density instead.
    """

    def draw(ax: Axes) -> None:
        columns = [np.array([np.nan if v is None else v for v in column], dtype=float) for column in values.values()]
        num_volumes = len(columns[0])
        if num_volumes <= _MAX_PAIRED:
            ax.plot(range(len(columns)), np.stack(columns), color=_INK, alpha=0.2, lw=0.7, zorder=1)
        for place, column in enumerate(columns):
            _distribution_of_run(ax, place, column[np.isfinite(column)])
        ax.set_xlim(-0.6, len(columns) - 0.4)
        turned = len(columns) > 3 or max(map(len, values)) > 12
        _name_places(ax, list(values), turned)
        ax.set_ylabel(label)
        ax.grid(axis="x", visible=False)

    return svg_panel(draw, description)


def _distribution_of_run(ax: Axes, place: int, column: np.ndarray) -> None:
    colour, marker = colour_of(place), _MARKERS[place % len(_MARKERS)]
    if len(column) > _MAX_POINTS and np.ptp(column) > 0:
        body = ax.violinplot([column], [place], widths=0.7, showextrema=False)["bodies"][0]  # type: ignore[index]
        body.set(facecolor=colour, edgecolor="none", alpha=0.35)
    elif len(column):
        shift = np.random.default_rng(0).uniform(-0.09, 0.09, len(column)) if len(column) > _MAX_PAIRED else 0
        ax.plot(place + np.zeros(len(column)) + shift, column, marker, color=colour, ms=3.5, mec="none", alpha=0.7)
    if len(column) > 2:
        line = {"color": colour, "linewidth": 1.2}
        ax.boxplot(
            [column], positions=[place], widths=0.45, showfliers=False, boxprops=line, whiskerprops=line,
            capprops=line, medianprops={**line, "linewidth": 2}, manage_ticks=False,
        )  # fmt: skip


def along_slices(curves: Mapping[str, Sequence[Curve]], label: str, description: str) -> str:
    """Mean score of each run over the slice position, 0 to 1.  run -> volumes  -> SVG"""
    grid = np.linspace(0, 1, 21)

    def draw(ax: Axes) -> None:
        for place, (name, volumes) in enumerate(curves.items()):
            if len(volumes) <= _MAX_LINES:
                for x, y in volumes:
                    ax.plot(x, y, color=colour_of(place), alpha=0.25, lw=0.6)
            mean = np.mean([np.interp(grid, x, y) for x, y in volumes], axis=0)
            ax.plot(grid, mean, color=colour_of(place), lw=1.8, ls=_DASHES[place % len(_DASHES)], label=_short(name))
        ax.set(xlabel="position in the volume (0 first slice, 1 last)", ylabel=label)
        _legend(ax)

    return svg_panel(draw, description)


def along_conditions(
    places: Sequence[str], runs: Mapping[str, Sequence[ConfidenceInterval | None]], label: str, description: str
) -> str:
    """Means with error bars per condition.  run -> (condition)  -> SVG"""

    def draw(ax: Axes) -> None:
        for number, (name, intervals) in enumerate(runs.items()):
            known = [(place, found) for place, found in enumerate(intervals) if found is not None]
            shift = 0.08 * (number - (len(runs) - 1) / 2)
            x = [place + shift for place, _ in known]
            means = [found.mean for _, found in known]
            errors = np.transpose([_reach(found) for _, found in known]) if known else np.zeros((2, 0))
            ax.errorbar(
                x, means, errors, color=colour_of(number), lw=1.4, ls=_DASHES[number % len(_DASHES)],
                marker=_MARKERS[number % len(_MARKERS)], ms=4, capsize=2, label=_short(name),
            )  # fmt: skip
        _name_places(ax, places, turned=True)
        ax.set_ylabel(label)
        _legend(ax)

    return svg_panel(draw, description)


def _reach(found: ConfidenceInterval) -> tuple[float, float]:
    """Lengths of the error bar below and above the mean; 0 without an interval."""
    if found.low is None or found.high is None:
        return 0.0, 0.0
    return max(0.0, found.mean - found.low), max(0.0, found.high - found.mean)


def learning_curve(curves: Mapping[str, tuple[int, Curve]], label: str, description: str) -> str:
    """A quantity over training steps.  run -> (index of the run, (steps, values))  -> SVG"""

    def draw(ax: Axes) -> None:
        for name, (place, (steps, values)) in curves.items():
            style = "-" if len(steps) > 60 else f"{_DASHES[place % len(_DASHES)]}{_MARKERS[place % len(_MARKERS)]}"
            ax.plot(steps, values, style, color=colour_of(place), lw=1.3, ms=2.5, label=_short(name))
        ax.set(xlabel="optimizer step", ylabel=label)
        _legend(ax)

    return svg_panel(draw, description)


def _name_places(ax: Axes, names: Sequence[str], turned: bool) -> None:
    how: dict[str, Any] = {"rotation": 30, "ha": "right"} if turned else {}
    ax.set_xticks(range(len(names)), [_short(name) for name in names], **how)


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        ax.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3, columnspacing=1)


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def svg_panel(draw: Callable[[Axes], None], description: str, width: float = 3.7, height: float = 2.7) -> str:
    """One panel as SVG. width, height: inches. description: its text alternative."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The page's fonts draw the text; matplotlib measures it with its own font, which may lack a glyph.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        FigureCanvasSVG(figure)
        draw(figure.add_subplot(facecolor="none"))
        written = io.StringIO()
        figure.savefig(
            written, format="svg", bbox_inches="tight", pad_inches=0.04,  # constrained layout ignores rotated labels
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )  # fmt: skip
    return _embeddable(written.getvalue(), description)


def _embeddable(svg: str, description: str) -> str:
    """The SVG for embedding in a page: ids prefixed, ink replaced by the page's text colour, style blocks removed."""
    prefix = f"plot-{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    box = re.search(r'viewBox="[-\d. ]+"', svg)
    assert box is not None
    body = svg[svg.index(">", svg.index("<svg")) + 1 :].replace(_INK, "currentColor")
    body = re.sub(r"<(metadata|style).*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{prefix}", body)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg role="img" aria-label="{html.escape(description)}" {box[0]} {names}>{body}'
