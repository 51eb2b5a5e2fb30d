"""Coil sensitivities of loops around the field of view, by the Biot-Savart law."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from mrirecon.physics.coils import rss
from mrirecon.synthetic.random_fields import uniform


def draw_sens_maps(num_samples: int, z: Tensor, num_coils: int, generator: Generator) -> Tensor:
    """Random coil sensitivities of loops on an ellipse around the head.  z (slice) -> complex (slice coil n n)

    Their root sum of squares is 1 on average. z: in halves of the field of view.
    """
    size = (num_samples, num_samples)
    maps = _coarse_fields(draw_loops(num_coils, generator), size, z)
    return _enlarge(maps / rss(maps).mean(), size)


def unit_sens_maps(loops: Tensor, size: tuple[int, int], z: Tensor) -> Tensor:
    """Coil sensitivities with root sum of squares 1.  loops (coil corner 3), (y, x), z (slice) -> (slice coil y x)

    A single coil is uniform: normalised, one loop would leave a phase that winds around the zeros of its field.
    """
    if len(loops) == 1:
        return torch.ones(len(z), 1, *size, dtype=torch.complex64)
    maps = _enlarge(_coarse_fields(loops, size, z), size)
    total = rss(maps)[:, None]
    return maps / total.clamp_min(1e-6 * float(total.max()))


def draw_loops(num_coils: int, generator: Generator) -> Tensor:
    """Corners of loops on an ellipse around the z axis, at slightly random positions.  -> (coil corner 3)"""
    return torch.stack([_loop(coil, num_coils, generator) for coil in range(num_coils)])


def _coarse_fields(loops: Tensor, size: tuple[int, int], z: Tensor) -> Tensor:
    """Fields on a coarse grid, enough since they vary slowly.  -> complex (slice coil m n)"""
    y, x = (torch.linspace(-1, 1 - 2 / samples, max(samples // 8, 8)) for samples in size)
    grid = torch.stack(torch.broadcast_tensors(x, y[:, None], z[:, None, None]), dim=-1)
    return _receive_field(loops, grid).movedim(0, 1)


def _enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Cubic interpolation from corner to corner.  complex (slice coil m n) -> complex (slice coil y x)"""
    parts = torch.cat([maps.real, maps.imag], dim=1)
    fine = functional.interpolate(parts, size, mode="bicubic", align_corners=True)
    return torch.complex(*fine.chunk(2, dim=1))


def _loop(coil: int, num_coils: int, generator: Generator, num_corners: int = 16) -> Tensor:
    """Corners of one loop facing the centre of the head.  -> (corner 3)"""
    angle = 2 * math.pi * (coil + uniform(generator, 0.3, 0.7)) / num_coils
    outward = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
    along = torch.tensor([-math.sin(angle), math.cos(angle), 0.0])
    turn = torch.arange(num_corners) * (2 * math.pi / num_corners)
    circle = turn.cos()[:, None] * along + turn.sin()[:, None] * torch.tensor([0.0, 0.0, 1.0])
    centre = outward * torch.tensor([1.05, 1.15, 1.0]) + torch.tensor([0.0, 0.0, uniform(generator, 0.1, 0.4)])
    return centre + uniform(generator, 0.6, 0.75) * circle


def _receive_field(wires: Tensor, points: Tensor) -> Tensor:
    """Bx - iBy of a unit current in closed polygons.  (coil corner 3), (*p 3) -> complex (coil *p)"""
    corners = wires.reshape(len(wires), *(1,) * (points.ndim - 1), -1, 3)
    current = corners.roll(-1, -2) - corners
    reach = points[..., None, :] - corners - current / 2
    weight = (reach.square().sum(-1) + 0.02).pow(-1.5)  # finite thickness of the wire: no singularity
    (cx, cy, cz), (rx, ry, rz) = current.unbind(-1), reach.unbind(-1)
    return torch.complex(((cy * rz - cz * ry) * weight).sum(-1), -((cz * rx - cx * rz) * weight).sum(-1))
