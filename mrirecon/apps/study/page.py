"""Writes a study as one self-contained HTML file: findings, rankings, figures, provenance."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from markupsafe import Markup

from mrirecon.apps.study import figures
from mrirecon.apps.study.findings import findings
from mrirecon.apps.study.intervals import setting_difference, setting_interval
from mrirecon.apps.study.plan import Cell, Study
from mrirecon.apps.study.results import Family, PartResults, Setting, read_part, to_reach
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.reports.html import template
from mrirecon.reports.statistics import ConfidenceInterval
from mrirecon.system.atomic import write_whole

_SSIM, _PSNR = SCORE_TABLE["ssim"], SCORE_TABLE["psnr"]


class Row(NamedTuple):
    """Ranking row of a family at its best learning rate."""

    place: str
    label: str
    seeds: str
    chosen: str
    ssim: str
    interval: str
    behind: str
    psnr: str
    usable: str
    reach: str
    cost: str
    memory: str
    num_diverged: str


def write_page(study: Study, cells: Sequence[Cell], command: str) -> tuple[Path, str]:
    """Writes study.html to the study's folder.  -> its path, and the findings as text

    Raises InputError where a training's result is damaged, or a part has none.
    """
    parts = [read_part(study.output, part, cells, study.reach) for part in study.parts]
    found = {results.part.name: findings(results) for results in parts}
    run = parts[0].runs[0].content
    devices = sorted({each.content["device"] for results in parts for each in results.runs})
    page = template("study.html.jinja", Path(__file__).parent).render(
        study=study,
        ssim=_SSIM,
        psnr=_PSNR,
        parts=[_part(results, found[results.part.name]) for results in parts],
        command=command,
        made_by={
            "versions": ", ".join(f"{name} {v}" for name, v in run["versions"].items()),
            "device": ", ".join(devices),
        },
        conventions=run["conventions"] or {},
        config=json.dumps(run["config"], indent=2, ensure_ascii=False),
    )
    path = study.output / "study.html"
    write_whole(path, page)
    sections = ["\n".join([f"{r.part.title}", *(f"  {text}" for text in found[r.part.name])]) for r in parts]
    return path, "\n\n".join(sections)


def _part(results: PartResults, found: Sequence[str]) -> dict[str, Any]:
    part = results.part
    heat = figures.heat_map(results)
    return {
        "name": part.name,
        "title": part.title,
        "about": part.about,
        "settings": " ".join(part.settings),
        "axes": {key: ", ".join(map(str, values)) for key, values in part.axes.items()},
        "seeds": part.seeds,
        "budget": part.budget,
        "found": found,
        "rows": [_row(results, place, family) for place, family in enumerate(results.ranked)],
        "failed": [family.label for family in results.families if family.best is None],
        "zero_filled": results.zero_filled,
        "reach": results.reach,
        "usable": results.usable,
        "losses": [(t, Markup(f)) for t, f in figures.losses(results)] if part.question == "step_size" else [],
        "convergence": [Markup(figure) for figure in figures.convergence(results)] if results.ranked else [],
        "over_lr": [(title, Markup(figure)) for title, figure in figures.over_lr(results)],
        "heat_map": Markup(heat) if heat else None,
        "diverged": [
            (run.cell.folder, run.content["num_steps"], run.content["reason"])
            for run in results.runs
            if run.is_diverged
        ],
    }


def _row(results: PartResults, place: int, family: Family) -> Row:
    setting = family.best
    assert setting is not None
    interval, first = setting_interval(setting), results.ranked[0].best
    assert first is not None
    return Row(
        place=str(place + 1),
        label=family.label,
        seeds=str(len(setting.runs)) if setting.runs[0].is_trained else "",
        chosen=setting.chosen,
        ssim=_SSIM.shown(interval.mean),
        interval=_range(interval),
        behind="" if setting is first else _signed(setting_difference(setting, first)),
        psnr=_PSNR.shown(setting.mean("psnr")),
        usable=_usable(results, family),
        reach=_reach(setting, results.reach),
        cost=_cost(setting),
        memory=_memory(setting),
        num_diverged=str(sum(run.is_diverged for run in family.runs) or ""),
    )


def _range(interval: ConfidenceInterval, signed: bool = False) -> str:
    low, high = (_SSIM.shown(end, signed=signed) for end in (interval.low, interval.high))
    return "" if interval.low is None else f"[{low}, {high}]"


def _signed(interval: ConfidenceInterval | None) -> str:
    if interval is None:
        return "other volumes"
    return f"{_SSIM.shown(interval.mean, signed=True)} {_range(interval, signed=True)}"


def _usable(results: PartResults, family: Family) -> str:
    if results.usable is None or sum(setting.lr is not None for setting in family.settings) < 2:
        return ""
    width, is_open = family.usable_decades(results.usable)
    return f"{'≥ ' if is_open and width else ''}{width:.1f}"


def _reach(setting: Setting, ssim: float | None) -> str:
    """Steps and passes until an SSIM was reached, mean over seeds; how many reached it where not all did."""
    if ssim is None or not setting.runs[0].is_trained:
        return ""
    steps, passes = ([to_reach(run, ssim, over) for run in setting.runs] for over in ("step", "passes"))
    known = [step for step in steps if step is not None]
    if len(known) < len(steps):
        return f"by {len(known)} of {len(steps)} seeds" if known else "never"
    return f"{fmean(known):.0f} steps, {fmean(p or 0.0 for p in passes):.1f} passes"


def _cost(setting: Setting) -> str:
    seconds = setting.cost("seconds_per_step")
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"


def _memory(setting: Setting) -> str:
    """Optimizer state in copies of the weights, and on a GPU torch's peak memory."""
    weights, state, peak = (setting.cost(key) for key in ("weights_bytes", "state_bytes", "peak_bytes"))
    copies = f"{state / weights:.1f}" if weights and state is not None else "-"
    return copies + ("" if peak is None else f", {peak / 1e9:.2f} GB")
