"""Scores of a model on a split, per volume, with the conventions they were made by."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mrirecon import __version__
from mrirecon.data.datamodule import ReconDataModule
from mrirecon.data.masks import describe_mask
from mrirecon.data.sources import MaskedSlices, effective_acceleration, image_size
from mrirecon.io.atomic import replacing
from mrirecon.metrics.volume import SCORES, mean_score
from mrirecon.module import ReconModule

Report = dict[str, Any]


def evaluate(trainer: pl.Trainer, module: ReconModule, datamodule: ReconDataModule, ckpt: str | None) -> Report:
    """Scores the split `datamodule.split`.

    -> the content of metrics.json: `ssim`, `psnr`, `nmse` (means over volumes), `num_undefined`, `volumes`,
    `conventions`, `made_by`. A score that is undefined is None, and is not in the mean.
    """
    trainer.test(module, datamodule=datamodule, verbose=False)
    dataset = datamodule.scored()
    return {
        **{name: module.results[name] for name in SCORES},
        "num_undefined": module.results["num_undefined"],
        "volumes": [_volume(row, dataset) for row in module.results["volumes"]],
        "conventions": _conventions(dataset, sum(row["num_slices"] for row in module.results["volumes"])),
        "made_by": _made_by(ckpt, datamodule),
    }


def _volume(row: Mapping[str, Any], dataset: MaskedSlices) -> dict[str, Any]:
    info, mask_name = dataset.volume(row["volume"])
    folder = dataset.source.folder(info)
    mask, _ = dataset.volume_mask(info, mask_name)
    return {
        "name": info.name,
        **({"folder": folder} if folder else {}),
        "acquisition": info.acquisition,
        "num_slices": row["num_slices"],
        **({"mask": mask_name} if mask_name else {}),
        "acceleration": round(effective_acceleration(info, mask), 4),
        "data_range": row["data_range"],  # in the units of the file
        **{name: row[name] for name in SCORES},
        **({"undefined": row["undefined"]} if row["undefined"] else {}),
    }


def _conventions(dataset: MaskedSlices, num_scored: int) -> dict[str, Any]:
    cropped = [info.name for info in dataset.source.volumes if image_size(info) != info.recon_size]
    return {
        "data_range": "maximum of the ground-truth volume",
        "slices": "all"
        if num_scored == len(dataset)
        else f"only {num_scored} of {len(dataset)}: not a score of the set",
        "target": "as in the file, not clamped",
        "crop": "the reconstruction to the target's size, both scored whole (fastmri.evaluate crops to a square)"
        + (f"; narrower k-space, both cropped: {cropped}" if cropped else ""),
        "ssim": "7x7 uniform window, K1 .01, K2 .03, sample covariance; mean over slices, then over volumes",
        "psnr": "20 log10(data_range) - 10 log10(mean squared error of the volume); mean over volumes",
        "nmse": "squared error over squared norm of the volume; mean over volumes",
        "mask": " and ".join(map(describe_mask, dataset.masks.values())),
        "mask_seed": "the characters of the file name, as fastMRI's validation; a scan's own mask where it has one",
        "acceleration": "effective: acquirable points per sampled point",
    }


def _made_by(ckpt: str | None, datamodule: ReconDataModule) -> dict[str, Any]:
    return {
        "checkpoint": ckpt,
        "sha256": hashlib.sha256(Path(ckpt).read_bytes()).hexdigest() if ckpt else None,
        "data": datamodule.where,
        "challenge": datamodule.challenge,
        "split": datamodule.split,
        "versions": {"mrirecon": __version__, "torch": torch.__version__, "fastmri": version("fastmri")},
    }


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Writes a report, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def print_scores(title: str, reports: Mapping[str, Report]) -> None:
    """One table: per acquisition and over all volumes, a row for each report."""
    table = Table(title=escape(title), title_justify="left")
    for column in ("acquisition", "model", "volumes", "accel.", "SSIM", "PSNR dB", "NMSE"):
        table.add_column(column, justify="left" if column in ("acquisition", "model") else "right")
    volumes = next(iter(reports.values()))["volumes"]
    acquisitions = sorted({volume["acquisition"] for volume in volumes})
    for acquisition in acquisitions if len(acquisitions) > 1 else []:
        for name, report in reports.items():
            rows = [volume for volume in report["volumes"] if volume["acquisition"] == acquisition]
            table.add_row(
                escape(acquisition), escape(name), *_cells(rows, {score: mean_score(rows, score) for score in SCORES})
            )
        table.add_section()
    for name, report in reports.items():
        table.add_row("all", escape(name), *_cells(report["volumes"], report))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100)
    console.print(table)
    partial = next(iter(reports.values()))["conventions"]["slices"]
    if partial != "all":
        console.print(f"Scored {partial}.")
    num_undefined = sum(report["num_undefined"] for report in reports.values())
    if num_undefined:
        console.print(f"{num_undefined} scores are undefined (reasons in metrics.json) and left out of the means.")


def _cells(volumes: Sequence[Mapping[str, Any]], scores: Mapping[str, float | None]) -> list[str]:
    formats = {"ssim": ".4f", "psnr": ".2f", "nmse": ".4f"}
    shown = ["-" if (value := scores[name]) is None else format(value, formats[name]) for name in SCORES]
    return [str(len(volumes)), f"{fmean(volume['acceleration'] for volume in volumes):.2f}", *shown]
