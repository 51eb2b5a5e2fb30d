"""The linear operators: adjoint, unitary, and equal to fastMRI's."""

import fastmri
import pytest
import torch
from fastmri.data import transforms
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mrirecon.physics.coils import rss, sens_expand, sens_reduce
from mrirecon.physics.crop import center_crop, cropped_size
from mrirecon.physics.fft import fft2c, ifft1c, ifft2c
from mrirecon.physics.zero_filled import to_hybrid, zero_filled, zero_filled_hybrid

SIZES = [(8, 8), (7, 8), (8, 7), (9, 5), (640, 368)]


def complex_normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def assert_adjoint(forward: Tensor, y: Tensor, x: Tensor, backward: Tensor) -> None:
    """<A x, y> = <x, A* y>"""
    left, right = torch.vdot(y.flatten(), forward.flatten()), torch.vdot(backward.flatten(), x.flatten())
    assert abs(left - right) < 1e-4 * forward.norm() * y.norm()  # float32 sums


@pytest.mark.parametrize("size", SIZES)
def test_ifft2c_is_adjoint_and_inverse_of_fft2c(size: tuple[int, int]) -> None:
    x, y = complex_normal(2, *size), complex_normal(2, *size, seed=1)
    assert_adjoint(fft2c(x), y, x, ifft2c(y))
    torch.testing.assert_close(ifft2c(fft2c(x)), x)


@pytest.mark.parametrize("size", SIZES)
def test_fft_equals_fastmri(size: tuple[int, int]) -> None:
    x = complex_normal(2, *size)
    torch.testing.assert_close(torch.view_as_real(fft2c(x)), fastmri.fft2c(torch.view_as_real(x)))
    torch.testing.assert_close(torch.view_as_real(ifft2c(x)), fastmri.ifft2c(torch.view_as_real(x)))


@pytest.mark.parametrize("size", SIZES)
def test_ifft1c_along_both_axes_is_ifft2c(size: tuple[int, int]) -> None:
    x = complex_normal(2, *size)
    torch.testing.assert_close(ifft1c(ifft1c(x, dim=-2), dim=-1), ifft2c(x))


@pytest.mark.parametrize("size", SIZES[:4])
def test_sens_reduce_is_adjoint_of_sens_expand(size: tuple[int, int]) -> None:
    maps = complex_normal(2, 3, *size, seed=2)
    x, y = complex_normal(2, *size), complex_normal(2, 3, *size, seed=1)
    assert_adjoint(sens_expand(x, maps), y, x, sens_reduce(y, maps))


def test_rss_is_the_root_of_summed_squares_and_its_gradient_at_zero_is_zero() -> None:
    x = complex_normal(2, 3, 5, 4)
    torch.testing.assert_close(rss(x), (x.abs() ** 2).sum(1).sqrt())
    zeros = torch.zeros(1, 3, 4, 4, dtype=torch.complex64, requires_grad=True)
    rss(zeros).sum().backward()
    assert zeros.grad is not None
    assert torch.equal(zeros.grad, torch.zeros_like(zeros))


@given(h=st.integers(1, 40), w=st.integers(1, 40), data=st.data())
def test_center_crop_equals_fastmri(h: int, w: int, data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, h), st.integers(1, w)))
    image = torch.arange(h * w).reshape(1, h, w)
    assert torch.equal(center_crop(image, size), transforms.center_crop(image, size))


@pytest.mark.parametrize("size", [(9, 4), (4, 9), (0, 4)])
def test_center_crop_refuses_what_does_not_fit(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot crop an image of 8x8"):
        center_crop(torch.zeros(1, 8, 8), size)


@pytest.mark.parametrize(
    ("image", "target", "expected"),
    [((640, 368), (320, 320), (320, 320)), ((640, 203), (320, 320), (203, 203)), ((100, 90), (120, 90), (100, 90))],
)
def test_narrow_scans_are_cropped_to_a_square(
    image: tuple[int, int], target: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert cropped_size(image, target) == expected


@pytest.mark.parametrize("num_rows", [1, 0])
@pytest.mark.parametrize("size", [(64, 40), (63, 41), (32, 31)])
def test_zero_filled_is_fastmri_s_order_of_operations(size: tuple[int, int], num_rows: int) -> None:
    kspace = complex_normal(2, 4, *size)
    mask = torch.rand(2, 1, num_rows or size[0], size[1]) < 0.4
    masked = torch.view_as_real(kspace * mask)
    image = fastmri.complex_abs(transforms.complex_center_crop(fastmri.ifft2c(masked), (32, 31)))
    expected = fastmri.rss(image, dim=1)
    torch.testing.assert_close(zero_filled(kspace, mask, (32, 31)), expected)
    if num_rows == 1:
        hybrid = to_hybrid(kspace, 32)
        torch.testing.assert_close(zero_filled_hybrid(hybrid, mask, 31), expected)
