"""Numerical head phantoms: multi-coil k-space of anatomies drawn from a seed, with truncation, phase and noise.

An anatomy is a set of continuous shapes (ellipsoids, and level sets of random fields for the folded cortex, the vessels
and the lesions), so it can be sampled on any grid. It is sampled twice finer than the pixels in both directions,
weighted by the coils, transformed, and only then cut to the acquired k-space: edges ring as they do on a scanner.
The readout is oversampled twice, as on a scanner. Not modelled: slice thickness, motion, relaxation during the readout,
correlated noise.

Lengths are in halves of the reconstructed field of view (about 120 mm): x to the right, y to the back, z to the
crown.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import fft2c, ifft2c
from mrirecon.synthetic.coils import draw_sens_maps
from mrirecon.synthetic.random_fields import draw_phase, draw_waves, uniform
from mrirecon.synthetic.random_fields import volume_generator as volume_generator

UNIT = 1e-4
"""Signal of a tissue of intensity 1 where the coils' root sum of squares is 1; targets peak at a few of these."""

FINER = 2
"""Samples of the anatomy per pixel and direction."""

Point = tuple[float, float, float]
Points = tuple[Tensor, Tensor, Tensor]

ACQUISITIONS = ("AXT1", "AXT2", "AXFLAIR", "AXT1POST")
"""Contrasts, named as in fastMRI's brain files."""

# Relative signal of each tissue per contrast, as in ACQUISITIONS. Flowing blood is bright in T1, dark in T2.
INTENSITIES = {
    "skin": (0.5, 0.4, 0.4, 0.6),
    "fat": (0.72, 0.42, 0.45, 0.66),
    "bone": (0.1, 0.08, 0.08, 0.1),
    "marrow": (0.45, 0.3, 0.3, 0.45),
    "csf": (0.24, 1.0, 0.16, 0.24),
    "grey": (0.48, 0.54, 0.66, 0.5),
    "white": (0.74, 0.36, 0.5, 0.7),
    "deep": (0.57, 0.42, 0.56, 0.57),
    "lesion": (0.45, 0.75, 1.0, 1.05),
    "vessel": (1.1, 0.06, 0.12, 1.2),
}


@dataclass(frozen=True)
class Organ:
    """An ellipsoid of one tissue. angle: rotation in the slice plane, radians. paired: with a copy mirrored in x."""

    tissue: str
    centre: Point
    axes: Point
    angle: float = 0.0
    paired: bool = True


# Painted in this order; later organs cover earlier ones.
ORGANS = (
    Organ("csf", (0.36, -0.02, 0.02), (0.16, 0.012, 0.12), 0.25),  # Sylvian fissure
    Organ("deep", (0.25, -0.04, 0.02), (0.045, 0.16, 0.15), -0.18),  # putamen
    Organ("deep", (0.085, 0.08, 0.03), (0.07, 0.115, 0.12), -0.3),  # thalamus
    Organ("deep", (0.13, -0.2, 0.13), (0.035, 0.1, 0.14), 0.15),  # caudate nucleus
    Organ("csf", (0.07, -0.2, 0.15), (0.038, 0.14, 0.15), 0.3),  # frontal horn
    Organ("csf", (0.15, 0.24, 0.12), (0.045, 0.17, 0.15), -0.35),  # body and atrium
    Organ("csf", (0.0, 0.02, 0.0), (0.014, 0.12, 0.13), paired=False),  # third ventricle
)

SKIN, FAT, TABLE, DIPLOE = 0.015, 0.04, 0.013, 0.02  # thicknesses, outermost first; the skull is table, diploe, table
SUBARACHNOID, CORTEX, SULCAL_DEPTH, SULCUS = 0.018, 0.032, 0.17, 0.006  # SULCUS is half a width


class Phantom(NamedTuple):
    """One simulated volume; file units (see `UNIT`)."""

    kspace: Tensor  # complex64 (slice coil h w), h = 2 * the height of the target
    target: Tensor  # float32 (slice y x): root sum of squares of the noisy, fully sampled coil images
    noise_std: float  # of the real part, and of the imaginary part, of each k-space sample


class CoilImages(NamedTuple):
    """Image and coil sensitivities before sampling, on the fine grid."""

    image: Tensor  # complex64 (slice y x)
    sens_maps: Tensor  # complex64 (slice coil y x)


def simulate(
    acquisition: str,
    recon_size: int,
    width: int,
    *,
    num_slices: int,
    num_coils: int,
    snr: float,
    generator: Generator,
) -> Phantom:
    """Noisy, fully sampled volume of a random head.  -> kspace (slice coil 2*recon_size width), target (slice y x)

    snr: mean signal inside the head (root sum of squares over coils, without noise) over `noise_std`, the standard
    deviation of the real, and of the imaginary, part of a k-space sample or of a pixel of a coil image.
    recon_size: width and height of the target. width: number of phase encoding columns, at least `recon_size`.
    """
    coil_images = simulate_coil_images(acquisition, recon_size, num_slices, num_coils, generator)
    kspace = acquire(coil_images, (2 * recon_size, width))
    noise_std = float(mean_signal(coil_images)) / snr
    noise = torch.randn(*kspace.shape, 2, generator=generator)
    kspace = kspace + noise_std * torch.view_as_complex(noise)
    return Phantom(kspace, rss(center_crop(ifft2c(kspace), (recon_size, recon_size))), noise_std)


def simulate_coil_images(
    acquisition: str, recon_size: int, num_slices: int, num_coils: int, generator: Generator
) -> CoilImages:
    """Complex image and coil sensitivities of a random head, without noise, on the fine grid of the field of view.

    -> image (slice y x), sens_maps (slice coil y x), y = x = FINER * recon_size
    """
    axis = (torch.arange(FINER * recon_size) / (FINER * recon_size) - 0.5) * 2
    z = torch.linspace(uniform(generator, -0.04, 0.04), uniform(generator, 0.48, 0.56), num_slices)
    column = ACQUISITIONS.index(acquisition)
    intensities = {tissue: row[column] * uniform(generator, 0.92, 1.08) for tissue, row in INTENSITIES.items()}
    magnitude = UNIT * draw_head(axis, z, intensities, generator)
    phase = draw_phase(axis, axis, z, generator)
    sens_maps = draw_sens_maps(len(axis), z, num_coils, generator)
    return CoilImages(torch.polar(magnitude, phase), sens_maps)


def acquire(coil_images: CoilImages, size: tuple[int, int]) -> Tensor:
    """Noise-free k-space of all coils, sampled at `size` (h, w).  -> complex64 (slice coil h w)"""
    images = coil_images.image[:, None] * coil_images.sens_maps
    rows, columns = (FINER * n - m for n, m in zip(size, images.shape[-2:], strict=True))
    # The head lies inside the fine grid, so the rest of the sampled field of view is zero.
    padded = functional.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    # The transform is orthonormal on a grid with FINER^2 times as many points, each 1 / FINER^2 of a pixel.
    kspace = fft2c(padded) / FINER
    (h, w), (top, left) = size, (FINER * n // 2 - n // 2 for n in size)
    return kspace[..., top : top + h, left : left + w]


def mean_signal(coil_images: CoilImages) -> Tensor:
    """Mean over the head of the root sum of squares of the coil images.  -> ()"""
    magnitude = coil_images.image[..., ::4, ::4].abs()  # a sixteenth of the samples suffices
    return (magnitude * rss(coil_images.sens_maps[..., ::4, ::4]))[magnitude > 0].mean()


def emulate_single_coil(kspace: Tensor, target: Tensor, num_iterations: int = 10) -> Tensor:
    """Emulated single-coil k-space (arXiv:1811.08026).  kspace (slice coil h w), target (slice y x) -> (slice h w)

    A fixed complex combination of the coils, fitted so that its magnitude image is the target (least squares). The
    target has no phase, so phase and weights are updated alternately.
    """
    images = center_crop(ifft2c(kspace), (target.shape[-2], target.shape[-1]))
    columns, wanted = images.movedim(1, -1).flatten(0, -2)[::3], target.flatten()[::3]  # every third pixel suffices
    gram = columns.mH @ columns
    weights = torch.exp(-1j * columns.sum(0).angle())
    for _ in range(num_iterations):
        phase = torch.sgn(columns @ weights)
        weights = torch.linalg.solve(gram, columns.mH @ (wanted * phase))
    return torch.einsum("schw,c->shw", kspace, weights)


def draw_head(axis: Tensor, z: Tensor, intensities: dict[str, float], generator: Generator) -> Tensor:
    """Tissue signal of a random head, zero outside.  axis (n), z (slice) -> (slice n n)"""
    points = _head_points(axis, z, generator)
    head_axes = (uniform(generator, 0.62, 0.69), uniform(generator, 0.77, 0.85), uniform(generator, 0.82, 0.9))
    depth = _ellipsoid_depth(points, (0.0, 0.0, 0.0), head_axes)
    thickness = 1 + 0.25 * draw_waves(1.0, generator)(axis, axis, z).clamp(-2, 2)
    canvas = Canvas(torch.zeros_like(depth), pixel=float(axis[1] - axis[0]), intensities=intensities)
    brain_depth = _paint_scalp_and_skull(canvas, depth, thickness)
    pia = _paint_brain(canvas, brain_depth, points, axis, z, generator)
    _paint_organs(canvas, points, generator)
    _paint_vessels_and_lesions(canvas, brain_depth, pia, axis, z, generator)
    texture = draw_waves(0.05, generator, 80)(axis, axis, z)
    return canvas.image * (1 + 0.015 * texture)


class Canvas:
    """An image on which tissues are painted with partial volume at their edges."""

    def __init__(self, image: Tensor, pixel: float, intensities: dict[str, float]) -> None:
        self.image, self.pixel, self.intensities = image, pixel, intensities

    def paint(self, tissue: str, depth: Tensor) -> None:
        """Paints where `depth`, the signed distance to the tissue's edge, is positive; the edge is one sample wide."""
        covered = (depth / self.pixel + 0.5).clamp_(0, 1)
        self.image = torch.lerp(self.image, torch.tensor(self.intensities[tissue]), covered)


def _paint_scalp_and_skull(canvas: Canvas, depth: Tensor, thickness: Tensor) -> Tensor:
    """Paints skin, fat, three skull layers and CSF. Returns the depth below the surface of the brain."""
    canvas.paint("skin", depth)
    depth = depth - SKIN
    for tissue, layer in (("fat", FAT * thickness), ("bone", TABLE), ("marrow", DIPLOE * thickness), ("bone", TABLE)):
        canvas.paint(tissue, depth)
        depth = depth - layer
    canvas.paint("csf", depth)
    return depth - SUBARACHNOID


def _paint_brain(
    canvas: Canvas, depth: Tensor, points: Points, axis: Tensor, z: Tensor, generator: Generator
) -> Tensor:
    """Paints folded cortex and white matter. Returns the distance to the pial surface, positive in tissue."""
    folds = draw_waves(uniform(generator, 0.24, 0.3), generator, 60)(axis, axis, z)
    slow = draw_waves(0.5, generator)(axis, axis, z)
    below_sulci = (depth - SULCAL_DEPTH * (1 + 0.2 * slow)).clamp_min(0)
    sulcus = _distance_to_zero(folds, canvas.pixel) + below_sulci - SULCUS * (1 + 0.5 * slow)
    pia = torch.minimum(torch.minimum(depth, sulcus), _fissure_distance(points))
    canvas.paint("grey", pia)
    canvas.paint("white", pia - CORTEX)
    return pia


def _fissure_distance(points: Points) -> Tensor:
    """Distance to the fissure between the hemispheres, which the corpus callosum interrupts."""
    callosum = _ellipsoid_depth(points, (0.0, 0.0, 0.0), (0.3, 0.42, 0.3))
    return points[0].abs() + callosum.clamp_min(0) - 0.8 * SULCUS


def _paint_organs(canvas: Canvas, points: Points, generator: Generator) -> None:
    size = uniform(generator, 0.8, 1.25)  # ventricles and nuclei vary more in size than heads
    for organ in ORGANS:
        for side in (1.0, -1.0) if organ.paired else (1.0,):
            x, y, z = (c + uniform(generator, -0.012, 0.012) for c in organ.centre)
            a, b, c = (a * size * uniform(generator, 0.85, 1.15) for a in organ.axes)
            depth = _ellipsoid_depth(points, (side * x, y, z), (a, b, c), side * organ.angle)
            canvas.paint(organ.tissue, depth)


def _paint_vessels_and_lesions(
    canvas: Canvas, brain_depth: Tensor, pia: Tensor, axis: Tensor, z: Tensor, generator: Generator
) -> None:
    """Paints vessels along curves where two random fields vanish, and lesions at peaks of a third in white matter."""
    one, two = (_distance_to_zero(draw_waves(0.3, generator, 40)(axis, axis, z), canvas.pixel) for _ in range(2))
    canvas.paint(
        "vessel",
        torch.minimum(0.013 - torch.hypot(one, two), torch.minimum(brain_depth + SUBARACHNOID / 2, CORTEX - pia)),
    )
    peaks = draw_waves(0.22, generator, 40)(axis, axis, z) - uniform(generator, 2.5, 3.3)
    lesion = peaks / _slope(peaks, canvas.pixel)
    canvas.paint("lesion", torch.minimum(lesion, pia - CORTEX))


def _head_points(axis: Tensor, z: Tensor, generator: Generator) -> Points:
    """Position of each sample in the symmetric reference head: undoes tilt, shift and bending.  3 x (slice n n)"""
    angle, shift_x, shift_y = (uniform(generator, -a, a) for a in (0.12, 0.04, 0.03))
    x, y = axis - shift_x, axis[:, None] - shift_y
    cos, sin = math.cos(angle), math.sin(angle)
    bend_x, bend_y = (0.008 * draw_waves(0.9, generator)(axis, axis, z) for _ in range(2))
    turned_x, turned_y = cos * x + sin * y, cos * y - sin * x
    return (turned_x + bend_x) / (1 + 0.12 * turned_y), turned_y + bend_y, z[:, None, None].expand_as(bend_x)


def _ellipsoid_depth(points: Points, centre: Point, axes: Point, angle: float = 0.0) -> Tensor:
    """Distance below the surface of an ellipsoid, exact to first order at the surface, negative outside."""
    x, y, z = (p - c for p, c in zip(points, centre, strict=True))
    cos, sin = math.cos(angle), math.sin(angle)
    u, v, w = (cos * x + sin * y) / axes[0], (cos * y - sin * x) / axes[1], z / axes[2]
    radius = (u.square() + v.square() + w.square()).sqrt()
    slope = ((u / axes[0]).square() + (v / axes[1]).square() + (w / axes[2]).square()).sqrt()
    return (1 - radius) * radius / slope.clamp_min(1e-6)


def _distance_to_zero(field: Tensor, pixel: float) -> Tensor:
    """Distance to the nearest zero of a smooth field, exact to first order near it.  (slice n n) -> (slice n n)"""
    return field.abs() / _slope(field, pixel)


def _slope(field: Tensor, pixel: float) -> Tensor:
    """Magnitude of the in-plane gradient, bounded away from zero.  (slice n n) -> (slice n n)"""
    dy, dx = torch.gradient(field, spacing=pixel, dim=(-2, -1))
    return torch.hypot(dy, dx).clamp_min(1e-3)
