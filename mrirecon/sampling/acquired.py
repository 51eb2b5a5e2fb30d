"""What a scan acquired, and masks drawn within it: one `Sampling` for training, evaluation and reconstruction."""

import logging
from typing import NamedTuple

import numpy as np

from mrirecon.io.scan import Scan, ScanInfo
from mrirecon.physics.crop import cropped_size
from mrirecon.sampling.masks import Masking, center_mask, check_budget, contiguous_center, draw_mask

log = logging.getLogger(__name__)


class Sampling(NamedTuple):
    """Which points of k-space count, the fully sampled centre of them, and what that saves."""

    mask: np.ndarray  # bool (1 w) of columns, or (h w) of points
    acs_mask: np.ndarray  # bool, as mask
    acceleration: float  # points that could be acquired per point sampled


def image_size(info: ScanInfo) -> tuple[int, int]:
    """The size at which a scan is reconstructed and scored: its target's, less where its k-space is narrower."""
    return cropped_size(info.kspace_size, info.recon_size)


def acquired(info: ScanInfo) -> Sampling:
    """The points a scan acquired, and the fully sampled region in their middle.

    Where the scan's own mask is (w,), or it has none, these are whole columns.
    """
    left, right = info.acquired
    columns = np.arange(info.kspace_size[1])[None]
    mask = (columns >= left) & (columns < right)
    if info.mask is None:
        return _sampling(info, mask, mask)
    mask = mask & info.mask
    if info.num_low_frequency is None:
        return _sampling(info, mask, contiguous_center(mask))
    return _sampling(info, mask, mask & center_mask(mask.shape[1], info.num_low_frequency))


def drawn(info: ScanInfo, mask_func: Masking | None, seed: tuple[int, ...]) -> Sampling:
    """A drawn mask within what was acquired; a scan's own mask is kept, and so is everything where there is no mask."""
    own = acquired(info)
    if info.mask is not None or mask_func is None:
        return own
    mask, acs_mask = draw_mask(mask_func, info.kspace_size, seed)
    return _sampling(info, mask & own.mask, acs_mask & own.mask)


def of_scan(scan: Scan, mask_func: Masking | None, seed: tuple[int, ...]) -> Sampling:
    """The sampling of a scan in memory: where it has no mask, columns of zeros count as not sampled.

    Raises ConfigError for a mask that cannot be drawn for a scan of its size.
    """
    info, own = scan.info, acquired(scan.info)
    if info.mask is not None:
        return own
    sampled = own.mask & np.any(scan.kspace, axis=(0, 1, 2), keepdims=True)[0, 0]
    num_empty = int(own.mask.sum() - sampled.sum())
    if num_empty:
        log.warning(
            "%s: has no mask, but %d of its %d columns are zero in every slice: these are taken as not sampled",
            info.path, num_empty, own.mask.sum(),
        )  # fmt: skip
        return _sampling(info, sampled, contiguous_center(sampled))
    if mask_func is not None:
        check_budget(mask_func, info.kspace_size)
    return drawn(info, mask_func, seed)


def _sampling(info: ScanInfo, mask: np.ndarray, acs_mask: np.ndarray) -> Sampling:
    left, right = info.acquired
    return Sampling(mask, acs_mask, len(mask) * (right - left) / max(1, int(mask.sum())))
