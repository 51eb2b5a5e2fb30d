"""Coil sensitivities from the fully sampled centre of k-space: ESPIRiT, Uecker et al., doi:10.1002/mrm.24751."""

import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.physics.coils import rss, sens_reduce
from mrirecon.physics.fft import ifft2c

_FADED = 1e-30  # what a squared norm is kept above where there is no signal at all


@torch.no_grad()
def espirit(
    kspace: Tensor,
    acs_mask: Tensor,
    calib_width: int = 24,
    kernel_width: int = 6,
    threshold: float = 0.02,
    num_iterations: int = 30,
) -> Tensor:
    """Sensitivity maps, their root sum of squares 1 everywhere.  (b coil h w), (b 1 1|h w) -> (b coil h w)

    The first map of each pixel, with the phase at which the coil-combined image of the centre alone is real and
    positive. Nothing is set to zero outside the object. One coil has only that phase. No gradient runs through them.

    acs_mask: bool, what is fully sampled; of it the middle `calib_width` rows and columns count.
    kernel_width: of the calibration kernel; less in a direction where the centre has fewer than twice as many samples.
    threshold: singular values of the calibration matrix below so much of the largest are noise.
    num_iterations: of the power method that finds each pixel's eigenvector.

    Raises InputError where the centre of k-space was not sampled.
    """
    masks = acs_mask.expand(-1, -1, kspace.shape[-2], -1)
    one = [
        _maps(k, m[0], calib_width, kernel_width, threshold, num_iterations) for k, m in zip(kspace, masks, strict=True)
    ]
    return torch.stack(one)


def _maps(
    kspace: Tensor, acs_mask: Tensor, calib_width: int, kernel_width: int, threshold: float, num_iterations: int
) -> Tensor:
    """The maps of one slice.  (coil h w), (h w) -> (coil h w)"""
    rows, columns = calibration_box(acs_mask, calib_width)
    box = torch.zeros_like(acs_mask)
    box[rows, columns] = acs_mask[rows, columns]
    low_resolution = ifft2c(kspace * box)
    start = low_resolution / rss(low_resolution).square().clamp_min(_FADED).sqrt()
    calib, sampled = kspace[:, rows, columns], acs_mask[rows, columns]
    kernel = tuple(min(kernel_width, (n + 1) // 2) for n in sampled.shape)
    projector = signal_projector(calib, sampled, (kernel[0], kernel[1]), threshold)
    operator = image_operator(projector, (kspace.shape[-2], kspace.shape[-1]))
    maps = _principal(operator, start, num_iterations)
    return maps * torch.sgn(sens_reduce(low_resolution, maps))


def calibration_box(acs_mask: Tensor, calib_width: int) -> tuple[slice, slice]:
    """The rows and columns in the middle of k-space that hold the fully sampled centre.  bool (h w)

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
    """The unbroken run of samples around the middle, at most `width` long.  bool (n)"""
    n = len(sampled)
    gaps = torch.nonzero(~sampled)[:, 0].tolist()
    start = max([gap + 1 for gap in gaps if gap < n // 2], default=0)
    stop = min([gap for gap in gaps if gap > n // 2], default=n)
    return slice(max(start, n // 2 - width // 2), min(stop, n // 2 - width // 2 + width))


def signal_projector(calib: Tensor, sampled: Tensor, kernel: tuple[int, int], threshold: float) -> Tensor:
    """The projector onto what patches of k-space look like.  (coil i j), (i j) -> (coil m n coil m n)

    The signal space of the calibration matrix (section "Theory", k-space part), from the eigenvectors of its Gram
    matrix. Patches with an unsampled element do not count.
    """
    coils = len(calib)
    patches = calib.unfold(1, kernel[0], 1).unfold(2, kernel[1], 1).flatten(1, 2).movedim(0, 1).flatten(1)
    whole = sampled.unfold(0, kernel[0], 1).unfold(1, kernel[1], 1).all((-2, -1)).flatten()
    patches = patches[whole]
    values, vectors = torch.linalg.eigh(patches.mT @ patches.conj())
    signal = vectors * (values > threshold**2 * values[-1])
    return (signal @ vectors.mH).reshape(coils, *kernel, coils, *kernel)


def image_operator(projector: Tensor, size: tuple[int, int]) -> Tensor:
    """The projector, averaged over all places in k-space, at every pixel.  (coil m n coil m n) -> (h w coil coil)

    An average over shifts is a convolution in k-space, so it acts on each pixel's coil vector alone; sensitivities are
    its eigenvectors of eigenvalue 1 (Eq. 12).
    """
    coils, m, n = projector.shape[:3]
    kernel = projector.new_zeros(2 * m - 1, 2 * n - 1, coils, coils)
    for i in range(m):
        for j in range(n):
            kernel[m - 1 - i : 2 * m - 1 - i, n - 1 - j : 2 * n - 1 - j] += projector[..., i, j].movedim(0, 2)
    # Few elements and many pixels: two matrix products cost less than coil^2 transforms, and give the order wanted.
    along_w = _waves(n, size[1], kernel) @ kernel.flatten(2)
    return (_waves(m, size[0], kernel) @ along_w.flatten(1)).reshape(*size, coils, coils) / (m * n)


def _waves(extent: int, size: int, like: Tensor) -> Tensor:
    """exp(2 pi i d x / size) for displacements |d| < extent and centred x.  -> (size 2*extent-1)"""
    x = torch.arange(size, device=like.device) - size // 2
    d = torch.arange(1 - extent, extent, device=like.device)
    turns = torch.remainder(torch.outer(x, d), size) / size  # whole turns taken off while they are whole numbers
    return torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(like.dtype)


def _principal(operator: Tensor, start: Tensor, num_iterations: int) -> Tensor:
    """The first eigenvector of every pixel by the power method.  (h w coil coil), (coil h w) -> (coil h w)"""
    vector = start.movedim(0, -1)[..., None].contiguous()
    for _ in range(num_iterations):
        vector = operator @ vector
        vector = vector / vector.abs().square().sum(-2, keepdim=True).clamp_min(_FADED).sqrt()
    return vector[..., 0].movedim(-1, 0)
