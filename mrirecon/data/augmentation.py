"""Random flips, rotations and shifts of training images, before they are undersampled.

The complex coil images are moved, all coils alike, and the target is made of them: MRAugment, arXiv:2106.14947. In
hybrid space nothing lies beyond the rows of the target, so there zeros move in.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mrirecon.errors import ConfigError
from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import fft1c, fft2c, ifft1c, ifft2c
from mrirecon.physics.sample import HybridSlice, Slice, image_size_of

IDENTITY = np.eye(2, 3, dtype=np.float32)


class Augmentation:
    """Draws flips, rotations and shifts; the draw depends on the seed alone.

    flip_prob: of a flip along either axis. max_angle: of a rotation to either side, in degrees. max_shift: along either
    axis, in pixels. Raises ConfigError for values that cannot be.
    """

    def __init__(self, flip_prob: float, max_angle: float, max_shift: float) -> None:
        if not 0 <= flip_prob <= 1 or not 0 <= max_angle <= 180 or not 0 <= max_shift < math.inf:
            raise ConfigError(
                f"augmentation: flip_prob={flip_prob}, max_angle={max_angle}, max_shift={max_shift}: expected a "
                "probability, degrees from 0 to 180, and pixels from 0"
            )
        self.flip_prob, self.max_angle, self.max_shift = flip_prob, max_angle, max_shift

    def draw(self, seed: tuple[int, ...]) -> np.ndarray:
        """An affine [A | s]: it takes a pixel of the moved image, as its distance from the middle, to A (p - s) there.

        -> float32 (2 3)
        """
        rng = np.random.default_rng(seed)
        flips = np.where(rng.random(2) < self.flip_prob, -1.0, 1.0)
        angle = math.radians(rng.uniform(-self.max_angle, self.max_angle))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        shift = rng.uniform(-self.max_shift, self.max_shift, 2)
        return np.column_stack([turn * flips, shift]).astype(np.float32)


def apply_affine(batch: Slice) -> Slice:
    """The batch with its images moved by `batch.affine`: k-space, and the target that goes with it."""
    size = image_size_of(batch)
    middle = batch.kspace.shape[-2] // 2, batch.kspace.shape[-1] // 2
    is_hybrid = isinstance(batch, HybridSlice)
    still = ifft1c(batch.kspace, dim=-1) if is_hybrid else ifft2c(batch.kspace)
    parts = torch.view_as_real(still).permute(0, 1, 4, 2, 3).flatten(1, 2)
    parts = move(parts, batch.affine, middle).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2)
    images = torch.view_as_complex(parts.contiguous())
    before, after = (rss(center_crop(one, size)) for one in (still, images))
    return batch._replace(
        kspace=fft1c(images, dim=-1) if is_hybrid else fft2c(images),
        # Recomputed from the coils, as pixels beyond the crop move in; scaled to the unit of the target.
        target=None if batch.target is None else after * _ratio(batch.target, before),
    )


def _ratio(target: Tensor, image: Tensor) -> Tensor:
    """How many times an image the target is, in norm; 0 of a black image.  (b y x), (b y x) -> (b 1 1)"""
    norm = image.flatten(1).norm(dim=1)
    return torch.where(norm > 0, target.flatten(1).norm(dim=1) / norm, 0.0)[:, None, None]


def move(images: Tensor, affine: Tensor, middle: tuple[int, int]) -> Tensor:
    """Images moved around a pixel, by cubic interpolation, zero from outside.  (b c h w), (b 2 3) -> (b c h w)"""
    h, w = images.shape[-2:]
    grid = torch.meshgrid(
        torch.arange(h, device=images.device) - float(middle[0]),
        torch.arange(w, device=images.device) - float(middle[1]),
        indexing="ij",
    )
    points = torch.stack(grid, dim=-1) - affine[:, None, None, :, 2]
    source = torch.einsum("bij,bhwj->bhwi", affine[:, :, :2], points) + points.new_tensor(middle)
    # grid_sample wants (x, y), from -1 at the first pixel's centre to 1 at the last one's.
    source = (2 * source / source.new_tensor([h - 1, w - 1]) - 1).flip(-1)
    return F.grid_sample(images, source, mode="bicubic", padding_mode="zeros", align_corners=True)
