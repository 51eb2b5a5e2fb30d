"""Contact sheet of a reconstructed scan: a row of images per slice."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.inference.reconstruct import Reconstruction
from mrirecon.io.scan import Scan, ScanInfo
from mrirecon.metrics.functional import ssim
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.reports.pictures import panels, row, sheet


def contact_sheet(result: Reconstruction, scan: Scan, slices: Sequence[int] | None, footer: str) -> np.ndarray:
    """A row per slice: zero-filled, reconstruction and, given a target, target and error.  -> uint8 (h w)

    slices: slice numbers; None: up to six, evenly spread. Raises InputError for a slice the scan does not have.
    """
    num_slices = len(result.volume)
    chosen = slices or np.unique(np.linspace(0, num_slices - 1, min(6, num_slices)).round().astype(int)).tolist()
    rows = [row(_panels(result, scan, _existing(scan.info, number))) for number in chosen]
    title = (
        f"{scan.info.name}  {scan.info.acquisition}  {result.acceleration:.2f}x  "
        f"slice{'s' if len(chosen) > 1 else ''} {', '.join(map(str, chosen))} of {num_slices}"
    )
    return sheet(rows, title, footer)


def _existing(info: ScanInfo, number: int) -> int:
    if not 0 <= number < info.num_slices:
        raise InputError(f"{info.path}: has no slice {number}; slices= may name 0 to {info.num_slices - 1}")
    return number


def _panels(result: Reconstruction, scan: Scan, number: int) -> list[tuple[str, Tensor]]:
    images = (result.zero_filled[number], result.volume[number])
    if scan.target is None:
        return panels(*images, None)
    target = torch.from_numpy(scan.target[number])
    shown = panels(*images, target)
    data_range = torch.tensor([float(scan.target.max())])
    scored = [
        _with_ssim(caption, image, target, data_range) for (caption, _), image in zip(shown, images, strict=False)
    ]
    return [(caption, image) for caption, (_, image) in zip(scored, shown, strict=False)] + shown[2:]


def _with_ssim(caption: str, image: Tensor, target: Tensor, data_range: Tensor) -> str:
    value = float(ssim(image[None], target[None], data_range)[0])
    return f"{caption}, {SCORE_TABLE['ssim'].label} {SCORE_TABLE['ssim'].shown_short(value)}"
