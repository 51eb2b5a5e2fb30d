"""Sensitivities and the encoding operator: sigpy's maps, eigenvectors of eigenvalue 1, an adjoint, a fast normal."""

import numpy as np
import pytest
import sigpy.mri
import torch
from test_physics import assert_adjoint, complex_normal
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.physics.coils import rss, sens_expand, sens_reduce
from mrirecon.physics.espirit import calibration_box, espirit, image_operator, signal_projector
from mrirecon.physics.fft import fft2c, ifft2c
from mrirecon.physics.sense import SenseOperator, crop_readout
from mrirecon.synthetic.head import acquire, simulate_coil_images, volume_generator

SIZE = (64, 60)


@pytest.fixture(scope="module")
def kspace() -> Tensor:
    """One slice of a head, 5 coils, no noise, standard deviation about 1.  -> (1 coil h w)"""
    images = simulate_coil_images("AXT1", 64, 1, 5, volume_generator(1))
    kspace = acquire(images, (128, 60))
    return crop_readout(kspace / kspace.abs().std(), columns(60, 60), 64)


def columns(w: int, num_low: int) -> Tensor:
    """The middle columns.  -> bool (1 1 1 w)"""
    mask = torch.zeros(1, 1, 1, w, dtype=torch.bool)
    mask[..., w // 2 - num_low // 2 : w // 2 - num_low // 2 + num_low] = True
    return mask


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """|<a, b>| of the coil vectors at every pixel: 1 where they are the same but for a phase."""
    return sens_reduce(one, other).abs()


def test_the_maps_are_sigpys_inside_the_object(kspace: Tensor) -> None:
    ours = espirit(kspace, columns(60, 24), num_iterations=100)[0]
    theirs = sigpy.mri.app.EspiritCalib(kspace[0].numpy(), crop=0, show_pbar=False).run()
    image = rss(ifft2c(kspace))[0]
    inside = image > 0.1 * image.max()
    # The same matrices; what differs is float32 and the start of the power method, which has converged in the object.
    assert overlap(ours, torch.from_numpy(np.ascontiguousarray(theirs)))[inside].min() > 0.9999


@pytest.mark.parametrize("num_low", [4, 9, 24])
def test_few_columns_give_maps_that_explain_the_coil_images(kspace: Tensor, num_low: int) -> None:
    maps = espirit(kspace, columns(60, num_low))
    images = ifft2c(kspace)
    unexplained = images - sens_expand(sens_reduce(images, maps), maps)
    # A tenth of the signal is far below what one map for all pixels leaves (0.6 of it, below).
    assert unexplained.norm() < 0.1 * images.norm()
    constant = torch.ones_like(maps) / 5**0.5
    assert (images - sens_expand(sens_reduce(images, constant), constant)).norm() > 0.5 * images.norm()


def test_the_maps_have_norm_one_and_make_the_centre_real_and_positive(kspace: Tensor) -> None:
    maps = espirit(kspace, columns(60, 24))
    torch.testing.assert_close(rss(maps), torch.ones(1, *SIZE))
    box = torch.zeros(SIZE)
    box[32 - 12 : 32 + 12, 30 - 12 : 30 + 12] = 1
    centre = sens_reduce(ifft2c(kspace * box), maps)
    assert (centre.imag.abs() <= 1e-4 * centre.abs().max()).all()  # float32
    assert (centre.real > -1e-4 * centre.abs().max()).all()


def test_maps_do_not_depend_on_the_batch_nor_on_the_unit(kspace: Tensor) -> None:
    other = kspace.flip(1) * 3
    masks = torch.cat([columns(60, 24), columns(60, 8)])
    both = espirit(torch.cat([kspace, other]), masks)
    torch.testing.assert_close(both[:1], espirit(kspace, masks[:1]))
    # Rounding moves the eigenvectors of pixels without signal, so only the rest is compared.
    overlaps = overlap(espirit(kspace * 1e-6, masks[:1]), both[:1])
    image = rss(ifft2c(kspace))
    assert overlaps[image > 0.1 * image.max()].min() > 0.999


def test_a_square_of_a_2d_pattern_calibrates(kspace: Tensor) -> None:
    square = torch.zeros(1, 1, *SIZE, dtype=torch.bool)
    square[..., 20:44, 18:42] = True
    torch.testing.assert_close(espirit(kspace, square), espirit(kspace, columns(60, 24)))


def test_the_image_operator_is_the_projection_of_every_patch_of_kspace(kspace: Tensor) -> None:
    """Against the definition: project each patch of a periodic k-space, put it back, divide by its size."""
    projector = signal_projector(kspace[0, :, 20:44, 18:42], torch.ones(24, 24, dtype=torch.bool), (3, 2), 0.02)
    k = complex_normal(5, 7, 6)
    slow = torch.zeros_like(k)
    for i in range(7):
        for j in range(6):
            rows, cols = (torch.arange(3) + i) % 7, (torch.arange(2) + j) % 6
            patch = k[:, rows][:, :, cols]
            slow[:, rows[:, None], cols] += torch.einsum("cmndpq,dpq->cmn", projector, patch) / 6
    fast = torch.einsum("hwcd,dhw->chw", image_operator(projector, (7, 6)), ifft2c(k))
    torch.testing.assert_close(fft2c(fast), slow, atol=1e-4, rtol=1e-4)  # float32 sums


def test_one_coil_gets_a_phase_only_and_silence_gets_no_nan(kspace: Tensor) -> None:
    torch.testing.assert_close(espirit(kspace[:, :1], columns(60, 8)).abs(), torch.ones(1, 1, *SIZE))
    assert torch.isfinite(torch.view_as_real(espirit(torch.zeros_like(kspace), columns(60, 8)))).all()


def test_a_kspace_without_a_centre_is_refused() -> None:
    acs_mask = torch.ones(8, 8, dtype=torch.bool)
    acs_mask[4, 4] = False
    with pytest.raises(InputError, match="centre of k-space was not fully sampled"):
        calibration_box(acs_mask, 24)


@pytest.mark.parametrize(
    ("size", "num_low", "expected"),
    [((8, 8), 3, (slice(0, 8), slice(3, 6))), ((40, 41), 41, (slice(8, 32), slice(8, 32)))],
)
def test_the_calibration_box(size: tuple[int, int], num_low: int, expected: tuple[slice, slice]) -> None:
    assert calibration_box(columns(size[1], num_low)[0, 0].expand(*size), 24) == expected


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (9, 5)])
@pytest.mark.parametrize("rows", [False, True], ids=["columns", "2d"])
def test_sense_has_an_adjoint_and_a_fast_normal(size: tuple[int, int], rows: bool) -> None:
    mask = torch.rand(2, 1, size[0] if rows else 1, size[1], generator=torch.Generator().manual_seed(0)) > 0.5
    operator = SenseOperator(mask, complex_normal(2, 3, *size, seed=2))
    x, y = complex_normal(2, *size), complex_normal(2, 3, *size, seed=1)
    assert_adjoint(operator.forward(x), y, x, operator.adjoint(y))
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator.forward(x)))


@pytest.mark.parametrize("rows", [5, 6, 8])
def test_cropping_the_readout_keeps_the_columns_that_were_not_sampled_empty(rows: int) -> None:
    mask = columns(7, 3)
    kspace = complex_normal(1, 2, 8, 7) * mask
    cropped = crop_readout(kspace, mask, rows)
    top = (8 - rows) // 2
    torch.testing.assert_close(ifft2c(cropped), ifft2c(kspace)[..., top : top + rows, :])
    assert (cropped * ~mask).abs().max() < 1e-6
    pattern = mask.expand(1, 1, 8, 7)
    assert crop_readout(kspace, pattern, rows) is kspace
