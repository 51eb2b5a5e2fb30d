"""Provenance of scores: conventions, fingerprints of masks and data, versions."""

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mrirecon import __version__
from mrirecon.config.compose import json_config
from mrirecon.data.datamodule import ReconDataModule
from mrirecon.data.prepared.store import PreparedVolumes
from mrirecon.data.sources import MaskedSlices
from mrirecon.io.scan import ScanInfo
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.sampling.acquired import image_size
from mrirecon.sampling.masks import Masking, describe_mask


class Origin(NamedTuple):
    """What made some scores."""

    checkpoint: str | None
    model: str  # its short name
    config: dict[str, Any]  # plain
    command: str


def conventions(datamodule: ReconDataModule, dataset: MaskedSlices, num_scored: int) -> dict[str, str]:
    """How scores on a data set are made, in words; scores may be compared where all of them agree.

    num_scored: slices that were scored, each under every mask.
    """
    return {
        "data_range": "maximum of the ground-truth volume",
        "slices": "all"
        if num_scored == len(dataset)
        else f"only {num_scored} of {len(dataset)}: not a score of the set",
        "target": "as in the file, not clamped",
        "crop": "the reconstruction to the target's size, both scored whole (fastmri.evaluate crops to a square)"
        + _cropped(dataset),
        **{name: score.convention for name, score in SCORE_TABLE.items()},
        "mask": _masks(dataset),
        "mask_seed": "the characters of the file name, as fastMRI's validation; a scan's own mask where it has one",
        "acceleration": "effective: acquirable points per sampled point; nominal is what the mask's name says",
        "precision": _precision(datamodule),
        "simulated": _simulated(dataset.source.volumes),
    }


def _cropped(dataset: MaskedSlices) -> str:
    cropped = [info.name for info in dataset.source.volumes if image_size(info) != info.recon_size]
    return f"; narrower k-space, both cropped: {cropped}" if cropped else ""


def _masks(dataset: MaskedSlices) -> str:
    num_own = sum(info.mask is not None for info in dataset.source.volumes)
    if num_own == len(dataset.source.volumes):
        return "each scan's own"
    drawn = " and ".join(map(describe_mask, dataset.masks.values()))
    return f"{drawn}; {num_own} of {len(dataset.source.volumes)} scans have their own" if num_own else drawn


def _precision(datamodule: ReconDataModule) -> str:
    """What the k-space was kept in; only half precision changes a score by more than rounding."""
    if isinstance(datamodule.volumes, PreparedVolumes):
        stores = [store for store in datamodule.volumes.manifests.values() if store.precision == "half"]
        if stores:
            error = max((volume.error for store in stores for volume in store.volumes.values()), default=0.0)
            return f"half: the prepared k-space is rounded, which changes images by up to {error:.1e} of their norm"
    return "single"


def _simulated(volumes: Iterable[ScanInfo]) -> str:
    flags = [info.simulated for info in volumes]
    if not any(flags):
        return "no"
    return (
        f"yes: {sum(flags)} of {len(flags)} volumes are simulated from magnitude images, and scores on them are too "
        "good (docs/simulation.md)"
    )


def mask_digest(mask: np.ndarray) -> str:
    """The sha256 of a mask written as a string of 0 and 1, row by row.  bool (1|h w)"""
    return hashlib.sha256("".join("1" if sampled else "0" for sampled in mask.ravel()).encode()).hexdigest()


def data_digest(volumes: Iterable[tuple[ScanInfo, float]]) -> str:
    """The sha256 of what identifies some volumes and their data ranges: name, shape, acquisition, data range."""
    rows = [
        (info.name, [info.num_slices, info.num_coils, *info.kspace_size], info.acquisition, float(np.float32(maximum)))
        for info, maximum in volumes
    ]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def nominal_acceleration(mask_func: Masking | None) -> float | None:
    """The acceleration that a mask is called by; None of a mask that has no such number."""
    accelerations = list(getattr(mask_func, "accelerations", ()))
    return float(accelerations[0]) if len(accelerations) == 1 else None


def model_name(class_name: str) -> str:
    """The short name of a model.  `ZeroFilled` -> `zero_filled`"""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", class_name).lower()


def made_by(
    origin: Origin,
    datamodule: ReconDataModule,
    volumes: Iterable[tuple[ScanInfo, float]],
    others: Mapping[str, Iterable[tuple[ScanInfo, float]]],
) -> dict[str, Any]:
    """The `made_by` of a report: what to have in order to make the same scores again.

    volumes: of the data set, with their data ranges. others: those of other data sets, by the name of the condition.
    """
    ckpt = origin.checkpoint
    return {
        "checkpoint": ckpt,
        "sha256": hashlib.sha256(Path(ckpt).read_bytes()).hexdigest() if ckpt else None,
        "model": origin.model,
        "data": datamodule.where,
        "challenge": datamodule.challenge,
        "split": datamodule.split,
        "data_sha256": data_digest(volumes),
        "other_data_sha256": {condition: data_digest(some) for condition, some in others.items()},
        "versions": versions(),
        "config": json_config(origin.config),
        "command": origin.command,
    }


def versions() -> dict[str, str]:
    """The versions of what numbers can depend on."""
    packages = {"lightning": "pytorch-lightning", "fastmri": "fastmri", "numpy": "numpy"}
    return {
        "mrirecon": __version__,
        "torch": torch.__version__,
        **{name: version(package) for name, package in packages.items()},
        "python": platform.python_version(),
    }
