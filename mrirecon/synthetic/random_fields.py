"""Smooth random fields, and the random generator of a volume."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional


class Waves(NamedTuple):
    """Smooth random field of unit variance: a sum of plane waves of random direction and similar wavelength."""

    number: Tensor  # (wave 3): angular wave numbers along x, y, z
    phase: Tensor  # (wave)

    def __call__(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """The field on a grid, as matrix products, since waves are separable.  (x), (y), (z) -> (z y x)"""
        kx, ky, kz = self.number.unbind(-1)
        along_x, along_y = torch.outer(kx, x), torch.outer(ky, y) + self.phase[:, None]
        along_y = along_y + torch.outer(z, kz)[..., None]
        field = along_y.cos().mT @ along_x.cos() - along_y.sin().mT @ along_x.sin()
        return field * math.sqrt(2 / len(self.phase))


def volume_generator(*entropy: int) -> Generator:
    """Random generator of one volume, seeded by all the numbers (seed, split, index, ...); same on any machine."""
    return Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def draw_phase(x: Tensor, y: Tensor, z: Tensor, generator: Generator) -> Tensor:
    """Smooth phase, radians: offset, ramp (off-centre echo), field inhomogeneity.  (x), (y), (slice)  -> (slice y x)"""
    offset, ramp_x, ramp_y = (uniform(generator, -a, a) for a in (math.pi, 1.5, 1.5))
    ramp = offset + ramp_x * x + ramp_y * y[:, None]
    return ramp + 0.8 * draw_waves(1.2, generator)(x, y, z)


def draw_waves(wavelength: float, generator: Generator, num_waves: int = 24) -> Waves:
    """Random field of plane waves whose wavelengths vary by a fifth."""
    direction = functional.normalize(torch.randn(num_waves, 3, generator=generator), dim=-1)
    spread = 1 + 0.2 * (2 * torch.rand(num_waves, 1, generator=generator) - 1)
    phase = 2 * math.pi * torch.rand(num_waves, generator=generator)
    return Waves(direction * (2 * math.pi / wavelength) * spread, phase)


def uniform(generator: Generator, low: float, high: float) -> float:
    """A number drawn uniformly from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))
