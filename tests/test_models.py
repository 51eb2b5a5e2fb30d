"""Models: equal to fastMRI's where they claim to be, and the contract over every config/model."""

import fastmri.models
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mrirecon.config.compose import instantiate
from mrirecon.config.options import CONF
from mrirecon.models.unet import NORMS, NormChoice, Unet
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


# What each norm takes mean and variance over: of (slice, channel, row, column), or of channels within a group.
NORMALISED = {"batch": (0, 2, 3), "instance": (2, 3), "layer": (1, 2, 3), "group": (2, 3, 4)}


def normalised(name: str, images: Tensor) -> Tensor:
    """The definition, written out, with groups of 32 channels and the eps of each."""
    grouped = images.unflatten(1, (-1, 32)) if name == "group" else images
    axes = NORMALISED[name]
    mean, var = grouped.mean(axes, keepdim=True), grouped.var(axes, unbiased=False, keepdim=True)
    return ((grouped - mean) / (var + (1e-6 if name == "layer" else 1e-5)).sqrt()).reshape(images.shape)


def varied(num: int = 3) -> Tensor:
    """Images with another mean and spread in each slice, channel and row."""
    torch.manual_seed(0)
    images = torch.randn(num, 64, 6, 5)
    return images * (1 + torch.rand(num, 64, 6, 1)) + torch.randn(num, 1, 6, 1) + torch.randn(1, 64, 1, 5)


@pytest.mark.parametrize("affine", [None, True, False])
@pytest.mark.parametrize("name", NORMALISED)
def test_the_statistics_of_a_norm_are_over_exactly_its_axes(name: str, affine: bool | None) -> None:
    images, layer = varied(), NormChoice(name, None, affine)(64).train()
    torch.testing.assert_close(layer(images), normalised(name, images), atol=1e-5, rtol=1e-5)
    for other in set(NORMALISED) - {name}:
        assert not torch.allclose(layer(images), normalised(other, images), atol=0.01)


@pytest.mark.parametrize(
    ("name", "by_default"), [("instance", False), ("batch", True), ("group", True), ("layer", True)]
)
def test_a_norm_has_weight_and_bias_per_channel_where_asked(name: str, by_default: bool) -> None:
    shapes = [(64,), (64,)]
    for affine, expected in ((None, by_default), (True, True), (False, False)):
        layer = NormChoice(name, None, affine)(64)
        assert [tuple(p.shape) for p in layer.parameters()] == (shapes if expected else [])
    layer = NormChoice(name, None, True)(64)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(64.0))
        layer.bias.copy_(-torch.arange(64.0))
    scale = torch.arange(64.0)[:, None, None]
    torch.testing.assert_close(layer(varied()), normalised(name, varied()) * scale - scale, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(("chans", "groups"), [(4, 1), (32, 1), (48, 1), (64, 2), (256, 8)])
def test_group_norm_has_32_channels_a_group_and_at_least_one_group(chans: int, groups: int) -> None:
    assert NormChoice("group")(chans).num_groups == groups


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", ["instance", "group", "layer", "none"])
def test_an_image_s_answer_depends_on_no_other_image_of_the_batch(name: str, mode: str) -> None:
    torch.manual_seed(0)
    net = getattr(Unet(1, 1, chans=8, num_pool_layers=2, norm=name), mode)()
    images = torch.randn(3, 1, 24, 20) * torch.tensor([1.0, 5.0, 0.1])[:, None, None, None]
    alone = torch.cat([net(image[None]) for image in images])
    # Another batch size can take another convolution kernel: float32 rounding.
    torch.testing.assert_close(net(images), alone, atol=1e-5, rtol=1e-5)


def test_batch_norm_trains_by_the_batch_and_evaluates_by_its_running_statistics() -> None:
    torch.manual_seed(0)
    net = Unet(1, 1, chans=8, num_pool_layers=2, norm="batch").train()
    images = torch.randn(3, 1, 24, 20) * torch.tensor([1.0, 5.0, 0.1])[:, None, None, None]
    layer, seen = net.down_sample_layers[0].layers[1], []
    layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    assert not torch.allclose(net(images)[:1], net(images[:1]), atol=1e-2)
    mean, var = torch.zeros(8), torch.ones(8)
    for batch in seen:  # the momentum of its running statistics is 0.1; their variance is the unbiased one
        mean = 0.9 * mean + 0.1 * batch.mean((0, 2, 3))
        var = 0.9 * var + 0.1 * batch.var((0, 2, 3))
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, var)
    net.eval()
    together, alone = net(images), torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.running_mean, mean)


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_checkpointing_changes_neither_gradients_nor_running_statistics(norm: str) -> None:
    torch.manual_seed(0)
    settings = {"chans": 4, "num_pool_layers": 2, "drop_prob": 0.3, "norm": norm}
    plain = Unet(1, 1, **settings)  # type: ignore[arg-type]
    saving = Unet(1, 1, **settings, gradient_checkpointing=True)  # type: ignore[arg-type]
    saving.load_state_dict(plain.state_dict())
    calls = []
    saving.conv.layers[0].register_forward_hook(lambda *_: calls.append(1))
    image = torch.randn(2, 1, 24, 20)
    for net in (plain, saving):
        torch.manual_seed(1)  # of the dropout
        net.train()(image).square().mean().backward()
    assert len(calls) == 2  # once for the image, once for the gradient
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), name
    saving.eval()(image)
    assert len(calls) == 3


def test_the_default_initialisation_leaves_the_weights_of_a_seed_as_they_were() -> None:
    torch.manual_seed(3)
    weights = Unet(1, 1, chans=4, num_pool_layers=2).state_dict()
    # Sums from before there was a choice.
    sums = {
        "up_conv.1.0.layers.4.weight": 1.0305009548,
        "up_conv.1.1.weight": 0.9519179463,
        "up_conv.1.1.bias": -0.476746857,
    }
    assert {name: float(weights[name].double().sum()) for name in sums} == pytest.approx(sums, rel=1e-6)


@pytest.mark.parametrize("init", ["kaiming", "xavier", "orthogonal"])
def test_initialisations_have_their_variance_and_zero_biases(init: str) -> None:
    torch.manual_seed(0)
    net = Unet(1, 1, chans=32, num_pool_layers=2, norm="none", init=init)
    gain = 2 / (1 + 0.2**2)  # of LeakyReLU(0.2), squared
    conv, up = net.conv.layers[0].weight, net.up_transpose_conv[0].layers[0].weight  # 64 -> 128, 128 -> 64
    fans = {conv: (64 * 9, 128 * 9), up: (128, 64)}  # of one output pixel: each tap of `up` makes a pixel of its own
    for weight, (fan_in, fan_out) in fans.items():
        expected = {"kaiming": gain / fan_in, "xavier": 2 / (fan_in + fan_out)}.get(init)
        if expected is not None:
            assert float(weight.detach().var()) == pytest.approx(expected, rel=0.05)  # of 32,768 and more numbers
    if init == "orthogonal":
        rows, tap = conv.detach().flatten(1), up.detach()[:, :, 1, 0].T
        torch.testing.assert_close(rows @ rows.T, gain * torch.eye(128), atol=1e-4, rtol=0)
        torch.testing.assert_close(tap @ tap.T, gain * torch.eye(64), atol=1e-4, rtol=0)
    assert all(not p.any() for name, p in net.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "grup"}, "choose one of instance"),
        ({"norm": "group", "num_groups": 3}, "does not divide"),
        ({"init": "keiming"}, "choose one of default, kaiming"),
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
