"""Simulates multi-coil k-space from magnitude images, with random phase and coils, and noise of a given SNR."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from mrirecon.physics.coils import rss
from mrirecon.physics.fft import fft2c, ifft2c
from mrirecon.synthetic.coils import draw_loops, unit_sens_maps
from mrirecon.synthetic.random_fields import draw_phase, uniform

_OBJECT_LEVEL, _BRIGHT = 0.1, 0.99


class Simulation(NamedTuple):
    """One simulated volume, in the units of its images."""

    kspace: Tensor  # complex64 (slice coil h w)
    target: Tensor  # float32 (slice h w): root sum of squares of the noisy, fully sampled coil images
    noise_std: float  # of the real part, and of the imaginary part, of each k-space sample


def object_level(images: Tensor) -> float:
    """Threshold between background and object: a tenth of the 99th percentile of positive pixels.  (slice y x) -> ()

    Noise and ghosts in the background are well below it. Infinity where no pixel is positive.
    """
    thinned = images[:, ::2, ::2]  # a quarter of the pixels suffices
    positive = thinned[thinned > 0]
    if len(positive) == 0:
        return math.inf
    return _OBJECT_LEVEL * float(positive.kthvalue(max(1, round(_BRIGHT * len(positive)))).values)


def simulate_from_images(
    images: Tensor,
    z: Tensor,
    level: float,
    *,
    matrix: tuple[int, int] | None,
    num_coils: int,
    snr: float,
    generator: Generator,
) -> Simulation:
    """Noisy, fully sampled k-space of magnitude images.  images (slice y x), z (slice) -> kspace (slice coil h w)

    z: positions of the slices, in halves of the field of view; the coils are centred near 0.25. level: pixels above it
    are the object. matrix: size (h, w) of the centre of k-space that is kept; None: all.
    snr: mean of the images inside the object over `noise_std`, the standard deviation of the real, and of the
    imaginary, part of the noise in a pixel of a coil image or, since the transform is orthonormal, in a k-space sample.
    """
    noise_std = float(images[images > level].mean()) / snr
    whole = (images.shape[-2], images.shape[-1])
    h, w = size = matrix or whole
    phase = image_phase(whole, z, generator)
    loops = draw_loops(num_coils, generator)
    kspace = torch.empty(len(images), num_coils, h, w, dtype=torch.complex64)
    target = torch.empty(len(images), h, w)
    # Slice by slice, to bound the memory for coil images.
    for i, image in enumerate(images):
        coil_images = torch.polar(image, phase[i]) * unit_sens_maps(loops, whole, z[i : i + 1])[0]
        noise = torch.view_as_complex(torch.randn(num_coils, h, w, 2, generator=generator))
        kspace[i] = sample(coil_images, size) + noise_std * noise
        target[i] = rss(ifft2c(kspace[i]))
    return Simulation(kspace, target, noise_std)


def image_phase(size: tuple[int, int], z: Tensor, generator: Generator) -> Tensor:
    """Smooth phase in radians: in-plane polynomial of second order plus a smooth random field.  -> (slice y x)"""
    y, x = (torch.linspace(-1, 1, samples) for samples in size)
    across, along, mixed = (uniform(generator, -0.8, 0.8) for _ in range(3))
    bowl = across * x.square() + along * y[:, None].square() + mixed * x * y[:, None]
    return draw_phase(x, y, z, generator) + bowl


def sample(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Centre of the k-space of images, scaled so that the image intensity is kept.  (*b y x) -> complex (*b h w)"""
    # Zero frequency is at n // 2, so the start differs from that of `center_crop` for odd sizes.
    top, left = (n // 2 - m // 2 for n, m in zip(images.shape[-2:], size, strict=True))
    kept = fft2c(images)[..., top : top + size[0], left : left + size[1]]
    return kept * math.sqrt(math.prod(size) / math.prod(images.shape[-2:]))
