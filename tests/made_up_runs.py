"""Evaluations made up for the tests of comparing and reporting, in the form of metrics.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CONVENTIONS = {"data_range": "maximum of the ground-truth volume", "slices": "all", "mask": "random 4x and random 8x"}
ACQUISITIONS = ("AXT1", "AXT2")


def made_up_run(
    gain: float = 0.0,
    *,
    seed: int = 0,
    num_scans: int = 8,
    masks: Sequence[str] = ("4x", "8x"),
    conditions: Sequence[str] = ("",),
    patients: int | None = None,
    model: str = "unet",
) -> dict[str, Any]:
    """Scans that differ much from each other, each run of one seed the same but for `gain` and a little noise."""
    scans, own = np.random.default_rng(1), np.random.default_rng(seed)
    volumes = []
    for number in range(num_scans):
        level = scans.normal(0.7, 0.08)
        for mask in masks:
            for place, condition in enumerate(conditions):
                ssim = level + gain - 0.1 * (mask == "8x") - 0.03 * place + own.normal(0, 0.004)
                volumes.append(_volume(number, mask, condition, ssim, patients))
    return {
        "ssim": float(np.mean([v["ssim"] for v in volumes])),
        "psnr": float(np.mean([v["psnr"] for v in volumes])),
        "nmse": float(np.mean([v["nmse"] for v in volumes])),
        "num_undefined": 0,
        "volumes": volumes,
        "conventions": dict(CONVENTIONS),
        "made_by": {
            "checkpoint": "best.ckpt", "sha256": "ab" * 32, "model": model, "data": "data", "challenge": "multicoil",
            "split": "val", "data_sha256": "cd" * 32, "versions": {"mrirecon": "0.1.0"},
            "config": {"model": {"chans": 32}}, "command": "python scripts/evaluate.py ckpt=best.ckpt",
        },
    }  # fmt: skip


def _volume(number: int, mask: str, condition: str, ssim: float, patients: int | None) -> dict[str, Any]:
    slices = np.linspace(-0.1, 0.1, 5)
    return {
        "name": f"file{number}.h5", "acquisition": ACQUISITIONS[number % 2],
        "patient": None if patients is None else f"patient{number % patients}",
        "mask": mask, "condition": condition, "num_slices": 5,
        "acceleration": 3.9 if mask == "4x" else 7.7, "nominal_acceleration": 4.0 if mask == "4x" else 8.0,
        "mask_sha256": f"{number}{mask}".encode().hex(), "data_range": 1.5 + number,
        "ssim": ssim, "psnr": 20 + 15 * ssim, "nmse": 0.1 * (1 - ssim),
        "slices": {"slice_num": list(range(5)), "ssim": list(ssim - slices**2), "squared_error": [1.0] * 5},
    }  # fmt: skip


def write_run(folder: Path, run: dict[str, Any]) -> Path:
    """The folder, with the run's metrics.json in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(run))
    return folder
