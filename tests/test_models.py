"""Models: equal to fastMRI's where they claim to be, and the contract over every config/model."""

import fastmri.models
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from mrirecon.build import instantiate
from mrirecon.command import CONF
from mrirecon.models.unet import NORMS, Unet
from mrirecon.physics.zero_filled import zero_filled

ALL = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SMALL = {"chans": 4, "num_pool_layers": 2}


def build(name: str, **changes: object) -> nn.Module:
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"))
    assert isinstance(config, dict)
    return instantiate("model", {**config, **{key: value for key, value in changes.items() if key in config}})


@pytest.mark.parametrize("size", [(32, 32), (35, 46), (64, 33)])
def test_unet_with_instance_norm_equals_fastmri_with_its_weights(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = fastmri.models.Unet(1, 1, chans=8, num_pool_layers=3).eval()
    ours = Unet(1, 1, chans=8, num_pool_layers=3, norm="instance").eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 1, *size)
    torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("chans", "expected"), [(32, 7_756_097), (64, 31_023_745), (128, 124_093_697)])
def test_unet_has_the_published_number_of_parameters_and_keys(chans: int, expected: int) -> None:
    with torch.device("meta"):
        ours, theirs = Unet(1, 1, chans), fastmri.models.Unet(1, 1, chans)
    assert sum(p.numel() for p in ours.parameters()) == expected
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("norm", NORMS)
def test_every_block_has_the_chosen_norm(norm: str) -> None:
    net = Unet(1, 1, chans=8, num_pool_layers=3, norm=norm)
    kinds = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "group": nn.GroupNorm, "layer": nn.GroupNorm}
    layers = [m for m in net.modules() if isinstance(m, tuple(kinds.values()))]
    assert len(layers) == (0 if norm == "none" else 7 * 2 + 3)  # 4 down and 3 up blocks of two, 3 transposed
    assert all(isinstance(layer, kinds[norm]) for layer in layers)


def test_layer_norm_is_over_channels_and_pixels_and_group_norm_over_32_channels() -> None:
    layer = NORMS["layer"](64, None)(torch.randn(3, 64, 9, 9) * 5 + 2)
    torch.testing.assert_close(layer.mean((1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    group = NORMS["group"](64, None)(torch.randn(3, 64, 9, 9) * 5 + 2).reshape(3, 2, 32, 9, 9)
    torch.testing.assert_close(group.mean((2, 3, 4)), torch.zeros(3, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "grup"}, "choose one of instance"),
        ({"norm": "group", "num_groups": 3}, "does not divide"),
        ({"num_pool_layers": 0}, "num_pool_layers >= 1"),
        ({"drop_prob": 1.5}, "not a probability"),
    ],
)
def test_unet_refuses_settings_that_cannot_work(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Unet(1, 1, **{"chans": 8, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("num_coils", [1, 3])
@pytest.mark.parametrize("size", [(32, 40), (33, 47)])
def test_model_contract(name: str, num_coils: int, size: tuple[int, int]) -> None:
    model = build(name, **SMALL)
    kspace = torch.randn(2, num_coils, 48, 47, dtype=torch.complex64)
    mask = torch.ones(2, 1, 1, 47, dtype=torch.bool)
    start = zero_filled(kspace, mask, size).requires_grad_()
    image = model(kspace if model.needs_kspace else None, mask, mask, start)
    assert image.shape == (2, *size)
    assert image.dtype == torch.float32
    if image.requires_grad:
        image.square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ALL)
def test_the_output_is_in_the_units_of_the_input(name: str) -> None:
    model = build(name, **SMALL).eval()
    kspace = torch.randn(1, 2, 32, 32, dtype=torch.complex64)
    mask = torch.ones(1, 1, 1, 32, dtype=torch.bool)
    start = zero_filled(kspace, mask, (32, 32))
    factor = 1024  # a power of two: rounding is the same, also after a hundred iterations
    scaled = model(factor * kspace, mask, mask, factor * start)
    torch.testing.assert_close(scaled, factor * model(kspace, mask, mask, start))


@pytest.mark.parametrize("norm", NORMS)
def test_an_all_zero_slice_gives_a_finite_image_and_gradients(norm: str) -> None:
    model = build("unet", **SMALL, norm=norm)
    mask = torch.ones(1, 1, 1, 32, dtype=torch.bool)
    image = model(None, mask, mask, torch.zeros(1, 32, 32))
    image.square().sum().backward()
    assert torch.isfinite(image).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("norm", NORMS)
def test_the_smallest_size_a_unet_states_works_and_trains(norm: str) -> None:
    net = Unet(1, 1, chans=4, num_pool_layers=3, norm=norm).train()
    assert torch.isfinite(net(torch.randn(1, 1, net.min_size, net.min_size))).all()


def test_unet_exports_as_one_graph() -> None:
    net = Unet(1, 1, chans=4, num_pool_layers=2).eval()
    program = torch.export.export(net, (torch.randn(1, 1, 33, 46),))
    image = torch.randn(1, 1, 33, 46)
    torch.testing.assert_close(program.module()(image), net(image))
