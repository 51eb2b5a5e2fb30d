"""The numerical head phantoms: reproducible, truncated, complex, noisy as stated, and worth reconstructing."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from fastmri.data.subsample import RandomMaskFunc
from skimage.metrics import structural_similarity

from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import fft2c, ifft2c
from mrirecon.synthetic import head as phantom


def draw(acquisition="AXT2", recon_size=64, width=72, *, entropy=(0, 0), num_slices=3, num_coils=4, snr=40.0):
    generator = phantom.volume_generator(*entropy)
    return phantom.simulate(
        acquisition, recon_size, width, num_slices=num_slices, num_coils=num_coils, snr=snr, generator=generator
    )


def draw_coil_images(acquisition="AXT2", recon_size=64, num_slices=3, num_coils=4):
    return phantom.simulate_coil_images(acquisition, recon_size, num_slices, num_coils, phantom.volume_generator(0, 0))


def correlation(one, two):
    return float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1])


@pytest.mark.parametrize("acquisition", phantom.ACQUISITIONS)
@pytest.mark.parametrize(("recon_size", "width"), [(64, 64), (48, 61), (45, 52)])
def test_shapes_and_types(acquisition, recon_size, width):
    kspace, target, noise_std = draw(acquisition, recon_size, width)
    assert kspace.shape == (3, 4, 2 * recon_size, width)
    assert kspace.dtype == torch.complex64
    assert target.shape == (3, recon_size, recon_size)
    assert target.dtype == torch.float32
    assert torch.isfinite(kspace).all()
    assert noise_std > 0


def test_same_seed_and_index_give_the_same_volume():
    one, two = draw(entropy=(3, 1)), draw(entropy=(3, 1))
    assert torch.equal(one.kspace, two.kspace)
    assert torch.equal(one.target, two.target)


@pytest.mark.parametrize("entropy", [(4, 1), (3, 2), (1, 3)])
def test_other_seed_or_index_gives_another_anatomy(entropy):
    assert correlation(draw(entropy=(3, 1)).target, draw(entropy=entropy).target) < 0.95


def test_contrasts_show_the_same_anatomy_in_other_intensities():
    images = {name: draw_coil_images(name).image.abs() for name in phantom.ACQUISITIONS}
    for name, image in images.items():
        assert torch.equal(image > 0, images["AXT2"] > 0), name
    names = list(images)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            inside = images[one] > 0
            assert correlation(images[one][inside], images[two][inside]) < 0.99, (
                one,
                two,
            )  # T1 before and after contrast differ in vessels and lesions only


def test_anatomy_changes_smoothly_through_the_slices():
    images = draw_coil_images(num_slices=12).image.abs()
    neighbours = [correlation(one, two) for one, two in pairwise(images)]
    assert min(neighbours) > 0.6
    assert max(neighbours) < 0.9999
    assert correlation(images[0], images[-1]) < min(neighbours)


def test_target_is_rss_of_the_cropped_images_of_its_own_kspace():
    kspace, target, _ = draw()
    torch.testing.assert_close(rss(center_crop(ifft2c(kspace), (64, 64))), target, rtol=0, atol=0)


def test_target_is_the_anatomy_at_its_place_and_in_its_units():
    coil_images = draw_coil_images(recon_size=64)
    fine = coil_images.image.abs() * rss(coil_images.sens_maps)
    pixels = torch.nn.functional.avg_pool2d(fine, phantom.FINER)
    target = draw(snr=1e6).target
    # Ringing, and pixels centred half a fine sample apart, keep the two from being equal.
    assert correlation(pixels, target) > 0.97
    assert float(target.mean() / pixels.mean()) == pytest.approx(1, abs=0.03)
    assert 0.3 * phantom.UNIT < float(target.max()) < 5 * phantom.UNIT


@pytest.mark.parametrize("width", [72, 73])
def test_kspace_is_centred_for_even_and_odd_widths(width):
    """A head without phase at the centre of the fine grid has a k-space of conjugate symmetry."""
    points = torch.linspace(-1, 1 - 2 / 128, 128)
    disc = ((points**2 + points[:, None] ** 2) < 0.3).to(torch.complex64)
    kspace = phantom.acquire(phantom.CoilImages(disc[None], torch.ones(1, 1, 128, 128) + 0j), (128, width))
    mirrored = kspace[..., 1:, 1 - width % 2 :].flip(-2, -1).conj()
    torch.testing.assert_close(kspace[..., 1:, 1 - width % 2 :], mirrored, rtol=0, atol=1e-4)


def test_truncation_is_real():
    """The anatomy has detail beyond the acquired k-space, which the acquisition cuts off."""
    coil_images = draw_coil_images()
    images = coil_images.image[:, None] * coil_images.sens_maps
    whole = fft2c(images).abs().square().sum()
    inside = center_crop(fft2c(images), (64, 64)).abs().square().sum()
    assert 0.003 < float(1 - inside / whole) < 0.2


def test_edges_ring():
    """Outside the head, near it, the noise-free image is not zero: Gibbs."""
    coil_images = draw_coil_images()
    image = rss(center_crop(ifft2c(phantom.acquire(coil_images, (128, 72))), (64, 64)))
    head = torch.nn.functional.max_pool2d((coil_images.image.abs() > 0).float(), 6, 2, 2)
    outside = head == 0
    assert float(image[outside].max() / image.max()) > 0.003


@pytest.mark.parametrize("snr", [10.0, 50.0])
def test_noise_in_the_background_is_as_stated(snr):
    kspace, _, noise_std = draw(recon_size=96, width=96, snr=snr, num_slices=4)
    background = ifft2c(kspace)[..., :30, :]  # the oversampled part of the readout: no head, and little ringing
    signal = float(phantom.mean_signal(draw_coil_images(recon_size=96, num_slices=4)))
    assert noise_std == pytest.approx(signal / snr, rel=1e-5)
    # 46,000 samples: the standard error is 0.3 per cent; ringing adds a little to the weaker noise.
    for part in (background.real, background.imag):
        assert float(part.std()) == pytest.approx(noise_std, rel=0.03)


def test_noise_differs_between_coils_slices_and_parts():
    kspace, *_ = draw(snr=1.0)
    edge = kspace[..., :8, :]  # far from the centre of k-space, where noise is all there is
    rows = torch.cat([edge.real.flatten(2), edge.imag.flatten(2)]).flatten(0, 1)
    off_diagonal = torch.corrcoef(rows) - torch.eye(len(rows))
    assert float(off_diagonal.abs().max()) < 0.25


def test_image_phase_is_smooth_and_not_zero():
    image = draw_coil_images().image
    inside = image.abs() > 0
    unit = torch.sgn(image)
    assert float(unit[inside].mean().abs()) < 0.98
    steps = (unit[..., 1:] * unit[..., :-1].conj()).angle()[inside[..., 1:] & inside[..., :-1]]
    assert float(steps.abs().max()) < 0.3


def test_coils_are_smooth_complex_and_see_the_head_from_different_sides():
    maps = draw_coil_images().sens_maps
    assert float(rss(maps).mean()) == pytest.approx(1, abs=0.1)
    assert float(rss(maps).min()) > 0.1
    centres = {tuple(np.unravel_index(int(m.abs().argmax()), m.shape)) for m in maps[0]}
    assert len(centres) == 4
    step = (maps[..., 1:] - maps[..., :-1]).abs().amax() / maps.abs().amax()
    assert float(step) < 0.1
    assert float(maps.angle().std()) > 0.3


@pytest.mark.parametrize("num_coils", [1, 4, 8])
def test_emulated_single_coil_is_a_fixed_combination_near_the_target(num_coils):
    kspace, target, _ = draw(num_coils=num_coils)
    single = phantom.emulate_single_coil(kspace, target)
    assert single.shape == (3, 128, 72)
    coils = kspace.movedim(1, -1).flatten(0, -2)
    weights = torch.linalg.lstsq(coils, single.flatten()[:, None]).solution
    assert float((coils @ weights - single.flatten()[:, None]).abs().max()) < 1e-3 * float(single.abs().max())
    image = center_crop(ifft2c(single), (64, 64)).abs()
    nmse = float((image - target).square().sum() / target.square().sum())
    assert nmse < 0.05


def test_zero_filling_leaves_something_to_win():
    """At 4x with 8 per cent of the centre: clearly damaged, and clearly still a head."""
    for i, acquisition in enumerate(phantom.ACQUISITIONS):
        kspace, target, _ = draw(acquisition, 128, 128, entropy=(0, 0, i))
        mask = RandomMaskFunc([0.08], [4])((1, 128, 2), seed=(i,))[0].reshape(128)
        zero_filled = rss(center_crop(ifft2c(kspace * mask), (128, 128)))
        pairs = zip(target.numpy(), zero_filled.numpy(), strict=True)
        score = np.mean([structural_similarity(t, z, data_range=float(target.max())) for t, z in pairs])
        assert 0.5 < score < 0.85, (acquisition, score)
