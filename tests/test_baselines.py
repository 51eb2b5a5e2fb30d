"""The models that need no training: minima that sigpy finds too, the contract, and better than zero-filled."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import pywt
import sigpy as sp
import sigpy.mri
import torch
from fastmri.data.subsample import RandomMaskFunc
from omegaconf import OmegaConf
from samples import predict, sample_for, slices
from test_espirit import columns
from test_physics import assert_adjoint, complex_normal
from torch import Tensor

from mrirecon.config.compose import instantiate
from mrirecon.config.options import CONF
from mrirecon.errors import ConfigError
from mrirecon.models.iterative import Iterative
from mrirecon.physics.sample import masked, normalise
from mrirecon.physics.sense import SenseOperator
from mrirecon.physics.solvers import conjugate_gradient, gradient, gradient_adjoint
from mrirecon.physics.wavelet import Wavelet
from mrirecon.physics.zero_filled import zero_filled
from mrirecon.sampling.masks import volume_mask
from mrirecon.synthetic.head import simulate, volume_generator

NAMES = ("tv", "wavelet", "cg_sense")


def build(name: str, **changes: object) -> Iterative:
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
    assert isinstance(config, dict)
    return instantiate("model", {**config, **changes})


def problem(size: tuple[int, int] = (32, 48), num_coils: int = 3) -> tuple[SenseOperator, Tensor]:
    """A small operator with normalised maps and the noisy k-space of a phantom.  -> operator, (1 coil h w)"""
    h, w = size
    mask = torch.rand(1, 1, 1, w, generator=torch.Generator().manual_seed(3)) > 0.6
    maps = complex_normal(1, num_coils, h, w, seed=1) + 3
    operator = SenseOperator(mask, maps / maps.abs().square().sum(1, keepdim=True).sqrt())
    image = torch.from_numpy(sp.shepp_logan((h, w)).astype(np.complex64))[None] * 3
    return operator, (operator.forward(image) + 0.05 * complex_normal(1, num_coils, h, w, seed=2)) * mask


def misfit(operator: SenseOperator, image: Tensor, kspace: Tensor) -> float:
    return 0.5 * float((operator.forward(image) - kspace).abs().square().sum())


def solve(model: Iterative, operator: SenseOperator, kspace: Tensor) -> Tensor:
    return model.solve(operator, kspace, torch.full((1, 1, 1), model.reg_weight))


@pytest.mark.parametrize(("weight", "changes"), [(0.02, {}), (0.2, {"num_iterations": 800, "step": 0.5})])
def test_tv_reaches_the_minimum_of_sigpys_total_variation(weight: float, changes: dict[str, object]) -> None:
    """The same lambda: sigpy's is the anisotropic one, periodic, with the same half before the squares.

    The 200 iterations of conf/model/tv.yaml are enough near its lambda; ten times that takes smaller steps, and more.
    """
    operator, kspace = problem()
    app = sigpy.mri.app.TotalVariationRecon(
        kspace[0].numpy(), operator.sens_maps[0].numpy(), weight, weights=operator.mask[0, 0].float().numpy(),
        show_pbar=False, max_iter=1000,
    )  # fmt: skip
    theirs = torch.from_numpy(app.run())[None]
    ours = solve(build("tv", reg_weight=weight, isotropic=False, **changes), operator, kspace)

    def objective(image: Tensor) -> float:
        return misfit(operator, image, kspace) + weight * float(gradient(image).abs().sum())

    assert objective(ours) < objective(theirs) * (1 + 1e-3)
    assert objective(ours) < 0.9 * objective(operator.adjoint(kspace))  # which zero-filled does not


class DetailThreshold(sp.prox.Prox):
    """sigpy's soft threshold with PyWavelets' own periodic transform; the approximation is left alone."""

    def __init__(self, shape: tuple[int, int], weight: float, level: int) -> None:
        super().__init__(shape)
        self.weight, self.level = weight, level

    def _prox(self, alpha: float, image: np.ndarray) -> np.ndarray:
        low, *details = pywt.wavedec2(image, "db4", mode="periodization", level=self.level)
        small = [tuple(sp.soft_thresh(alpha * self.weight, d) for d in bands) for bands in details]
        return pywt.waverec2([low, *small], "db4", mode="periodization")


@pytest.mark.parametrize("weight", [0.02, 0.2])
def test_wavelet_reaches_the_minimum_that_sigpys_solver_finds(weight: float) -> None:
    """sigpy's L1WaveletRecon pads with zeros and shrinks the approximation, too; its solver is given our objective."""
    operator, kspace = problem()
    level = 2  # of 32 rows
    linop = sigpy.mri.linop.Sense(operator.sens_maps[0].numpy(), weights=operator.mask[0, 0].float().numpy())
    app = sp.app.LinearLeastSquares(
        linop, kspace[0].numpy(), proxg=DetailThreshold((32, 48), weight, level), alpha=1, max_iter=1000,
        show_pbar=False,
    )  # fmt: skip
    theirs = torch.from_numpy(app.run())[None]
    ours = solve(build("wavelet", reg_weight=weight, cycle_spinning=False), operator, kspace)
    transform = Wavelet("db4", (32, 48), level)

    def objective(image: Tensor) -> float:
        details = transform.analysis(image)
        details[..., : 32 >> level, : 48 >> level] = 0
        return misfit(operator, image, kspace) + weight * float(details.abs().sum())

    assert objective(ours) < objective(theirs) * (1 + 1e-3)  # in the 100 iterations of conf/model/wavelet.yaml
    assert objective(ours) < 0.95 * objective(operator.adjoint(kspace))


def test_cg_sense_is_sigpys_sense_and_solves_the_normal_equations() -> None:
    operator, kspace = problem()
    theirs = sigpy.mri.app.SenseRecon(
        kspace[0].numpy(), operator.sens_maps[0].numpy(), 0.1, weights=operator.mask[0, 0].float().numpy(),
        show_pbar=False, max_iter=20,
    ).run()  # fmt: skip
    ours = solve(build("cg_sense", reg_weight=0.1), operator, kspace)
    # 20 iterations of a problem with condition 11 leave 1e-5; float32 does the rest.
    torch.testing.assert_close(ours[0], torch.from_numpy(theirs), atol=1e-3, rtol=1e-3)
    residual = operator.normal(ours) + 0.1 * ours - operator.adjoint(kspace)
    assert residual.norm() < 1e-4 * operator.adjoint(kspace).norm()


def test_conjugate_gradients_leave_a_solved_image_alone() -> None:
    rhs = torch.cat([complex_normal(1, 4, 4), torch.zeros(1, 4, 4)])
    solved = conjugate_gradient(lambda x: 2 * x, rhs, 50)
    torch.testing.assert_close(solved, rhs / 2)


@pytest.mark.parametrize("size", [(1, 5), (4, 7), (8, 6)])
def test_gradient_adjoint_is_the_adjoint_of_gradient_whose_norm_is_at_most_the_root_of_8(size: tuple[int, int]) -> None:
    x, field = complex_normal(2, *size), complex_normal(2, 2, *size, seed=1)
    assert_adjoint(gradient(x), field, x, gradient_adjoint(field))
    assert gradient(x).norm() <= 8**0.5 * x.norm() * (1 + 1e-6)


@pytest.mark.parametrize(("name", "levels"), [("haar", 3), ("db4", 1), ("db4", 3), ("sym5", 2)])
@pytest.mark.parametrize("size", [(32, 48), (8, 16)])
def test_the_wavelet_transform_is_pywavelets_and_its_inverse_is_its_adjoint(
    name: str, levels: int, size: tuple[int, int]
) -> None:
    transform = Wavelet(name, size, levels)
    x, y = complex_normal(2, *size), complex_normal(2, *size, seed=1)
    coefficients = transform.analysis(x)
    torch.testing.assert_close(transform.synthesis(coefficients), x, atol=1e-5, rtol=1e-5)
    assert_adjoint(coefficients, y, x, transform.synthesis(y))
    if min(size) >> levels >= pywt.Wavelet(name).dec_len:  # PyWavelets warns where the filter is longer than a side
        expected = pywt.coeffs_to_array(
            pywt.wavedec2(x.numpy(), name, "periodization", levels, axes=(-2, -1)), axes=(1, 2)
        )
        torch.testing.assert_close(coefficients, torch.from_numpy(expected[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_coils", [1, 3])
@pytest.mark.parametrize(("kspace_size", "size"), [((48, 47), (33, 40)), ((48, 47), (48, 47)), ((1, 1), (1, 1))])
def test_the_contract(name: str, num_coils: int, kspace_size: tuple[int, int], size: tuple[int, int]) -> None:
    model = build(name, num_iterations=5)
    mask = columns(kspace_size[1], kspace_size[1])
    measurement = sample_for(model, slices(complex_normal(2, num_coils, *kspace_size), mask, size)).measurement
    kspace = measurement.kspace.requires_grad_()
    image = model(measurement).magnitude
    assert (image.shape, image.dtype) == ((2, *size), torch.float32)
    image.square().sum().backward()
    assert kspace.grad is not None
    assert torch.isfinite(torch.view_as_real(kspace.grad)).all()
    assert not list(model.parameters())


def sample(num_coils: int, acceleration: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy phantom k-space, masked and normalised, its masks and its target.  (1 coil 96 48), ..., (1 48 48)"""
    phantom = simulate("AXT2", 48, 48, num_slices=1, num_coils=num_coils, snr=60, generator=volume_generator(7))
    mask, acs_mask = (
        torch.from_numpy(m)[None, None] for m in volume_mask(RandomMaskFunc([0.16], [acceleration]), (96, 48), "a.h5")
    )
    kspace, scale = undersampled(phantom.kspace, mask, (48, 48))
    return kspace, mask, acs_mask, phantom.target / scale


def undersampled(kspace: Tensor, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Masked k-space in units of the zero-filled image, and that unit."""
    _, scale, _ = normalise(zero_filled(kspace, mask, size))
    return masked(kspace, mask, scale), scale


@pytest.mark.parametrize("name", NAMES)
def test_they_beat_zero_filled_on_several_coils(name: str) -> None:
    kspace, mask, acs_mask, target = sample(num_coils=6, acceleration=3)
    baseline = zero_filled(kspace, mask, (48, 48))
    with torch.no_grad():
        pred = predict(build(name), kspace, mask, (48, 48), acs_mask)
    assert float(nmse_of(pred, target)) < 0.7 * float(nmse_of(baseline, target))


def nmse_of(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().sum() / target.square().sum()


@pytest.mark.parametrize("name", NAMES)
def test_a_slice_does_not_depend_on_its_batch_nor_on_its_unit(name: str) -> None:
    kspace, mask, acs_mask, _ = sample(num_coils=3, acceleration=3)
    model = build(name, num_iterations=10)
    batch = torch.cat([kspace, kspace.flip(1).roll(3, -2)])
    together = predict(model, batch, mask, (48, 48), acs_mask)
    alone = predict(model, kspace, mask, (48, 48), acs_mask)
    torch.testing.assert_close(together[:1], alone, atol=1e-3, rtol=1e-3)  # float32, through 10 iterations
    scaled = predict(model, 64 * kspace, mask, (48, 48), acs_mask)
    torch.testing.assert_close(scaled, 64 * alone, atol=1e-3 * 64, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_2d_pattern_of_the_same_columns_gives_the_same_image(name: str) -> None:
    kspace, mask, acs_mask, _ = sample(num_coils=3, acceleration=3)
    kspace = kspace[..., 24:72, :].contiguous()  # no oversampling: nothing that only a mask of columns could crop
    kspace, _ = undersampled(kspace, mask, (48, 48))
    model = build(name, num_iterations=10)
    pattern, acs_pattern = (m.expand(1, 1, 48, 48) for m in (mask, acs_mask))
    images = [predict(model, kspace, m, (48, 48), acs) for m, acs in ((pattern, acs_pattern), (mask, acs_mask))]
    torch.testing.assert_close(images[0], images[1], atol=1e-3, rtol=1e-3)  # longer transforms round otherwise


@pytest.mark.parametrize("name", NAMES)
def test_a_silent_slice_stays_silent(name: str) -> None:
    kspace = torch.zeros(1, 2, 16, 16, dtype=torch.complex64)
    mask = columns(16, 16)
    assert (predict(build(name), kspace, mask, (16, 16)) == 0).all()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tv", {"reg_weight": -1.0}, r"model\.reg_weight=-1"),
        ("tv", {"reg_weight": float("nan")}, r"model\.reg_weight=nan"),
        ("tv", {"step": 2.0}, r"model\.step=2"),
        ("cg_sense", {"num_iterations": 0}, r"model\.num_iterations=0"),
        ("wavelet", {"wavelet": "bior2.2"}, "orthogonal"),
        ("wavelet", {"wavelet": "db400"}, "orthogonal"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **changes)


@pytest.mark.parametrize("name", NAMES)
def test_they_beat_zero_filled_on_the_real_brain_with_seven_coils(name: str, realdata: Path) -> None:
    with h5py.File(realdata / "multicoil" / "brain_t1_7coil.h5") as f:
        kspace, target = torch.from_numpy(f["kspace"][:]), torch.from_numpy(f["reconstruction_rss"][:])
    masks = volume_mask(RandomMaskFunc([0.08], [4]), (256, 216), "brain_t1_7coil.h5")
    mask, acs_mask = (torch.from_numpy(m)[None, None] for m in masks)
    sampled, scale = undersampled(kspace, mask, (256, 216))
    baseline = zero_filled(sampled, mask, (256, 216))
    with torch.no_grad():
        pred = predict(build(name, num_iterations=20), sampled, mask, (256, 216), acs_mask)
    assert float(nmse_of(pred, target / scale)) < 0.8 * float(nmse_of(baseline, target / scale))
