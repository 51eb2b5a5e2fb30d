"""The SENSE forward operator, from one image to the masked k-space of all coils, and its adjoint."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mrirecon.physics.coils import sens_expand, sens_reduce
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import fft1c, fft2c, ifft1c, ifft2c


class SenseOperator:
    """Sensitivities, centred Fourier transform, mask.  (b h w) <-> (b coil h w), complex

    The norm is at most 1 where the squared sensitivities sum to at most 1 over the coils.

    mask: bool (b 1 1 w) or (b 1 h w). sens_maps: complex (b coil h w). readout: "kspace", or "image" where k-space is
    in hybrid space, (b coil y w): the transform is then along w alone.
    """

    def __init__(self, mask: Tensor, sens_maps: Tensor, readout: str = "kspace") -> None:
        self.mask = mask
        self.sens_maps = sens_maps
        self._to_kspace: Callable[[Tensor], Tensor] = fft2c if readout == "kspace" else partial(fft1c, dim=-1)
        self._to_image: Callable[[Tensor], Tensor] = ifft2c if readout == "kspace" else partial(ifft1c, dim=-1)
        # Masking is a circular convolution of the image. It commutes with the shifts that centre image and k-space, and
        # a mask of columns acts along w only.
        self._axes = (-1,) if mask.shape[-2] == 1 else (-2, -1)
        weights = torch.fft.ifftshift(mask, dim=self._axes).to(sens_maps.real.dtype)
        self._weights = weights.repeat_interleave(2, dim=-1)  # of real and imaginary part

    def expand(self, image: Tensor) -> Tensor:
        """K-space of an image, every sample of it.  (b h w) -> (b coil h w)"""
        return self._to_kspace(sens_expand(image, self.sens_maps))

    def forward(self, image: Tensor) -> Tensor:
        """Masked k-space of an image.  (b h w) -> (b coil h w)"""
        return self.expand(image) * self.mask

    def adjoint(self, kspace: Tensor) -> Tensor:
        """Coil-combined zero-filled image.  (b coil h w) -> (b h w)"""
        return sens_reduce(self._to_image(kspace * self.mask), self.sens_maps)

    def normal(self, image: Tensor) -> Tensor:
        """`adjoint(forward(image))` without shifts; masks of columns transform along w only.  (b h w) -> (b h w)"""
        kspace = torch.fft.fftn(sens_expand(image, self.sens_maps), dim=self._axes)
        # Real arithmetic along one axis: torch takes many times as long for other ways to multiply by a mask.
        masked = torch.view_as_real(kspace).flatten(-2) * self._weights
        masked = torch.view_as_complex(masked.unflatten(-1, (-1, 2)))
        return sens_reduce(torch.fft.ifftn(masked, dim=self._axes), self.sens_maps)


def crop_readout(kspace: Tensor, mask: Tensor, num_rows: int) -> Tensor:
    """K-space of the middle `num_rows` rows of the image.  (b coil h w) -> (b coil num_rows w)

    Returned unchanged unless the mask is one of columns. Such a mask does not mix image rows, so nothing about the kept
    rows is lost, and with twofold readout oversampling half of the work is saved.
    """
    if mask.shape[-2] != 1 or num_rows >= kspace.shape[-2]:
        return kspace
    return fft2c(center_crop(ifft2c(kspace), (num_rows, kspace.shape[-1])))
