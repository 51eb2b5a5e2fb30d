"""Losses: fastmri's SSIMLoss is the reference, black images must not break training."""

import fastmri.losses
import pytest
import torch
from torch import Tensor, nn

from mrirecon.errors import ConfigError
from mrirecon.training.losses import L1Loss, MSELoss, SSIMLoss, WeightedSum


def every_loss() -> list[nn.Module]:
    mixed = WeightedSum({"l1": L1Loss(), "ssim": SSIMLoss()}, {"l1": 0.16, "ssim": 0.84})
    return [L1Loss(), MSELoss(), SSIMLoss(), mixed]


def batch(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = scale * torch.rand(3, 24, 31, generator=generator)
    pred = target + 0.2 * scale * torch.randn(3, 24, 31, generator=generator)
    return pred.requires_grad_(), target, scale * torch.tensor([1.0, 2.0, 5.0])


def value_and_gradient(loss: nn.Module, pred: Tensor, target: Tensor, data_range: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(pred, target, data_range)
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


def test_l1_and_mse_are_means_over_all_pixels() -> None:
    pred, target, data_range = batch()
    torch.testing.assert_close(L1Loss()(pred, target, data_range), (pred - target).abs().mean())
    torch.testing.assert_close(MSELoss()(pred, target, data_range), (pred - target).square().mean())


def test_weighted_sum_is_the_sum_of_weight_times_term() -> None:
    arguments = batch()
    loss = WeightedSum({"l1": L1Loss(), "ssim": SSIMLoss()}, {"ssim": 0.84, "l1": 0.16})
    torch.testing.assert_close(loss(*arguments), 0.16 * L1Loss()(*arguments) + 0.84 * SSIMLoss()(*arguments))


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
    assert SSIMLoss()(black, black, no_range) == 0
    pred = torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value, gradient = value_and_gradient(SSIMLoss(), pred, black, no_range)
    assert SSIMLoss()(pred - 0.1 * gradient / gradient.abs().max(), black, no_range) < value


def test_ssim_loss_of_half_precision_is_computed_in_float32() -> None:
    pred, target, data_range = batch()
    half = pred.detach().bfloat16()
    assert SSIMLoss()(half, target, data_range).dtype == torch.float32
    assert torch.equal(SSIMLoss()(half, target, data_range), SSIMLoss()(half.float(), target, data_range))


@pytest.mark.parametrize("loss", every_loss(), ids=lambda loss: type(loss).__name__)
def test_shapes_that_torch_would_broadcast_are_refused(loss: nn.Module) -> None:
    with pytest.raises(ValueError, match="one shape"):
        loss(torch.ones(1, 9, 9), torch.ones(2, 9, 9), torch.ones(2))
