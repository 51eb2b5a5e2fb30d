"""Scores a model on a split, per volume, mask and condition, and writes down conventions and provenance."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import pytorch_lightning as pl

from mrirecon.data.datamodule import ReconDataModule
from mrirecon.data.provenance import Origin, conventions, made_by, mask_digest, model_name, nominal_acceleration
from mrirecon.data.sources import MaskedSlices
from mrirecon.io.scan import ScanInfo
from mrirecon.metrics.scores import ALL_SCORES
from mrirecon.metrics.volume import mean_score
from mrirecon.models.image_domain import ZeroFilled
from mrirecon.system.invocation import command_line
from mrirecon.training.callbacks.record import Record
from mrirecon.training.module import ReconModule

log = logging.getLogger(__name__)

Metrics = dict[str, Any]
"""Content of metrics.json."""

ALL = "all"


class Pass(NamedTuple):
    """Results of one pass over a data set under one condition; condition "": the data as they are."""

    condition: str
    meaning: str
    datamodule: ReconDataModule
    dataset: MaskedSlices
    results: Mapping[str, Any]  # from `VolumeScores.compute`
    zero_filled: Mapping[str, Any] | None  # the same for the zero-filled images


def evaluate(trainer: pl.Trainer, module: ReconModule, datamodule: ReconDataModule, ckpt: str | None) -> Metrics:
    """All scores of the split `datamodule.split` without conditions, see `metrics_of`."""
    return metrics_of(run_passes(trainer, module, datamodule), origin_of(trainer, module, ckpt))


def run_passes(
    trainer: pl.Trainer,
    module: ReconModule,
    datamodule: ReconDataModule,
    scores: Sequence[str] = ALL_SCORES,
    others: Mapping[str, ReconDataModule] | None = None,
    baseline: bool = False,
) -> list[Pass]:
    """Scores the split as it is, then under each condition of `datamodule`, then each data set in `others`.

    others: data sets by the name of their condition. baseline: scores the zero-filled images in the same pass.
    """
    module.choose_scores(scores, baseline)
    passes = [_pass(trainer, module, datamodule)]
    for condition in datamodule.conditions:
        log.info("Scoring under: %s", condition.name)
        datamodule.score_under(condition)
        passes.append(_pass(trainer, module, datamodule, condition.name, condition.meaning))
    if datamodule.conditions:
        datamodule.score_under(None)
    for name, other in (others or {}).items():
        log.info("Scoring %s: %s", name, other.where)
        passes.append(_pass(trainer, module, other, name, f"the volumes of {other.where}, as they are"))
        if any(info.simulated for info in other.scored().source.volumes):
            passes[-1] = passes[-1]._replace(meaning=f"{passes[-1].meaning}: simulated (docs/simulation.md)")
    return passes


def _pass(
    trainer: pl.Trainer, module: ReconModule, datamodule: ReconDataModule, condition: str = "", meaning: str = ""
) -> Pass:
    trainer.test(module, datamodule=datamodule, verbose=False)
    return Pass(condition, meaning, datamodule, datamodule.scored(), module.results, module.baseline_results)


def origin_of(trainer: pl.Trainer, module: ReconModule, ckpt: str | None) -> Origin:
    """Provenance of a model's scores: checkpoint, name, config, command."""
    records = [callback for callback in trainer.callbacks if isinstance(callback, Record)]  # type: ignore[attr-defined]
    config = records[0].config if records else {}
    # Named after the config's target, since several models share a class.
    target = "" if isinstance(module.model, ZeroFilled) else str((config.get("model") or {}).get("_target_", ""))
    name = model_name(target.rpartition(".")[2] or type(module.model).__name__)
    return Origin(ckpt, name, config, command_line())


def baseline_origin(origin: Origin) -> Origin:
    """Provenance of the zero-filled scores of the same passes."""
    return origin._replace(checkpoint=None, model=model_name(ZeroFilled.__name__))


def metrics_of(passes: Sequence[Pass], origin: Origin, baseline: bool = False) -> Metrics:
    """Content of metrics.json. baseline: for the zero-filled images instead of the model.

    Each score's mean over the volumes without a condition; `num_undefined`; `volumes`; `grid`: means per condition,
    mask and acquisition; `conditions`: their descriptions; `conventions`; `made_by`. Undefined scores are None and left
    out of the means.
    """
    first = passes[0]
    others = {one.condition: _scored_volumes(one) for one in passes if one.datamodule is not first.datamodule}
    rows = [row for one in passes for row in _rows(one, baseline)]
    sound = [row for row in rows if row["condition"] == ""]
    scores = [name for name in ALL_SCORES if name in first.results]
    num_slices = sum(row["num_slices"] for row in first.results["volumes"])
    return {
        **{name: mean_score(sound, name) for name in scores},
        "num_undefined": sum(len(row.get("undefined", ())) for row in rows),
        "volumes": rows,
        "grid": list(_grid(rows, scores)),
        "conditions": {one.condition: one.meaning for one in passes if one.condition},
        "conventions": conventions(first.datamodule, first.dataset, num_slices),
        "made_by": made_by(origin, first.datamodule, _scored_volumes(first), others),
    }


def _scored_volumes(one: Pass) -> list[tuple[ScanInfo, float]]:
    """Scored volumes with their data ranges; a volume scored under several masks appears once."""
    source = one.dataset.source
    numbers = dict.fromkeys(row["volume"] % len(source.volumes) for row in one.results["volumes"])
    return [(source.volumes[number], source.data_ranges[number]) for number in numbers]


def _rows(one: Pass, baseline: bool) -> Iterator[dict[str, Any]]:
    results = one.zero_filled if baseline else one.results
    assert results is not None
    for row in results["volumes"]:
        yield _row(row, one, [name for name in ALL_SCORES if name in results])


def _row(row: Mapping[str, Any], one: Pass, scores: Sequence[str]) -> dict[str, Any]:
    info, mask_name = one.dataset.volume(row["volume"])
    folder = one.dataset.source.folder(info)
    sampling = one.dataset.volume_sampling(info, mask_name)
    return {
        "name": info.name,
        **({"folder": folder} if folder else {}),
        "acquisition": info.acquisition,
        "patient": info.patient,
        "mask": mask_name,
        "condition": one.condition,
        "num_slices": row["num_slices"],
        "acceleration": round(sampling.acceleration, 4),
        "nominal_acceleration": nominal_acceleration(one.dataset.masks[mask_name]) if info.mask is None else None,
        "mask_sha256": mask_digest(sampling.mask),
        "data_range": row["data_range"],  # in the units of the file
        **{name: row[name] for name in scores},
        **({"undefined": row["undefined"]} if row["undefined"] else {}),
        "slices": row["slices"],
    }


def _grid(rows: Sequence[Mapping[str, Any]], scores: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Means per condition, mask and acquisition, and over all acquisitions."""
    for condition in dict.fromkeys(row["condition"] for row in rows):
        for mask in dict.fromkeys(row["mask"] for row in rows):
            cell = [row for row in rows if (row["condition"], row["mask"]) == (condition, mask)]
            acquisitions = sorted({row["acquisition"] for row in cell})
            for name in [*(acquisitions if len(acquisitions) > 1 else ()), ALL]:
                some = [row for row in cell if name in (row["acquisition"], ALL)]
                if some:
                    yield {"condition": condition, "mask": mask, "acquisition": name, **_means(some, scores)}


def _means(rows: Sequence[Mapping[str, Any]], scores: Sequence[str]) -> dict[str, Any]:
    nominal = {row["nominal_acceleration"] for row in rows}
    return {
        "num_volumes": len(rows),
        "acceleration": round(fmean(row["acceleration"] for row in rows), 4),
        "nominal_acceleration": nominal.pop() if len(nominal) == 1 else None,
        **{score: mean_score(rows, score) for score in scores},
    }
