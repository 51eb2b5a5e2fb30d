"""Models: equal to fastMRI's where they claim to be, and the contract over every config/model."""

import fastmri.models
import pytest
import torch
from model_contract import check_contract
from omegaconf import OmegaConf
from torch import Tensor, nn

from mrirecon.config.compose import instantiate
from mrirecon.config.options import CONF
from mrirecon.errors import ConfigError
from mrirecon.models.base import ReconModel, check_model
from mrirecon.models.unet import NORMS, NormChoice, Unet
from mrirecon.physics.crop import center_crop
from mrirecon.physics.sample import Measurement, Prediction
from mrirecon.physics.sense import SenseOperator

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
def test_every_model_keeps_the_contract(name: str) -> None:
    check_contract(build(name, **SMALL, num_iterations=10))


class Image(ReconModel):
    """Two weights on the zero-filled image: a model that keeps the contract, for others to break."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.other = nn.Parameter(torch.tensor(2.0))

    def forward(self, measurement: Measurement) -> Prediction:
        return Prediction(measurement.zero_filled * self.weight * self.other)


class Combined(ReconModel):
    """The sensitivity-combined image of the masked k-space: another one."""

    needs = ("kspace", "sens_maps")

    def forward(self, measurement: Measurement) -> Prediction:
        operator = SenseOperator(measurement.mask, measurement.sens_maps, measurement.readout)
        return Prediction(center_crop(operator.adjoint(measurement.kspace), measurement.size))


class IgnoresKspace(Combined):
    def forward(self, measurement: Measurement) -> Prediction:
        maps = measurement.sens_maps.abs().sum(1) * measurement.mask.float().mean()
        return Prediction(measurement.zero_filled * center_crop(maps, measurement.size))


class IgnoresMask(Combined):
    def forward(self, measurement: Measurement) -> Prediction:
        return super().forward(measurement._replace(mask=torch.ones_like(measurement.mask)))


class IgnoresSensitivities(Combined):
    def forward(self, measurement: Measurement) -> Prediction:
        return super().forward(measurement._replace(sens_maps=torch.ones_like(measurement.sens_maps)))


class IgnoresTheImage(Image):
    def forward(self, measurement: Measurement) -> Prediction:
        return Prediction(torch.ones_like(measurement.zero_filled) * self.weight * self.other)


class IgnoresItsWeights(Image):
    def forward(self, measurement: Measurement) -> Prediction:
        return Prediction(measurement.zero_filled)


class HasADeadWeight(Image):
    def forward(self, measurement: Measurement) -> Prediction:
        return Prediction(measurement.zero_filled * self.weight * self.other.detach())


class HasAnotherUnit(Image):
    def forward(self, measurement: Measurement) -> Prediction:
        return Prediction(super().forward(measurement).image + 1)


class MixesItsBatch(Image):
    def forward(self, measurement: Measurement) -> Prediction:
        return Prediction(super().forward(measurement).image + measurement.zero_filled.mean(0))


def test_models_that_keep_the_contract_pass() -> None:
    check_contract(Image())
    check_contract(Combined())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (IgnoresKspace, "ignores kspace"),
        (IgnoresMask, "ignores mask"),
        (IgnoresSensitivities, "ignores sens_maps"),
        (IgnoresTheImage, "ignores zero_filled"),
        (IgnoresItsWeights, "no gradient ever reaches weight, other|does not require grad"),
        (HasADeadWeight, "no gradient ever reaches other"),
        (HasAnotherUnit, "another unit"),
        (MixesItsBatch, "depends on its batch"),
    ],
)
def test_a_model_with_a_dead_part_fails_the_contract(model: type[ReconModel], message: str) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=message):
        check_contract(model())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"needs": ("kspaces",)}, "expected a set out of kspace"), ({"needs": "kspace"}, "expected a set"),
     ({"min_size": 0}, "min_size is 0")],
)  # fmt: skip
def test_what_a_model_states_is_checked_when_it_is_built(changes: dict[str, object], message: str) -> None:
    model = Image()
    for name, value in changes.items():
        setattr(model, name, value)
    with pytest.raises(ConfigError, match=message):
        check_model(model)
    with pytest.raises(ConfigError, match="derive it from"):
        check_model(nn.Linear(1, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_an_all_zero_slice_gives_a_finite_image_and_gradients(norm: str) -> None:
    model = build("unet", **SMALL, norm=norm)
    mask = torch.ones(1, 1, 1, 32, dtype=torch.bool)
    image = model(Measurement(None, mask, mask, None, torch.zeros(1, 32, 32), (32, 32), "kspace")).image
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
