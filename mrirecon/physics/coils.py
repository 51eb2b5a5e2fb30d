"""Coil combination by root sum of squares, and the sensitivity operator with its adjoint."""

import torch
from torch import Tensor


def rss(images: Tensor) -> Tensor:
    """Root sum of squares over coils, of real or complex images.  (*b coil h w) -> (*b h w), real

    The gradient at an all-zero pixel is zero, not NaN.
    """
    return torch.linalg.vector_norm(images, dim=-3)


def sens_expand(image: Tensor, sens_maps: Tensor) -> Tensor:
    """Coil images: the image times each sensitivity map.  (*b h w), (*b coil h w) -> (*b coil h w)"""
    return image.unsqueeze(-3) * sens_maps


def sens_reduce(images: Tensor, sens_maps: Tensor) -> Tensor:
    """The adjoint of `sens_expand`.  (*b coil h w), (*b coil h w) -> (*b h w)"""
    return (images * sens_maps.conj()).sum(dim=-3)
