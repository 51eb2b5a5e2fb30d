"""Losses: fastmri's SSIMLoss is the reference, black images must not break training."""

import fastmri.losses
import pytest
import torch
from torch import Tensor, nn

from mrirecon.errors import ConfigError
from mrirecon.physics.sample import Measurement, Prediction, Sample
from mrirecon.training.losses import HeldBackLoss, L1Loss, MSELoss, SSIMLoss, WeightedSum


def every_loss() -> list[nn.Module]:
    mixed = WeightedSum({"l1": L1Loss(), "ssim": SSIMLoss()}, {"l1": 0.16, "ssim": 0.84})
    return [L1Loss(), MSELoss(), SSIMLoss(), mixed]


def batch(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = scale * torch.rand(3, 24, 31, generator=generator)
    pred = target + 0.2 * scale * torch.randn(3, 24, 31, generator=generator)
    return pred.requires_grad_(), target, scale * torch.tensor([1.0, 2.0, 5.0])


def per_slice(loss: nn.Module, pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """The values of a loss on images alone.  -> (b)"""
    b, mask = len(target), torch.ones(1, 1, 1, 1, dtype=torch.bool)
    measurement = Measurement(None, mask, mask, None, target, (target.shape[-2], target.shape[-1]), "kspace")
    ones, numbers = torch.ones(b), torch.zeros(b, dtype=torch.int64)
    sample = Sample(measurement, target, None, None, data_range, ones, ones, numbers, numbers)
    return loss(Prediction(pred), sample)


def value_and_gradient(loss: nn.Module, pred: Tensor, target: Tensor, data_range: Tensor) -> tuple[Tensor, Tensor]:
    value = per_slice(loss, pred, target, data_range).mean()
    return value.detach(), torch.autograd.grad(value, pred)[0]


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_ssim_loss_and_its_gradient_are_fastmris(scale: float) -> None:
    pred, target, data_range = batch(scale)
    value, gradient = value_and_gradient(SSIMLoss(), pred, target, data_range)
    reference = fastmri.losses.SSIMLoss()
    assert value.item() == pytest.approx(reference(pred[:, None], target[:, None], data_range).item(), abs=1e-6)
    # The gradient of fastmri's own float32 is off by 1e-5 of its largest entry, so its float64 is the reference.
    pred64 = pred.detach().double().requires_grad_()
    expected = torch.autograd.grad(
        reference.double()(pred64[:, None], target[:, None].double(), data_range.double()), pred64
    )[0]
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_l1_and_mse_are_means_over_the_pixels_of_each_slice() -> None:
    pred, target, data_range = batch()
    torch.testing.assert_close(per_slice(L1Loss(), pred, target, data_range), (pred - target).abs().mean((1, 2)))
    torch.testing.assert_close(per_slice(MSELoss(), pred, target, data_range), (pred - target).square().mean((1, 2)))


def test_weighted_sum_is_the_sum_of_weight_times_term() -> None:
    arguments = batch()
    loss = WeightedSum({"l1": L1Loss(), "ssim": SSIMLoss()}, {"ssim": 0.84, "l1": 0.16})
    l1, ssim = (per_slice(term, *arguments) for term in (L1Loss(), SSIMLoss()))
    torch.testing.assert_close(per_slice(loss, *arguments), 0.16 * l1 + 0.84 * ssim)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"l2": 1.0}, r"terms has \['l1'\], weights has \['l2'\]"),
        ({"l1": -1.0}, "loss.weights.l1 must be a finite number, 0 or more, but is -1.0"),
        ({"l1": float("nan")}, "but is nan"),
    ],
)
def test_weights_that_cannot_work_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WeightedSum({"l1": L1Loss()}, weights)


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        WeightedSum({}, {})


@pytest.mark.parametrize("loss", every_loss(), ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("data_range", [0.0, 1e-6, 1.0])
def test_black_images_give_finite_values_and_gradients(loss: nn.Module, data_range: float) -> None:
    for pred, target in [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)]:
        image = torch.full((2, 9, 9), pred, requires_grad=True)
        value, gradient = value_and_gradient(loss, image, torch.full((2, 9, 9), target), torch.full((2,), data_range))
        assert value.ndim == 0
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_a_volume_without_signal_costs_nothing_when_pred_is_black_and_draws_pred_to_black() -> None:
    black, no_range = torch.zeros(1, 9, 9), torch.zeros(1)
    assert per_slice(SSIMLoss(), black, black, no_range) == 0
    pred = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value, gradient = value_and_gradient(SSIMLoss(), pred, black, no_range)
    assert per_slice(SSIMLoss(), pred - 0.1 * gradient / gradient.abs().max(), black, no_range) < value


def test_ssim_loss_of_half_precision_is_computed_in_float32() -> None:
    pred, target, data_range = batch()
    half = pred.detach().bfloat16()
    value = per_slice(SSIMLoss(), half, target, data_range)
    assert value.dtype == torch.float32
    assert torch.equal(value, per_slice(SSIMLoss(), half.float(), target, data_range))


@pytest.mark.parametrize("loss", every_loss(), ids=lambda loss: type(loss).__name__)
def test_shapes_that_torch_would_broadcast_are_refused(loss: nn.Module) -> None:
    with pytest.raises(ValueError, match="one shape"):
        per_slice(loss, torch.ones(1, 9, 9), torch.ones(2, 9, 9), torch.ones(2))


@pytest.mark.parametrize("loss", every_loss(), ids=lambda loss: type(loss).__name__)
def test_a_slice_s_value_depends_on_no_other_and_moves_with_image_and_target(loss: nn.Module) -> None:
    pred, target, data_range = batch()
    together = per_slice(loss, pred, target, data_range)
    assert together.shape == (3,)
    for n in range(3):
        alone = per_slice(loss, pred[n : n + 1], target[n : n + 1], data_range[n : n + 1])
        assert torch.equal(alone[0], together[n])
    assert (per_slice(loss, pred, target.roll(1, -1), data_range) != together).all()
    assert torch.autograd.grad(together.sum(), pred)[0].abs().sum((1, 2)).all()


@pytest.mark.parametrize("loss", every_loss(), ids=lambda loss: type(loss).__name__)
def test_a_complex_image_is_compared_by_its_magnitude(loss: nn.Module) -> None:
    pred, target, data_range = batch()
    turned = pred.detach().abs() * torch.exp(torch.tensor(0.7j))
    expected = per_slice(loss, pred.detach().abs(), target, data_range)
    torch.testing.assert_close(per_slice(loss, turned, target, data_range), expected)


def held_back() -> tuple[Tensor, Tensor, Sample]:
    """Predicted k-space, measured k-space, and a sample that holds every third column back."""
    generator = torch.Generator().manual_seed(0)
    predicted, measured = (torch.randn(2, 3, 8, 9, dtype=torch.complex64, generator=generator) for _ in range(2))
    mask = (torch.arange(9) % 3 == 0).expand(2, 1, 1, 9)
    measurement = Measurement(None, ~mask, ~mask, None, torch.zeros(2, 8, 9), (8, 9), "image")
    ones, numbers = torch.ones(2), torch.zeros(2, dtype=torch.int64)
    return predicted, measured, Sample(measurement, None, mask, measured * mask, 0 * ones, ones, ones, numbers, numbers)


def test_the_loss_of_held_back_samples_is_its_formula_and_sees_no_others() -> None:
    predicted, measured, sample = held_back()
    predicted.requires_grad_()
    value = HeldBackLoss()(Prediction(sample.measurement.zero_filled, predicted), sample)
    u, v = (x[..., ::3].flatten(1) for x in (measured, predicted))
    expected = (u - v).norm(dim=1) / u.norm(dim=1) + (u - v).abs().sum(1) / u.abs().sum(1)
    torch.testing.assert_close(value, expected)
    gradient = torch.autograd.grad(value.sum(), predicted)[0]
    assert gradient[..., ::3].abs().min() > 0
    assert not gradient[..., 1::3].any()


def test_a_loss_without_what_it_compares_with_is_refused() -> None:
    predicted, _, sample = held_back()
    with pytest.raises(ConfigError, match="predicts k-space"):
        HeldBackLoss()(Prediction(sample.measurement.zero_filled), sample)
    with pytest.raises(ConfigError, match="splitting"):
        HeldBackLoss()(Prediction(sample.measurement.zero_filled, predicted), sample._replace(held_back=None))
    with pytest.raises(ConfigError, match="compares with a target"):
        L1Loss()(Prediction(sample.measurement.zero_filled), sample)
