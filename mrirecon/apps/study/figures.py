"""Figures of a study as SVG: losses, convergence with seed bands, SSIM over learning rates, heat map."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

from mrirecon.apps.study.results import Family, PartResults, Run, Setting
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.reports.plots import colour_of, dash_of, svg_panel

_MOST_LINES = 7  # in one panel
_MOST_TICKS = 6
_INK = "#010203"  # `svg_panel` replaces it by the page's text colour


def convergence(results: PartResults) -> list[str]:
    """Validation SSIM over passes through the training data, each family at its best learning rate.  -> SVGs

    Lines are means over seeds, bands reach from the lowest to the highest seed.
    """
    families, limits = results.ranked, _limits(results)
    groups = [families[i : i + _MOST_LINES] for i in range(0, len(families), _MOST_LINES)]
    return [_convergence(results, group, limits) for group in groups]


def _convergence(results: PartResults, families: Sequence[Family], limits: tuple[float, float]) -> str:
    def draw(ax: Axes) -> None:
        for place, family in enumerate(families):
            assert family.best is not None
            x, low, mean, high = _band(family.best.runs)
            if not family.best.runs[0].is_trained:  # constant over all passes
                x, low, mean, high = (np.resize(a, 2) for a in (np.array([0, results.part.budget]), low, mean, high))
            ax.fill_between(x, low, high, color=colour_of(place), alpha=0.2, lw=0)
            label = f"{family.label} ({family.best.chosen})" if family.best.chosen else family.label
            ax.plot(x, mean, color=colour_of(place), ls=dash_of(place), marker=".", ms=3, lw=1.5, label=label)
        _zero_filled(ax, results)
        ax.set(xlabel="passes over the training data", ylabel="validation SSIM", ylim=limits)
        _legend(ax)

    names = ", ".join(family.label for family in families)
    return svg_panel(draw, f"Validation SSIM over passes: {names}")


def _band(runs: Sequence[Run]) -> tuple[Any, Any, Any, Any]:
    """Passes, and lowest, mean and highest SSIM over seeds."""
    curves = [run.curve("ssim") for run in runs]
    length = min(len(y) for _, y in curves)
    values = np.array([y[:length] for _, y in curves])
    return np.array(curves[0][0][:length]), values.min(axis=0), values.mean(axis=0), values.max(axis=0)


def _limits(results: PartResults) -> tuple[float, float]:
    """Common y limits of a part's panels: all final values fit, low initial values are cut off."""
    curves = [run.curve("ssim")[1] for family in results.ranked if family.best for run in family.best.runs]
    floor = [] if results.zero_filled is None else [results.zero_filled]
    ends = [curve[-1] for curve in curves] + floor
    high, low = max([*floor, *(max(curve) for curve in curves)]), min(ends)
    pad = max(0.25 * (high - low), 0.08)
    return max(low - pad, min([*floor, *(min(curve) for curve in curves)]) - 0.01), high + 0.2 * pad


def over_lr(results: PartResults) -> list[tuple[str, str]]:
    """Final SSIM over the learning rate; with two axes, a panel per value of the first.  -> (title, SVG)"""
    families = [family for family in results.families if len(family.settings) > 1 and family.settings[0].lr is not None]
    axes = _varied(families)
    if len(axes) < 2:
        groups = [families[i : i + _MOST_LINES] for i in range(0, len(families), _MOST_LINES)]
        return [("", _over_lr(results, group, [family.label for family in group])) for group in groups]
    found = []
    for value in dict.fromkeys(family.axes[axes[0]] for family in families):
        group = [family for family in families if family.axes[axes[0]] == value]
        for some in (group[i : i + _MOST_LINES] for i in range(0, len(group), _MOST_LINES)):
            labels = [" + ".join(str(family.axes[key]) for key in axes[1:]) for family in some]
            found.append((str(value), _over_lr(results, some, labels)))
    return found


def _varied(families: Sequence[Family]) -> list[str]:
    """Axes along which the families differ; empty where they do not have the same axes."""
    keys = {tuple(family.axes) for family in families}
    return [] if len(keys) != 1 else [key for key in keys.pop() if len({f.axes[key] for f in families}) > 1]


def _over_lr(results: PartResults, families: Sequence[Family], labels: Sequence[str]) -> str:
    scores = [s.score for family in results.families for s in family.settings if s.score is not None]
    floor = min(scores, default=0.0) if results.zero_filled is None else results.zero_filled
    bottom = max(min([*scores, floor]), floor - 0.3) - 0.03

    def draw(ax: Axes) -> None:
        for place, (family, label) in enumerate(zip(families, labels, strict=True)):
            x = [setting.lr or math.nan for setting in family.settings]
            y = [math.nan if s.score is None else max(s.score, bottom) for s in family.settings]
            ax.plot(x, y, color=colour_of(place), ls=dash_of(place), marker="o", ms=3, lw=1.3, label=label)
            for setting in family.settings:
                _seeds(ax, setting, place, bottom)
        _zero_filled(ax, results)
        ax.set(xscale="log", xlabel="learning rate (x: diverged)", ylabel="final validation SSIM")
        ax.set_ylim(bottom - 0.02, max([*scores, floor]) + 0.02)
        _plain_numbers(ax.xaxis)
        ax.xaxis.set_major_locator(LogLocator())
        rates = sorted({s.lr for family in families for s in family.settings if s.lr is not None})
        if len(rates) <= _MOST_TICKS:
            ax.set_xticks(rates)
        _legend(ax)

    return svg_panel(draw, f"Final SSIM over the learning rate: {', '.join(labels)}")


def _seeds(ax: Axes, setting: Setting, place: int, bottom: float) -> None:
    assert setting.lr is not None
    for run in setting.runs:
        if run.is_sound:
            ax.plot(
                setting.lr, max(run.final("ssim") or bottom, bottom), ".", color=colour_of(place), ms=2.5, alpha=0.6
            )
        elif run.is_diverged:
            ax.plot(setting.lr, bottom - 0.005 * (place % 4), "x", color=colour_of(place), ms=4)


def heat_map(results: PartResults) -> str | None:
    """Heat map of the best final SSIM over two axes.  -> SVG; None unless exactly two axes vary"""
    axes = _varied(results.families)
    if len(axes) != 2:
        return None
    rows, columns = (list(dict.fromkeys(f.axes[key] for f in results.families)) for key in axes)
    values = np.full((len(rows), len(columns)), np.nan)
    words = np.full(values.shape, "", dtype=object)
    for family in results.families:
        place = rows.index(family.axes[axes[0]]), columns.index(family.axes[axes[1]])
        if family.best is not None:
            values[place] = family.best.score
        shown = SCORE_TABLE["ssim"].shown_short(float(values[place])).lstrip("0")
        words[place] = shown if family.best else "div." if family.is_diverged else "-"
    if np.isnan(values).all():
        return None
    floor = 0.0 if results.zero_filled is None else results.zero_filled - 0.05

    def draw(ax: Axes) -> None:
        low = max(float(np.nanmin(values)), floor)
        high = max(float(np.nanmax(values)), low + 1e-3)
        ax.imshow(values, cmap="viridis", aspect="auto", vmin=low, vmax=high)
        ax.set_xticks(range(len(columns)), [str(c) for c in columns])
        ax.set_yticks(range(len(rows)), [str(r) for r in rows])
        ax.grid(visible=False)
        for (i, j), value in np.ndenumerate(values):
            dark = not np.isnan(value) and (value - low) / (high - low) < 0.55
            ax.text(j, i, str(words[i, j]), ha="center", va="center", color="#eeeeee" if dark else "#111111")

    height = 1.2 + 0.3 * len(rows)
    text = f"Best final SSIM by {axes[0]} and {axes[1]}"
    return svg_panel(draw, text, width=max(3.7, 1.2 + 0.7 * len(columns)), height=max(2.2, height))


def losses(results: PartResults) -> list[tuple[str, str]]:
    """Training loss over steps per learning rate, for the first seed.  -> (title, SVG)"""
    return [(family.label, _losses(family)) for family in results.families if any(_known(s) for s in family.settings)]


def _known(setting: Setting) -> list[float]:
    """Finite losses of the first seed."""
    return [loss for loss in setting.runs[0].content["losses"] if loss is not None]


def _losses(family: Family) -> str:
    settings = [setting for setting in family.settings if _known(setting)]
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(settings)))
    start, least = max(_known(s)[0] for s in settings), min(min(_known(s)) for s in settings)

    def draw(ax: Axes) -> None:
        for setting, colour in zip(settings, colours, strict=True):
            values = _known(setting)
            ax.plot(range(1, len(values) + 1), values, color=colour, lw=1.2, label=setting.chosen)
            if setting.runs[0].is_diverged:
                ax.plot(len(values), min(values[-1], 5 * start), "x", color=colour, ms=5)
        ax.set(yscale="log", xlabel="optimizer step", ylabel="training loss")
        ax.set_ylim(least * 0.8, start * 6)
        _plain_numbers(ax.yaxis)
        _legend(ax)

    return svg_panel(draw, f"Training loss over steps by learning rate: {family.label}")


def _zero_filled(ax: Axes, results: PartResults) -> None:
    if results.zero_filled is not None:
        ax.axhline(results.zero_filled, color=_INK, lw=0.8, ls=":", label="zero-filled")


def _plain_numbers(axis: Axis) -> None:
    """Plain tick labels for a logarithmic axis, without mathtext."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        ax.legend(
            handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1, fontsize=7,
            ncols=2 if max(map(len, labels)) > 12 else 4,
        )  # fmt: skip
