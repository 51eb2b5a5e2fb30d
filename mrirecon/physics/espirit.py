"""Coil sensitivities from the fully sampled centre of k-space: ESPIRiT, Uecker et al., doi:10.1002/mrm.24751."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.physics.coils import rss, sens_reduce
from mrirecon.physics.fft import fft1c, ifft2c
from mrirecon.physics.sample import Measurement

_MOST_BYTES = 1 << 28  # size of the per-pixel matrices held at a time
_FADED = 1e-30  # lower bound of squared norms, where there is no signal


@dataclass(frozen=True)
class Espirit:
    """ESPIRiT with its settings, held by a model that needs sensitivities and called with its measurement.

    calib_width: rows and columns of the centre of k-space used. kernel_width: width of the calibration kernel.
    threshold: singular values of the calibration matrix below this fraction of the largest count as noise.
    num_iterations: iterations of the power method for each pixel's eigenvector. See `espirit`.
    """

    calib_width: int = 24
    kernel_width: int = 6
    threshold: float = 0.02
    num_iterations: int = 30

    @torch.no_grad()
    def __call__(self, measurement: Measurement) -> Tensor:
        """Sensitivity maps, in the shape of the measurement's k-space.  -> complex64 (b coil h|y w)

        Raises InputError where the centre of k-space was not sampled.
        """
        kspace, acs_mask = measurement.kspace, measurement.acs_mask
        assert kspace is not None
        maps = torch.empty_like(kspace)
        for rows in _alike(acs_mask):
            some = kspace[rows]
            one_mask = acs_mask[rows[0], 0].expand(kspace.shape[-2], -1)
            box = calibration_box(one_mask, self.calib_width)
            if measurement.readout == "image":
                calib = fft1c(some[..., box[1]], dim=-2)[..., box[0], :]
            else:
                calib = some[..., box[0], box[1]]
            maps[rows] = self._maps(calib * one_mask[box], one_mask[box], box, (kspace.shape[-2], kspace.shape[-1]))
        return maps

    def _maps(self, calib: Tensor, sampled: Tensor, box: tuple[slice, slice], size: tuple[int, int]) -> Tensor:
        """Maps of all slices, in parts that bound the memory.  (b coil i j), bool (i j) -> (b coil h w)"""
        coils = calib.shape[1]
        at_once = max(1, _MOST_BYTES // (8 * coils * coils * size[0] * size[1]))
        return torch.cat([self._some_maps(part, sampled, box, size) for part in calib.split(at_once)])

    def _some_maps(self, calib: Tensor, sampled: Tensor, box: tuple[slice, slice], size: tuple[int, int]) -> Tensor:
        centre = calib.new_zeros(*calib.shape[:2], *size)
        centre[..., box[0], box[1]] = calib
        low_resolution = ifft2c(centre)
        start = low_resolution / rss(low_resolution).square().clamp_min(_FADED).sqrt()[:, None]
        kernel = [min(self.kernel_width, (n + 1) // 2) for n in sampled.shape]
        projector = signal_projector(calib, sampled, (kernel[0], kernel[1]), self.threshold)
        maps = _principal(image_operator(projector, size), start, self.num_iterations)
        return maps * torch.sgn(sens_reduce(low_resolution, maps))[:, None]


def _alike(acs_mask: Tensor) -> list[Tensor]:
    """Indices of the batch, grouped by equal masks.  (b 1 1|h w) -> int64 each"""
    _, groups = torch.unique(acs_mask.flatten(1), dim=0, return_inverse=True)
    return [torch.nonzero(groups == number)[:, 0] for number in range(int(groups.max()) + 1)]


def espirit(
    kspace: Tensor,
    acs_mask: Tensor,
    calib_width: int = 24,
    kernel_width: int = 6,
    threshold: float = 0.02,
    num_iterations: int = 30,
) -> Tensor:
    """Sensitivity maps with root sum of squares 1 everywhere.  (b coil h w), (b 1 1|h w) -> (b coil h w)

    The first set of maps, with the phase that makes the coil-combined low-resolution image real and positive. The maps
    are not masked outside the object. For a single coil they hold that phase alone. Not differentiable.

    acs_mask: bool, the fully sampled centre; at most `calib_width` rows and columns of it are used.
    kernel_width: width of the calibration kernel; reduced in a direction with fewer than twice as many samples.
    The others: see `Espirit`. Raises InputError where the centre of k-space was not sampled.
    """
    image = kspace.real[:, 0]  # not used by the estimate
    size = (kspace.shape[-2], kspace.shape[-1])
    measurement = Measurement(kspace, acs_mask, acs_mask, None, image, size, "kspace")
    return Espirit(calib_width, kernel_width, threshold, num_iterations)(measurement)


def calibration_box(acs_mask: Tensor, calib_width: int) -> tuple[slice, slice]:
    """Rows and columns of the fully sampled centre of k-space, for calibration.  bool (h w)

    Raises InputError where the centre of k-space was not sampled.
    """
    h, w = acs_mask.shape
    if not acs_mask[h // 2, w // 2]:
        raise InputError(
            "the centre of k-space was not fully sampled, and coil sensitivities are estimated from it: "
            "choose a mask with a centre (mask.center_fractions), or a model that needs no sensitivities"
        )
    return _run(acs_mask[:, w // 2], calib_width), _run(acs_mask[h // 2], calib_width)


def _run(sampled: Tensor, width: int) -> slice:
    """Contiguous samples around the centre, at most `width` of them.  bool (n)"""
    n = len(sampled)
    gaps = torch.nonzero(~sampled)[:, 0].tolist()
    start = max([gap + 1 for gap in gaps if gap < n // 2], default=0)
    stop = min([gap for gap in gaps if gap > n // 2], default=n)
    return slice(max(start, n // 2 - width // 2), min(stop, n // 2 - width // 2 + width))


def signal_projector(calib: Tensor, sampled: Tensor, kernel: tuple[int, int], threshold: float) -> Tensor:
    """Projector onto the signal space of the calibration matrix.  (*b coil i j), (i j) -> (*b coil m n coil m n)

    From the eigenvectors of its Gram matrix (section "Theory", k-space part). Patches with an unsampled element are
    left out.
    """
    coils = calib.shape[-3]
    patches = calib.unfold(-2, kernel[0], 1).unfold(-2, kernel[1], 1).flatten(-4, -3).movedim(-3, -4).flatten(-3)
    whole = sampled.unfold(0, kernel[0], 1).unfold(1, kernel[1], 1).all((-2, -1)).flatten()
    patches = patches[..., whole, :]
    values, vectors = torch.linalg.eigh(patches.mT @ patches.conj())
    signal = vectors * (values > threshold**2 * values[..., -1:])[..., None, :]
    return (signal @ vectors.mH).reshape(*calib.shape[:-3], coils, *kernel, coils, *kernel)


def image_operator(projector: Tensor, size: tuple[int, int]) -> Tensor:
    """The projector, averaged over all places in k-space, at every pixel.  (*b coil m n coil m n) -> (*b h w coil coil)

    The average over shifts is a convolution in k-space, so in image space it acts on the coil vector of each pixel;
    sensitivities are its eigenvectors of eigenvalue 1 (Eq. 12).
    """
    coils, m, n = projector.shape[-3:]
    kernel = projector.new_zeros(*projector.shape[:-6], 2 * m - 1, 2 * n - 1, coils, coils)
    for i in range(m):
        for j in range(n):
            part = projector[..., i, j].movedim(-4, -2)
            kernel[..., m - 1 - i : 2 * m - 1 - i, n - 1 - j : 2 * n - 1 - j, :, :] += part
    # The kernel is small and pixels are many: two matrix products cost less than coil^2 Fourier transforms.
    along_w = _waves(n, size[1], kernel) @ kernel.flatten(-2)
    values = _waves(m, size[0], kernel) @ along_w.flatten(-2)
    return values.reshape(*projector.shape[:-6], *size, coils, coils) / (m * n)


def _waves(extent: int, size: int, like: Tensor) -> Tensor:
    """exp(2 pi i d x / size) for displacements |d| < extent and centred x.  -> (size 2*extent-1)"""
    x = torch.arange(size, device=like.device) - size // 2
    d = torch.arange(1 - extent, extent, device=like.device)
    turns = torch.remainder(torch.outer(x, d), size) / size  # reduced while still integers, for precision
    return torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(like.dtype)


def _principal(operator: Tensor, start: Tensor, num_iterations: int) -> Tensor:
    """Leading eigenvector of every pixel, by the power method.  (b h w coil coil), (b coil h w) -> (b coil h w)"""
    vector = start.movedim(1, -1)[..., None].contiguous()
    for _ in range(num_iterations):
        vector = operator @ vector
        vector = vector / vector.abs().square().sum(-2, keepdim=True).clamp_min(_FADED).sqrt()
    return vector[..., 0].movedim(-1, 1)
