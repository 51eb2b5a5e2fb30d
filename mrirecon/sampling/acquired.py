"""What a scan acquired, and masks joined with it."""

import numpy as np

from mrirecon.io.scan import ScanInfo
from mrirecon.physics.crop import cropped_size
from mrirecon.sampling.masks import Masking, center_mask, contiguous_center, draw_mask


def image_size(info: ScanInfo) -> tuple[int, int]:
    """The size at which a scan is reconstructed and scored: its target's, less where its k-space is narrower."""
    return cropped_size(info.kspace_size, info.recon_size)


def acquired_mask(info: ScanInfo) -> tuple[np.ndarray, np.ndarray]:
    """The points a scan acquired and the fully sampled region in their middle.  -> bool (1|h w), bool (1|h w)

    Where the scan's own mask is (w,), or it has none, these are whole columns.
    """
    left, right = info.acquired
    columns = np.arange(info.kspace_size[1])[None]
    mask = (columns >= left) & (columns < right)
    if info.mask is None:
        return mask, mask
    mask = mask & info.mask
    if info.num_low_frequency is None:
        return mask, contiguous_center(mask)
    return mask, mask & center_mask(mask.shape[1], info.num_low_frequency)


def joined_mask(info: ScanInfo, mask_func: Masking | None, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A drawn mask joined with what was acquired, and its centre; a scan's own mask is kept.

    -> bool (1|h w), bool (1|h w)
    """
    acquired, center = acquired_mask(info)
    if info.mask is not None or mask_func is None:
        return acquired, center
    mask, acs_mask = draw_mask(mask_func, info.kspace_size, seed)
    return mask & acquired, acs_mask & acquired


def effective_acceleration(info: ScanInfo, mask: np.ndarray) -> float:
    """Points that could be acquired per point sampled.  bool (1|h w)"""
    left, right = info.acquired
    return len(mask) * (right - left) / max(1, int(mask.sum()))
