"""Scores of a batch of slices: scikit-image and fastmri are the references."""

import fastmri.evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_laplace
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mrirecon.apps.benchmarks.score_reference import KINDS, largest_differences
from mrirecon.errors import InputError
from mrirecon.metrics import cpu_sums, hfen, ms_ssim
from mrirecon.metrics import functional as M


def images(b: int, y: int, x: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth non-negative target and a noisy version of it, float32.  -> (b y x), (b y x)"""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:y, 0:x] / 12
    phase = rng.uniform(0, 6, (2, b, 1, 1))
    target = np.abs(np.sin(rows + phase[0]) * np.cos(columns + phase[1])) + 0.01 * rng.random((b, y, x))
    pred = target + 0.1 * rng.standard_normal((b, y, x))
    return torch.from_numpy(scale * pred).float(), torch.from_numpy(scale * target).float()


def reference(pred: Tensor, target: Tensor, data_range: Tensor) -> np.ndarray:
    triples = zip(pred.numpy(), target.numpy(), data_range.numpy(), strict=True)
    return np.array([structural_similarity(t, p, data_range=r) for p, t, r in triples])


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("size", [(7, 7), (7, 31), (33, 8), (320, 320), (640, 372)])
def test_ssim_is_scikit_images(size: tuple[int, int], scale: float) -> None:
    pred, target = images(2, *size, scale)
    data_range = target.amax((1, 2))
    found = M.ssim(pred, target, data_range)
    assert found.shape == (2,)
    assert found.dtype == torch.float64
    # Both in float64: only the order of additions differs.
    np.testing.assert_allclose(
        found, reference(pred.double(), target.double(), data_range.double()), rtol=0, atol=1e-12
    )
    # scikit-image keeps float32 images in float32; the single window of a 7x7 image averages no rounding error away.
    atol = 5e-6 if size == (7, 7) else 1e-6
    np.testing.assert_allclose(found, reference(pred, target, data_range), rtol=0, atol=atol)


@given(st.integers(7, 40), st.integers(7, 40), st.floats(-8, 4), st.floats(0, 100), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_ssim_is_scikit_images_for_any_size_scale_and_offset(
    y: int, x: int, exponent: float, offset: float, seed: int
) -> None:
    pred, target = images(1, y, x, seed=seed)
    pred, target = ((image + offset) * 10**exponent for image in (pred, target))
    data_range = target.amax((1, 2))
    expected = reference(pred.double(), target.double(), data_range.double())
    # An offset of a hundred leaves a variance of 1e-4 of the squares, so four digits of float64 fewer.
    np.testing.assert_allclose(M.ssim(pred, target, data_range), expected, rtol=0, atol=1e-9)


def test_ssim_of_a_volume_is_fastmris() -> None:
    pred, target = images(5, 40, 50)
    data_range = target.max().expand(5)
    # fastmri hands float32 images to scikit-image, which then keeps float32.
    assert M.ssim(pred, target, data_range).mean().item() == pytest.approx(
        fastmri.evaluate.ssim(target.numpy(), pred.numpy()).item(), abs=1e-6
    )


def test_psnr_and_nmse_of_a_volume_are_fastmris() -> None:
    pred, target = images(5, 40, 50, scale=1e-5)
    error = M.squared_error(pred, target).sum().item()
    p, t = pred.double().numpy(), target.double().numpy()
    assert M.nmse(error, M.squared_norm(target).sum().item()) == pytest.approx(fastmri.evaluate.nmse(t, p), rel=1e-12)
    assert M.psnr(error, target.numel(), t.max()) == pytest.approx(fastmri.evaluate.psnr(t, p), abs=1e-10)


def test_ssim_of_equal_images_is_one_and_does_not_depend_on_the_unit() -> None:
    pred, target = images(3, 21, 30)
    data_range = target.amax((1, 2))
    assert torch.equal(M.ssim(target, target, data_range), torch.ones(3, dtype=torch.float64))
    # A power of two moves no mantissa bit, so the scores must not move at all.
    assert torch.equal(M.ssim(pred, target, data_range), M.ssim(pred / 1024, target / 1024, data_range / 1024))


@pytest.mark.parametrize("size", [(7, 7), (19, 23), (64, 65)])
def test_a_slice_gets_the_same_bits_alone_and_in_any_batch(size: tuple[int, int]) -> None:
    pred, target = images(5, *size)
    data_range = target.amax((1, 2))
    for one in (slice(0, 1), slice(1, 4), slice(4, 5)):
        assert torch.equal(M.ssim(pred[one], target[one], data_range[one]), M.ssim(pred, target, data_range)[one])
        assert torch.equal(M.squared_error(pred[one], target[one]), M.squared_error(pred, target)[one])
        assert torch.equal(M.squared_norm(target[one]), M.squared_norm(target)[one])
    whole = M.ssim_map(pred.double(), target.double(), data_range.double())  # as a GPU gets it: all slices at once
    for i in range(5):
        alone = M.ssim_map(*(v[i : i + 1].double() for v in (pred, target, data_range)))
        assert torch.equal(alone[0], whole[i])
        assert torch.equal(M._sum_pixels(alone.clone())[0], M._sum_pixels(whole.clone())[i])


def test_scores_are_the_references_over_realistic_and_difficult_volumes() -> None:
    worst = largest_differences(8 * len(KINDS))
    # All in float64. A pixel a thousand times the range costs both sides six digits of the variances beside it.
    assert worst.ssim < 1e-8
    assert worst.psnr < 1e-10
    assert worst.nmse < 1e-12


@pytest.mark.parametrize("size", [(7, 7), (30, 31), (203, 320)])
def test_no_bit_depends_on_the_number_of_threads(size: tuple[int, int]) -> None:
    pred, target = images(3, *size)
    before = torch.get_num_threads()
    found = []
    try:
        for num_threads in (1, 2, 5):
            torch.set_num_threads(num_threads)
            found.append(torch.stack([M.ssim(pred, target, torch.ones(3)), M.squared_error(pred, target)]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_the_strips_of_a_cpu_and_the_whole_batch_of_a_gpu_agree() -> None:
    pred, target = images(2, 150, 320)
    data_range = target.amax((1, 2))
    assert len(cpu_sums.share_rows(150, 320, overlap=6)) > 1
    whole = M.ssim_map(pred.double(), target.double(), data_range.double()).mean((1, 2))
    torch.testing.assert_close(M.ssim(pred, target, data_range), whole, rtol=0, atol=1e-13)


@given(st.integers(1, 700), st.integers(1, 6000), st.integers(0, 14))
def test_every_row_is_in_one_share(num_rows: int, width: int, overlap: int) -> None:
    num_rows += overlap
    shares = cpu_sums.share_rows(num_rows, width, overlap)
    starts = [row for rows in shares for row in range(rows.start, rows.stop - overlap)]
    assert starts == list(range(num_rows - overlap))
    # Under torch's grain, unless a single row with its overlap is not.
    assert all((rows.stop - rows.start) * width < 2**15 or rows.stop - rows.start == 1 + overlap for rows in shares)


@pytest.mark.parametrize("size", [(3, 5), (40, 33), (320, 320)])
def test_edges_are_scipys_laplacian_of_gaussian(size: tuple[int, int]) -> None:
    pred, target = (image.double() for image in images(2, *size))
    # 14/3 of sigma 1.5 are 7 pixels to each side.
    wanted = [np.array([gaussian_laplace(s, 1.5, truncate=14 / 3) for s in image.numpy()]) for image in (pred, target)]
    found = [hfen.laplacian_of_gaussian(hfen.mirror(image, hfen.RADIUS)) for image in (pred, target)]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)
    error, norm = hfen.edge_error(pred, target), hfen.edge_norm(target)
    np.testing.assert_allclose(error, np.square(wanted[0] - wanted[1]).sum((1, 2)), rtol=1e-11)
    np.testing.assert_allclose(norm, np.square(wanted[1]).sum((1, 2)), rtol=1e-11)
    expected = np.linalg.norm(wanted[0] - wanted[1]) / np.linalg.norm(wanted[1])
    assert hfen.hfen(error.sum().item(), norm.sum().item()) == pytest.approx(expected, rel=1e-11)


def test_absolute_error_is_the_plain_sum() -> None:
    pred, target = images(2, 9, 10)
    expected = (pred.double() - target.double()).abs().sum((1, 2))
    torch.testing.assert_close(M.absolute_error(pred, target), expected, rtol=1e-14, atol=0)


def test_ms_ssim_is_torchmetrics_for_any_unit_and_one_for_equal_images() -> None:
    pred, target = images(3, 176, 180, scale=1e-5)
    data_range = target.amax((1, 2))
    found = ms_ssim.ms_ssim(pred, target, data_range)
    for i in range(3):
        single = multiscale_structural_similarity_index_measure(
            pred[i].double()[None, None], target[i].double()[None, None], data_range=data_range[i].item()
        )
        # torchmetrics rounds the five exponents to float32.
        assert found[i].item() == pytest.approx(single.item(), abs=1e-8)
        assert torch.equal(ms_ssim.ms_ssim(pred[i][None], target[i][None], data_range[i][None])[0], found[i])
    assert ms_ssim.ms_ssim(target, target, data_range).tolist() == pytest.approx([1, 1, 1], abs=1e-12)
    assert (found < 0.99).all()


@pytest.mark.parametrize("size", [(175, 320), (320, 175)])
def test_ms_ssim_is_nan_where_five_scales_do_not_fit_or_the_range_is_not_positive(size: tuple[int, int]) -> None:
    pred, target = images(1, *size)
    assert ms_ssim.ms_ssim(pred, target, torch.ones(1)).isnan().all()
    pred, target = images(2, 176, 176)
    assert ms_ssim.ms_ssim(pred, target, torch.tensor([0.0, 1.0])).isnan().tolist() == [True, False]


def test_sums_leave_their_arguments_alone_and_are_the_plain_sums() -> None:
    pred, target = images(2, 9, 10)
    pred, target = pred.double(), target.double()
    before = pred.clone(), target.clone()
    torch.testing.assert_close(M.squared_error(pred, target), ((pred - target) ** 2).sum((1, 2)), rtol=1e-14, atol=0)
    torch.testing.assert_close(M.squared_norm(target), (target**2).sum((1, 2)), rtol=1e-14, atol=0)
    M.ssim(pred, target, torch.ones(2))
    assert torch.equal(pred, before[0])
    assert torch.equal(target, before[1])


def test_ssim_is_nan_where_the_data_range_is_not_positive() -> None:
    pred, target = images(4, 9, 9)
    found = M.ssim(pred, target, torch.tensor([1.0, 0.0, -1.0, torch.nan]))
    assert found.isnan().tolist() == [False, True, True, True]
    assert M.ssim(0 * pred, 0 * target, torch.zeros(4)).isnan().all()


def test_psnr_of_equal_volumes_is_infinite() -> None:
    assert M.psnr(0.0, 10, 1.0) == float("inf")


def test_gradient_of_the_map_is_right() -> None:
    pred, target = (image.double() for image in images(1, 9, 8))
    assert torch.autograd.gradcheck(lambda p: M.ssim_map(p, target, torch.ones(1).double()), pred.requires_grad_())


@pytest.mark.parametrize("size", [(6, 320), (320, 6), (1, 1)])
def test_an_image_below_the_window_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"at least 7x7 pixels, but these are {size[0]}x{size[1]}"):
        M.ssim(torch.ones(1, *size), torch.ones(1, *size), torch.ones(1))


def test_shapes_that_torch_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pred is \(1, 9, 9\) and target is \(2, 9, 9\)"):
        M.squared_error(torch.ones(1, 9, 9), torch.ones(2, 9, 9))
    with pytest.raises(ValueError, match="one shape"):
        M.ssim(torch.ones(2, 1, 9, 9), torch.ones(2, 1, 9, 9), torch.ones(2))
    with pytest.raises(ValueError, match=r"one number per slice, \(2,\), but is \(1,\)"):
        M.ssim_map(torch.ones(2, 9, 9), torch.ones(2, 9, 9), torch.ones(1))
