"""Writes a report on evaluations as one self-contained HTML file: tables, plots, pictures, provenance."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mrirecon.metrics.scores import MAIN_SCORES, SCORE_TABLE
from mrirecon.reports import plots
from mrirecon.reports.comparison import Comparison, Group, compare
from mrirecon.reports.inputs import CURVES, read_curves, read_gallery
from mrirecon.reports.runs import condition_text, describe, score_of, volumes_of
from mrirecon.reports.text import (
    DifferenceRow,
    best_runs,
    difference_row,
    left_out_text,
    main_scores,
    range_text,
    summary,
    units_text,
)
from mrirecon.system.atomic import write_whole

_MAIN = [SCORE_TABLE[name] for name in MAIN_SCORES]
_AXES = {"train/loss": "training loss", **{f"val/{score.name}": score.heading for score in _MAIN}, "lr": "rate"}
_TITLES = {
    "train/loss": "Training loss",
    **{f"val/{score.name}": f"Validation {score.label}" for score in _MAIN},
    "lr": "Learning rate",
}


def write_report(
    output: Path,
    runs: Mapping[str, dict[str, Any]],
    galleries: Mapping[str, Path] | None = None,
    learning_curves: Mapping[str, Path] | None = None,
) -> Path:
    """Writes `output`/report.html atomically.  -> its path

    runs: contents of metrics.json by displayed name, the baseline first. galleries: folders with gallery.json and its
    pictures, by name of the run. learning_curves: folders with TensorBoard events, by name of the run.

    Raises ConfigError where runs may not be compared, InputError where a run or a gallery is invalid.
    """
    comparison = compare(runs)
    page = template("report.html.jinja").render(
        comparison=comparison,
        summary=summary(comparison),
        left_out=left_out_text(comparison),
        scores=[(score, SCORE_TABLE[score].heading) for score in comparison.scores],
        not_in_all=[SCORE_TABLE[score].heading for score in comparison.not_in_all],
        tables=[_table(comparison, group) for group in comparison.groups],
        differences=_differences(comparison, comparison.groups, main_scores(comparison)),
        all_differences=_differences(comparison, comparison.groups),
        distributions=_distributions(comparison),
        slices=_slices(comparison),
        conditions=_conditions(comparison),
        condition_tables=[
            _table(comparison, group) | ({} if group.condition else {"title": f"{group.title}, {condition_text('')}"})
            for group in comparison.conditions
        ],
        condition_differences=_differences(comparison, comparison.conditions[1:]),
        galleries={name: read_gallery(folder) for name, folder in (galleries or {}).items()},
        curves=_curves(comparison, learning_curves or {}),
        undefined=_undefined(comparison),
        volumes=_volumes(comparison),
        provenance=_provenance(comparison),
        conventions=next(iter(runs.values()))["conventions"],
        colours={name: plots.colour_of(place) for place, name in enumerate(runs)},
    )
    output.mkdir(parents=True, exist_ok=True)
    path = output / "report.html"
    write_whole(path, page)
    return path


def template(name: str, folder: Path | None = None) -> Any:
    """Jinja template of this folder, or of `folder`, whose templates may extend those here."""
    folders = [folder, Path(__file__).parent] if folder else [Path(__file__).parent]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _table(comparison: Comparison, group: Group) -> dict[str, Any]:
    """Means of a group: a row per run, a cell (mean, interval, is best, note) per score."""
    rows = []
    for name in comparison.runs:
        cells = []
        for score in comparison.scores:
            found = group.means[score][name]
            note = f"{found.num_undefined} undefined" if found.num_undefined else ""
            shown = ("-", "") if found.interval is None else _shown(found.interval, score)
            cells.append((*shown, name in best_runs(group, score), note))
        rows.append((name, cells))
    return {"title": group.title, "units": units_text(group), "effective": f"{group.effective:.2f}", "rows": rows}


def _shown(interval: Any, score: str) -> tuple[str, str]:
    return SCORE_TABLE[score].shown(interval.mean), range_text(interval, score)


def _differences(
    comparison: Comparison, groups: Sequence[Group], scores: Sequence[str] | None = None
) -> list[list[DifferenceRow]]:
    """Rows of the defined differences, per group; empty for a single run.

    scores: None: all scores in every group. Otherwise groups of a single volume are left out where there are others.
    """
    if len(comparison.runs) < 2:
        return []
    several = [group for group in groups if group.num_units > 1]
    shown = groups if scores is None else several or groups
    rows = [
        [difference_row(g, d) for score in scores or comparison.scores for d in g.differences[score] if d.interval]
        for g in shown
    ]
    return [some for some in rows if some]


def _panels(comparison: Comparison) -> list[Group]:
    """Groups of one contrast and acceleration; the overall group where there are none."""
    return [group for group in comparison.groups if group.acquisition != "all"] or [comparison.overall]


def _distributions(comparison: Comparison) -> list[tuple[str, list[Markup]]]:
    found = []
    for group in _panels(comparison):
        figures = []
        for score in (score for score in MAIN_SCORES if score in comparison.scores):
            values = _values(comparison, group, score)
            label = SCORE_TABLE[score].heading
            text = f"{label} of every volume by run: {group.title}; {_means_in_words(comparison, group, score)}"
            figures.append(Markup(plots.distribution(values, label, text)))
        found.append((f"{group.title} ({units_text(group)})", figures))
    return found


def _values(comparison: Comparison, group: Group, score: str) -> dict[str, list[float | None]]:
    tables = {name: volumes_of(run) for name, run in comparison.runs.items()}
    return {name: [score_of(table[key], score) for key in group.keys] for name, table in tables.items()}


def _means_in_words(comparison: Comparison, group: Group, score: str) -> str:
    means = {name: group.means[score][name].interval for name in comparison.runs}
    shown = {name: SCORE_TABLE[score].shown(i.mean) if i else "undefined" for name, i in means.items()}
    return ", ".join(f"{name} mean {mean}" for name, mean in shown.items())


def _slices(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Figures of SSIM over slice position, for each group with scores per slice."""
    found = []
    for group in _panels(comparison):
        curves: dict[str, list[plots.Curve]] = {}
        for name, run in comparison.runs.items():
            table = volumes_of(run)
            known: list[plots.Curve] = [
                curve for key in group.keys if (curve := _curve(table[key].get("slices") or {}))
            ]
            curves |= {name: known} if known else {}
        if curves:
            svg = plots.along_slices(curves, "SSIM", f"SSIM over slice position by run: {group.title}")
            found.append((group.title, Markup(svg)))
    return found


def _curve(slices: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Slice positions from 0 to 1 and their SSIM; None for fewer than two defined values."""
    pairs = zip(slices.get("slice_num") or (), slices.get("ssim") or (), strict=False)
    points = sorted((number, value) for number, value in pairs if value is not None)
    if len(points) < 2:
        return None
    first, last = points[0][0], points[-1][0]
    return [(place - first) / max(last - first, 1) for place, _ in points], [value for _, value in points]


def _conditions(comparison: Comparison) -> list[tuple[str, Markup]]:
    """Figures of SSIM over the strength of each kind of disturbance, starting with the undisturbed data."""
    if "ssim" not in comparison.scores or not comparison.conditions:
        return []
    base, *others = comparison.conditions
    kinds: dict[str, list[Group]] = {}
    for group in others:
        kinds.setdefault(" ".join(re.sub(r"[-+]?\d+(\.\d+)?", " ", group.condition).split()), []).append(group)
    found = []
    for kind, groups in kinds.items():
        places = [condition_text(base.condition), *(group.condition for group in groups)]
        runs = {name: [g.means["ssim"][name].interval for g in (base, *groups)] for name in comparison.runs}
        svg = plots.along_conditions(places, runs, "SSIM", f"SSIM by run at: {', '.join(places)}")
        found.append((kind, Markup(svg)))
    return found


def _curves(comparison: Comparison, folders: Mapping[str, Path]) -> list[tuple[str, Markup]]:
    place = {name: number for number, name in enumerate(comparison.runs)}
    read = {name: read_curves(folder) for name, folder in folders.items()}
    found = []
    for tag in CURVES:
        curves = {name: (place[name], tags[tag]) for name, tags in read.items() if tag in tags}
        if curves:
            svg = plots.learning_curve(curves, _AXES[tag], f"{_TITLES[tag]} over steps of {', '.join(curves)}")
            found.append((_TITLES[tag], Markup(svg)))
    return found


def _undefined(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Undefined scores: run, volume, score, reason."""
    return [
        (name, describe(key), SCORE_TABLE[score].heading if score in SCORE_TABLE else score, str(reason))
        for name, run in comparison.runs.items()
        for key, volume in volumes_of(run).items()
        for score, reason in (volume.get("undefined") or {}).items()
    ]


def _volumes(comparison: Comparison) -> list[tuple[str, str, str, str, list[str]]]:
    """Rows of all volumes of all runs: volume, contrast, effective acceleration, run, scores."""
    tables = {name: volumes_of(run) for name, run in comparison.runs.items()}
    rows = [(key, name, table[key]) for key in next(iter(tables.values())) for name, table in tables.items()]
    return [
        (describe(key), str(v["acquisition"]), f"{v['acceleration']:.2f}", name, _scores_of(v, comparison))
        for key, name, v in rows
    ]


def _scores_of(volume: Mapping[str, Any], comparison: Comparison) -> list[str]:
    return [SCORE_TABLE[score].shown(score_of(volume, score)) for score in comparison.scores]


def _provenance(comparison: Comparison) -> list[tuple[str, dict[str, str], str]]:
    """Per run: name, entries of `made_by` as text, config as JSON."""
    found = []
    for name, run in comparison.runs.items():
        made_by = dict(run["made_by"])
        config = json.dumps(made_by.pop("config", None) or {}, indent=2, ensure_ascii=False)
        found.append((name, {key: _text(value) for key, value in made_by.items()}, config))
    return found


def _text(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)
