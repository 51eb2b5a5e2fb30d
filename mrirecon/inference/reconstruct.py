"""Reconstructs whole scans: from k-space to a volume in the units of the file."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrirecon.errors import ConfigError, InputError
from mrirecon.io.scan import Scan
from mrirecon.models.base import ReconModel, with_sensitivities
from mrirecon.physics.sample import Slice, undersample
from mrirecon.sampling.acquired import Sampling, image_size, of_scan
from mrirecon.sampling.masks import Masking, volume_seed


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
    model: ReconModel, scan: Scan, mask_func: Masking | None, batch_size: int, device: torch.device
) -> Reconstruction:
    """Reconstructs every slice of a scan at its target's (or header's) size.

    mask_func: undersamples a fully sampled scan first, seeded by its name; None: no undersampling. A scan with its own
    mask keeps it. Images narrower than the target size are padded with zeros.

    Raises InputError where the image is too small for the model, or the reconstruction is not finite.
    """
    sampling, size = _sampling(scan, mask_func), image_size(scan.info)
    if min(size) < model.min_size:
        raise InputError(
            f"{scan.info.path}: its image of {size[0]}x{size[1]} is smaller than the model's "
            f"{model.min_size}x{model.min_size}"
        )
    model = model.to(device).eval()
    volumes: list[Tensor] = []
    baselines: list[Tensor] = []
    with torch.inference_mode():
        for kspace in torch.from_numpy(scan.kspace).split(batch_size):
            sample = undersample(_batch(kspace, sampling, size, device), model.needs)
            scales = sample.scale[:, None, None]
            prediction = model(with_sensitivities(model, sample).measurement)
            volumes.append((prediction.magnitude * scales).cpu())
            baselines.append((sample.measurement.zero_filled * scales).cpu())
    volume = _pad(torch.cat(volumes), scan.info.recon_size)
    if not torch.isfinite(volume).all():
        raise InputError(f"{scan.info.path}: the reconstruction is not finite; are the checkpoint's weights sound?")
    baseline = _pad(torch.cat(baselines), scan.info.recon_size)
    return Reconstruction(volume, baseline, sampling.mask, sampling.acceleration)


def _batch(kspace: Tensor, sampling: Sampling, size: tuple[int, int], device: torch.device) -> Slice:
    """Slices of a scan that has no target.  complex64 (b coil h w) -> b slices"""
    b = len(kspace)
    masks = [torch.from_numpy(mask)[None, None].expand(b, -1, -1, -1).to(device) for mask in sampling[:2]]
    return Slice(
        kspace=kspace.to(device),
        mask=masks[0],
        acs_mask=masks[1],
        loss_mask=None,
        target=None,
        size=torch.tensor(size).expand(b, 2),
        data_range=torch.zeros(b, device=device),
        volume=torch.zeros(b, dtype=torch.int64),
        slice_num=torch.arange(b),
        affine=torch.eye(2, 3).expand(b, 2, 3),
    )


def _sampling(scan: Scan, mask_func: Masking | None) -> Sampling:
    try:
        return of_scan(scan, mask_func, volume_seed(scan.info.name))
    except ConfigError as error:  # depends on the width of this scan: other scans may be fine
        raise InputError(f"{scan.info.path}: {error}") from error


def _pad(volume: Tensor, size: tuple[int, int]) -> Tensor:
    rows, cols = size[0] - volume.shape[-2], size[1] - volume.shape[-1]
    sides = (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2)
    return torch.nn.functional.pad(volume, sides) if rows or cols else volume
