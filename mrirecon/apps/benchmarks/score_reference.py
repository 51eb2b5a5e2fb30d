"""Compares our scores with fastMRI's and scikit-image's, over realistic and difficult random volumes."""

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import fastmri.evaluate
import numpy as np
import torch
from skimage.filters import gaussian

from mrirecon.metrics.scores import MAIN_SCORES
from mrirecon.metrics.volume import VolumeScores

SIZES = ((7, 7), (7, 31), (33, 8), (64, 65), (96, 96), (128, 196), (203, 203), (320, 320), (640, 372))
KINDS = ("realistic", "offset", "equal", "tiny range", "zeros", "flat pred", "mirrored", "outlier")


class ImagePair(NamedTuple):
    """A reconstruction and its target, float32 (slice y x); `data_range` None is the target's maximum."""

    kind: str
    pred: np.ndarray
    target: np.ndarray
    data_range: float | None = None


class LargestDifferences(NamedTuple):
    """Largest differences (absolute; relative for NMSE; PSNR in dB), and the number of volumes compared."""

    ssim: float
    psnr: float
    nmse: float
    num_volumes: int


def random_volumes(count: int, seed: int = 0) -> Iterator[ImagePair]:
    """`count` random volumes of all kinds in turn, of random sizes and scales from 1e-8 to 1e4."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        size = SIZES[rng.integers(len(SIZES))]
        yield make(KINDS[index % len(KINDS)], size, 10 ** rng.uniform(-8, 4), rng)


def make(kind: str, size: tuple[int, int], scale: float, rng: np.random.Generator) -> ImagePair:
    """A volume of one to three slices: smooth blobs and noise, altered according to `kind`."""
    shape = (int(rng.integers(1, 4)), *size)
    target = np.abs(gaussian(rng.standard_normal(shape), (0, 5, 5))) * 10 + 0.01 * rng.random(shape)
    pred = target + 10 ** rng.uniform(-3, -0.5) * rng.standard_normal(shape)
    data_range = None
    match kind:
        case "offset":
            offset = 100 * target.max()
            pred, target = pred + offset, target + offset
        case "equal":
            pred = target
        case "tiny range":
            data_range = float(np.float32(1e-3 * target.max() * scale))
        case "zeros":
            pred, target[0] = np.zeros(shape), target[0] * (shape[0] == 1)
        case "flat pred":
            pred = np.full(shape, target.mean())
        case "mirrored":
            pred = target.max() - target
        case "outlier":
            pred[:, 0, 0] = 1000 * target.max()
    return ImagePair(kind, (scale * pred).astype(np.float32), (scale * target).astype(np.float32), data_range)


def ours(volume: ImagePair) -> dict[str, float | None]:
    """Scores as in an evaluation."""
    pred, target = torch.from_numpy(volume.pred), torch.from_numpy(volume.target)
    data_range = target.max() if volume.data_range is None else torch.tensor(volume.data_range)
    scores = VolumeScores()
    scores.update(pred, target, data_range.expand(len(pred)), torch.zeros(len(pred)), torch.arange(len(pred)))
    return scores.compute()["volumes"][0]


def theirs(volume: ImagePair) -> dict[str, float]:
    """fastMRI's scores in double precision; its SSIM is scikit-image's, which keeps float32 for float32 images."""
    pred, target = volume.pred.astype(float), volume.target.astype(float)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "divide by zero", RuntimeWarning)  # the PSNR of equal images
        return {
            "ssim": fastmri.evaluate.ssim(target, pred, volume.data_range).item(),
            "psnr": float(fastmri.evaluate.psnr(target, pred, volume.data_range)),
            "nmse": float(fastmri.evaluate.nmse(target, pred)),
        }


def largest_differences(count: int, seed: int = 0) -> LargestDifferences:
    """Compares `count` random volumes; inf where only one of the two has a score."""
    worst = dict.fromkeys(MAIN_SCORES, 0.0)
    for volume in random_volumes(count, seed):
        found, expected = ours(volume), theirs(volume)
        for score in worst:
            worst[score] = max(worst[score], _difference(found[score], expected[score], relative=score == "nmse"))
    return LargestDifferences(**worst, num_volumes=count)


def _difference(found: float | None, expected: float, relative: bool) -> float:
    if found is None or not math.isfinite(expected):
        return 0.0 if found is None and not math.isfinite(expected) else math.inf
    return abs(found - expected) / (abs(expected) or 1.0 if relative else 1.0)
