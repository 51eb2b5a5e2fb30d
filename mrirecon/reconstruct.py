"""Whole scans: from a file's k-space to a volume in the file's units, and a sheet of pictures."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mrirecon.data.masks import Masking, check_budget, contiguous_center, volume_seed
from mrirecon.data.sample import masked, normalise
from mrirecon.data.sources import acquired_mask, effective_acceleration, image_size, joined_mask
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.scan import Scan, ScanInfo
from mrirecon.metrics.functional import ssim
from mrirecon.physics.zero_filled import zero_filled
from mrirecon.pictures import panels, row, sheet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconstruction:
    """Volumes in the units of the file, float32 (slice y x), and what was sampled."""

    volume: Tensor
    zero_filled: Tensor
    mask: np.ndarray  # bool (1 w), or (h w) for a pattern in both directions
    acceleration: float  # acquirable points per sampled point


def choose_device(name: str) -> torch.device:
    """The device called auto, cpu or cuda. Raises ConfigError where there is none."""
    has_gpu = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not has_gpu):
        raise ConfigError(f"device={name}: expected auto, cpu, or cuda where there is a GPU")
    return torch.device(name)


def reconstruct(
    model: nn.Module, scan: Scan, mask_func: Masking | None, batch_size: int, device: torch.device
) -> Reconstruction:
    """Reconstructs every slice of a scan at its target's (or header's) size.

    mask_func: undersamples a fully sampled scan first, seeded by its name; None reconstructs from all there is. A scan
    that brings its own mask keeps it. Images that are narrower than the size are padded with zeros.

    Raises InputError where the image is too small for the model, or the model's answer is not finite.
    """
    mask, acs_mask = _masks(scan, mask_func)
    size = image_size(scan.info)
    min_size = int(getattr(model, "min_size", 1))
    if min(size) < min_size:
        raise InputError(
            f"{scan.info.path}: its image of {size[0]}x{size[1]} is smaller than the model's {min_size}x{min_size}"
        )
    model = model.to(device).eval()
    masks = [torch.from_numpy(m)[None, None].to(device) for m in (mask, acs_mask)]
    needs_kspace = getattr(model, "needs_kspace", True)
    volumes: list[Tensor] = []
    baselines: list[Tensor] = []
    with torch.inference_mode():
        for kspace in torch.from_numpy(scan.kspace).split(batch_size):
            kspace = kspace.to(device)
            image, scale, _ = normalise(zero_filled(kspace, masks[0], size))
            sampled = masked(kspace, masks[0], scale) if needs_kspace else None
            scales = scale[:, None, None]
            volumes.append((model(sampled, *masks, image) * scales).cpu())
            baselines.append((image * scales).cpu())
    volume = _pad(torch.cat(volumes), scan.info.recon_size)
    if not torch.isfinite(volume).all():
        raise InputError(f"{scan.info.path}: the reconstruction is not finite; are the checkpoint's weights sound?")
    baseline = _pad(torch.cat(baselines), scan.info.recon_size)
    return Reconstruction(volume, baseline, mask, effective_acceleration(scan.info, mask))


def _masks(scan: Scan, mask_func: Masking | None) -> tuple[np.ndarray, np.ndarray]:
    acquired, _ = acquired_mask(scan.info)
    sampled = acquired & np.any(scan.kspace, axis=(0, 1, 2), keepdims=True)[0, 0]
    if scan.info.mask is None and sampled.sum() < acquired.sum():
        log.warning(
            "%s: has no mask, but %d of its %d columns are zero in every slice: these are taken as not sampled",
            scan.info.path, acquired.sum() - sampled.sum(), acquired.sum(),
        )  # fmt: skip
        return sampled, contiguous_center(sampled)
    try:
        if scan.info.mask is None and mask_func is not None:
            check_budget(mask_func, scan.info.kspace_size)
        return joined_mask(scan.info, mask_func, volume_seed(scan.info.name))
    except ConfigError as error:  # of this scan's width: others of the same call may suit
        raise InputError(f"{scan.info.path}: {error}") from error


def _pad(volume: Tensor, size: tuple[int, int]) -> Tensor:
    rows, cols = size[0] - volume.shape[-2], size[1] - volume.shape[-1]
    sides = (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2)
    return torch.nn.functional.pad(volume, sides) if rows or cols else volume


def contact_sheet(result: Reconstruction, scan: Scan, slices: Sequence[int] | None, footer: str) -> np.ndarray:
    """Slices in rows: zero-filled, reconstruction and, where known, target and error.  -> uint8 (h w)

    slices: which ones; None shows up to six, evenly spread. Raises InputError for a slice that is not there.
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
    return f"{caption}, SSIM {value:.3f}"
