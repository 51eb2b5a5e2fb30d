"""Scores: largest differences from fastMRI's over random volumes, and speed against scikit-image."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

import fastmri.evaluate
import numpy as np
import torch

from mrirecon.apps.benchmarks.measure import Row, compared, in_turns
from mrirecon.apps.benchmarks.score_reference import largest_differences, make
from mrirecon.metrics.functional import ssim

NOTES = [
    "Reference: `fastmri.evaluate`, which takes scikit-image's SSIM slice by slice on the CPU; values are compared in "
    "double precision. Speed is that of SSIM of one volume of 35 slices of 320x320. On a CPU the first SSIM of a "
    "process takes its start besides, in which it is compiled."
]
_ROUNDS = 9
_START = """
import time
import mrirecon.metrics.ssim_cpu
started = time.perf_counter()
mrirecon.metrics.ssim_cpu.compiled()
print(time.perf_counter() - started)
"""


def rows(device: str, num_volumes: int = 1000) -> Iterator[Row]:
    """Result rows: agreement over random volumes, then speed."""
    worst = largest_differences(num_volumes)
    for name, value, unit, goal in (
        ("SSIM", worst.ssim, "", 1e-6),
        ("PSNR", worst.psnr, "dB", 1e-4),
        ("NMSE", worst.nmse, "relative", 1e-6),
    ):
        what = f"largest difference of {name} over {num_volumes} volumes"
        yield Row(what, value, None, unit, None, f"<= {goal:g}", value <= goal)
    yield _speed(device)
    if device == "cpu":
        yield _start()


def _start() -> Row:
    """Extra time of the first SSIM of a process: numba's import and compilation."""
    command = [sys.executable, "-c", _START]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    seconds = statistics.median(float(run.stdout) for run in runs)
    return Row("start of the first SSIM of a process", seconds, None, "s", None, "-", None)


def _speed(device: str) -> Row:
    rng = np.random.default_rng(0)
    slices = [make("realistic", (320, 320), 1e-4, rng) for _ in range(35)]
    pred, target = (np.stack([getattr(volume, name)[0] for volume in slices]) for name in ("pred", "target"))
    images = [torch.from_numpy(pred).to(device), torch.from_numpy(target).to(device)]
    images.append(images[1].max().expand(35))
    expected = float(fastmri.evaluate.ssim(target.astype(float), pred.astype(float)).item())
    assert abs(float(ssim(*images).mean()) - expected) < 1e-6

    def ours() -> None:
        ssim(*images)
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = in_turns({"ours": ours, "reference": lambda: fastmri.evaluate.ssim(target, pred)}, _ROUNDS)
    where = "on the GPU" if device == "cuda" else f"{torch.get_num_threads()} threads"
    goal = 200 if device == "cuda" else 5
    return compared(f"SSIM of a volume, {where}", seconds["ours"], seconds["reference"], goal)
