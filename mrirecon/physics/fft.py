"""Centred, orthonormal Fourier transforms between image and k-space, in 2-D and along one axis."""

import torch
from torch import Tensor

_HW = (-2, -1)


def fft2c(image: Tensor) -> Tensor:
    """Image to k-space, zero frequency in the middle, orthonormal.  (*b h w) complex -> (*b h w) complex"""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, dim=_HW), norm="ortho"), dim=_HW)


def ifft2c(kspace: Tensor) -> Tensor:
    """K-space to image: inverse and adjoint of `fft2c`.  (*b h w) complex -> (*b h w) complex"""
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=_HW), norm="ortho"), dim=_HW)


def fft1c(image: Tensor, dim: int) -> Tensor:
    """`fft2c` along one axis.  (*n) complex -> (*n) complex"""
    return torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(image, dim=dim), dim=dim, norm="ortho"), dim=dim)


def ifft1c(kspace: Tensor, dim: int) -> Tensor:
    """`ifft2c` along one axis; applied to both axes in any order it equals `ifft2c`.  (*n) complex -> (*n) complex"""
    return torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(kspace, dim=dim), dim=dim, norm="ortho"), dim=dim)
