"""Reconstructs whole scans: from k-space to a volume in the units of the file."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mrirecon.errors import ConfigError, InputError
from mrirecon.io.scan import Scan
from mrirecon.physics.sample import masked, normalise
from mrirecon.physics.zero_filled import zero_filled
from mrirecon.sampling.acquired import acquired_mask, effective_acceleration, image_size, joined_mask
from mrirecon.sampling.masks import Masking, check_budget, contiguous_center, volume_seed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconstruction:
    """Reconstructed and zero-filled volume in the units of the file, float32 (slice y x), and the mask."""

    volume: Tensor
    zero_filled: Tensor
    mask: np.ndarray  # bool (1 w), or (h w) for a pattern in both directions
    acceleration: float  # acquirable points per sampled point


def choose_device(name: str) -> torch.device:
    """Device for the name auto, cpu or cuda. Raises ConfigError where it is not available."""
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

    mask_func: undersamples a fully sampled scan first, seeded by its name; None: no undersampling. A scan with its own
    mask keeps it. Images narrower than the target size are padded with zeros.

    Raises InputError where the image is too small for the model, or the reconstruction is not finite.
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
    except ConfigError as error:  # depends on the width of this scan: other scans may be fine
        raise InputError(f"{scan.info.path}: {error}") from error


def _pad(volume: Tensor, size: tuple[int, int]) -> Tensor:
    rows, cols = size[0] - volume.shape[-2], size[1] - volume.shape[-1]
    sides = (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2)
    return torch.nn.functional.pad(volume, sides) if rows or cols else volume
