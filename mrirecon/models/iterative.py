"""Reconstruction without training: CG-SENSE, and compressed sensing by total variation or wavelets.

All find the complex image x that explains the acquired k-space y through coil sensitivities, 1/2 ||M F S x - y||^2, and
is small in some norm; sensitivities come from the scan's own centre of k-space (ESPIRiT, their sum of squares is 1, so
|x| compares with a root-sum-of-squares target). The weight of the norm is stated for images whose zero-filled
reconstruction has standard deviation 1, as a `Sample` has: one value means the same on a knee and a brain.
"""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mrirecon.errors import ConfigError
from mrirecon.models.base import ReconModel
from mrirecon.physics.crop import center_crop
from mrirecon.physics.espirit import Espirit
from mrirecon.physics.sample import Measurement, Prediction
from mrirecon.physics.sense import SenseOperator
from mrirecon.physics.solvers import conjugate_gradient, fista, in_threads, soft_threshold, total_variation
from mrirecon.physics.wavelet import Wavelet, check_wavelet, num_levels_of, to_complex, to_lines


class Iterative(ReconModel):
    """Shared by the three: asks for sensitivities, solves, crops the solution to the image size.

    reg_weight: lambda, the weight of the regularisation.
    calib_width, kernel_width: of ESPIRiT, in samples of k-space.
    """

    needs = ("kspace", "sens_maps")

    def __init__(self, reg_weight: float, num_iterations: int, calib_width: int, kernel_width: int) -> None:
        super().__init__()
        if not (math.isfinite(reg_weight) and reg_weight >= 0):
            raise ConfigError(f"model.reg_weight={reg_weight}: expected a finite number of 0 or more")
        for name, value, least in (
            ("num_iterations", num_iterations, 1), ("calib_width", calib_width, 1), ("kernel_width", kernel_width, 1),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"model.{name}={value}: expected {least} or more")
        self.reg_weight = reg_weight
        self.num_iterations = num_iterations
        self.sensitivities = Espirit(calib_width, kernel_width)

    def forward(self, measurement: Measurement) -> Prediction:
        """The complex image, and the k-space that it means."""
        kspace, sens_maps = measurement.kspace, measurement.sens_maps
        assert kspace is not None
        assert sens_maps is not None
        weight = self.reg_weight * measurement.zero_filled.std(dim=(-2, -1), correction=0)
        parts = measurement.mask, sens_maps, kspace, weight[:, None, None]
        if kspace.device.type == "cpu" and not torch.is_grad_enabled():
            image = in_threads(partial(self._solve, measurement.readout), *parts)
        else:
            image = self._solve(measurement.readout, *parts)
        operator = SenseOperator(measurement.mask, sens_maps, measurement.readout)
        return Prediction(center_crop(image, measurement.size), operator.expand(image))

    def _solve(self, readout: str, mask: Tensor, sens_maps: Tensor, kspace: Tensor, weight: Tensor) -> Tensor:
        return self.solve(SenseOperator(mask, sens_maps, readout), kspace, weight)

    def solve(self, operator: SenseOperator, kspace: Tensor, weight: Tensor) -> Tensor:
        """The image for a weight in the units of the image.  (b coil h w), (b 1 1) -> complex (b h w)"""
        raise NotImplementedError


class CgSense(Iterative):
    """Least squares with lambda/2 ||x||^2, by conjugate gradients: Pruessmann et al., doi:10.1002/mrm.1241.

    Both terms are squares, so here lambda has no unit.
    """

    def solve(self, operator: SenseOperator, kspace: Tensor, weight: Tensor) -> Tensor:
        def normal(image: Tensor) -> Tensor:
            return operator.normal(image) + self.reg_weight * image

        return conjugate_gradient(normal, operator.adjoint(kspace), self.num_iterations)


class TotalVariation(Iterative):
    """Least squares with lambda times total variation: Block et al., doi:10.1002/mrm.21236.

    isotropic: sums lengths of the gradient; otherwise magnitudes of its two components.
    step: of the primal-dual algorithm, between 0 and 2; what it converges to does not depend on it.
    """

    def __init__(
        self,
        reg_weight: float,
        num_iterations: int,
        isotropic: bool,
        step: float,
        calib_width: int,
        kernel_width: int,
    ) -> None:
        super().__init__(reg_weight, num_iterations, calib_width, kernel_width)
        if not 0 < step < 2:
            raise ConfigError(f"model.step={step}: expected a number between 0 and 2; beyond it the iteration diverges")
        self.isotropic = isotropic
        self.step = step

    def solve(self, operator: SenseOperator, kspace: Tensor, weight: Tensor) -> Tensor:
        rhs = operator.adjoint(kspace)
        return total_variation(operator.normal, rhs, weight, self.isotropic, self.step, self.num_iterations)


class L1Wavelet(Iterative):
    """Least squares with lambda times the magnitudes of wavelet details: Lustig et al., doi:10.1002/mrm.21391.

    wavelet: an orthogonal one of PyWavelets.
    cycle_spinning: each iteration thresholds on a grid shifted otherwise (Coifman and Donoho 1995), always in the same
        sequence. Block artefacts go; the iteration then settles near no minimum of one function.

    The image is continued to sides that can be halved as often as there are levels. No data says anything about the
    continuation, so it takes the values of the fewest details, and is cut off.
    """

    def __init__(
        self,
        reg_weight: float,
        num_iterations: int,
        wavelet: str,
        cycle_spinning: bool,
        calib_width: int,
        kernel_width: int,
    ) -> None:
        super().__init__(reg_weight, num_iterations, calib_width, kernel_width)
        check_wavelet(wavelet)
        self.wavelet = wavelet
        self.cycle_spinning = cycle_spinning

    def solve(self, operator: SenseOperator, kspace: Tensor, weight: Tensor) -> Tensor:
        h, w = kspace.shape[-2:]
        levels = num_levels_of(self.wavelet, (h, w))
        grid = 2**levels
        bottom, right = -h % grid, -w % grid
        transform = Wavelet(self.wavelet, (h + bottom, w + right), levels, kspace.device)
        thresholds = weight.expand(-1, h + bottom, w + right).clone()
        thresholds[:, : (h + bottom) // grid, : (w + right) // grid] = 0  # the approximation is not sparse
        thresholds = thresholds.unsqueeze(-2)

        def extend(image: Tensor) -> Tensor:
            return F.pad(image, (0, right, 0, bottom))

        def prox(image: Tensor, iteration: int) -> Tensor:
            down, across = _shift(iteration, grid) if self.cycle_spinning else (0, 0)
            coefficients = transform.analyse(to_lines(image.roll((down, across), (-2, -1))))
            lines = transform.synthesise(soft_threshold(coefficients, thresholds, dim=-2))
            return to_complex(lines).roll((-down, -across), (-2, -1))

        def normal(image: Tensor) -> Tensor:
            return extend(operator.normal(image[..., :h, :w]))

        image = fista(normal, extend(operator.adjoint(kspace)), prox, self.num_iterations)
        return image[..., :h, :w]


def _shift(iteration: int, grid: int) -> tuple[int, int]:
    """The next of a sequence of shifts that covers the grid evenly: multiples of 1/p, 1/p^2 modulo 1, p^3 = p + 1."""
    return int(iteration * 0.7548776662 % 1 * grid), int(iteration * 0.5698402910 % 1 * grid)
