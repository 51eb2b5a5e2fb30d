"""The U-Net of the fastMRI baseline, with a choice of normalization in every block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mrirecon.models.initialisation import initialise

CHANNELS_PER_GROUP = 32


def _group_norm(chans: int, num_groups: int | None, affine: bool = True) -> nn.Module:
    groups = num_groups or max(1, chans // CHANNELS_PER_GROUP)
    if chans % groups:
        raise ValueError(
            f"model.num_groups={groups} does not divide a layer of {chans} channels: "
            f"choose a divisor of model.chans, or null for one group per {CHANNELS_PER_GROUP} channels"
        )
    return nn.GroupNorm(groups, chans, affine=affine)


# The table of norms: name -> layer for so many channels and groups (of norm="group"), with or without weight and bias.
NORMS: dict[str, Callable[..., nn.Module]] = {
    # arXiv:1607.08022; fastMRI's has no weight and bias
    "instance": lambda chans, _, affine=False: nn.InstanceNorm2d(chans, affine=affine),
    "batch": lambda chans, _, affine=True: nn.BatchNorm2d(chans, affine=affine),  # arXiv:1502.03167
    "group": _group_norm,  # arXiv:1803.08494
    # arXiv:1607.06450; with the eps of AlgoPerf's "layer norm" of this U-Net
    "layer": lambda chans, _, affine=True: nn.GroupNorm(1, chans, eps=1e-6, affine=affine),
    "none": lambda chans, _, affine=False: nn.Identity(),
}


class NormChoice(NamedTuple):
    """Which normalization the layers get; called with the channels of one."""

    norm: str
    num_groups: int | None = None
    affine: bool | None = None

    def __call__(self, chans: int) -> nn.Module:
        chosen = {} if self.affine is None else {"affine": self.affine}
        return NORMS[self.norm](chans, self.num_groups, **chosen)


_STATISTICS_OVER_PIXELS = ("instance", "batch")  # these need more than one pixel at the bottom of the U


class Unet(nn.Module):
    """A U-Net on real images.  (b in_chans h w) -> (b out_chans h w)

    Ronneberger et al., arXiv:1505.04597, in the form of Zbontar et al., arXiv:1811.08839. With `norm="instance"` it is
    `fastmri.models.Unet` to the last state-dict key. Each side of the image must be at least `min_size`.

    chans: channels after the first block, doubled at each of the `num_pool_layers` poolings.
    norm: instance, batch, group, layer or none; "none" gives the convolutions a bias, the others have none.
    num_groups: groups of `norm="group"`; None is one group per 32 channels.
    affine: whether norms have a weight and a bias per channel; None is fastMRI's no for instance norm, yes for others.
    init: of the convolutions' weights, see `initialisation.initialise`.
    gradient_checkpointing: keep the input of each block alone, and compute the rest again for the gradient.

    Raises ValueError for an unknown norm, and for groups that do not divide the channels.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        chans: int = 32,
        num_pool_layers: int = 4,
        drop_prob: float = 0.0,
        norm: str = "instance",
        num_groups: int | None = None,
        affine: bool | None = None,
        init: str = "default",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(chans, num_pool_layers, drop_prob, norm)
        self.gradient_checkpointing = gradient_checkpointing
        make_norm = NormChoice(norm, num_groups, affine)
        self.min_size = 2 ** (num_pool_layers + (norm in _STATISTICS_OVER_PIXELS))

        def block(ins: int, outs: int) -> nn.Module:
            return ConvBlock(ins, outs, drop_prob, make_norm)

        widths = [chans * 2**level for level in range(num_pool_layers + 1)]
        self.down_sample_layers = nn.ModuleList(
            [block(ins, outs) for ins, outs in zip([in_chans, *widths], widths[:-1], strict=False)]
        )
        self.conv = block(widths[-2], widths[-1])
        upwards = widths[-2::-1]
        self.up_transpose_conv = nn.ModuleList([TransposeConvBlock(2 * width, width, make_norm) for width in upwards])
        self.up_conv = nn.ModuleList([block(2 * width, width) for width in upwards])
        self.up_conv[-1] = nn.Sequential(self.up_conv[-1], nn.Conv2d(chans, out_chans, kernel_size=1))
        initialise(self, init)

    def forward(self, image: Tensor) -> Tensor:
        skips, x = [], image
        for layer in self.down_sample_layers:
            x = self._run(layer, x)
            skips.append(x)
            x = F.avg_pool2d(x, kernel_size=2)
        x = self._run(self.conv, x)
        for up, conv in zip(self.up_transpose_conv, self.up_conv, strict=True):
            skip = skips.pop()
            x = self._run(conv, torch.cat([_pad_to(up(x), skip), skip], dim=1))
        return x

    def _run(self, layer: nn.Module, x: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            return layer(x)
        again = partial(_without_running_statistics, layer)
        return checkpoint(layer, x, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))


@contextmanager
def _without_running_statistics(layer: nn.Module) -> Iterator[None]:
    """Leaves batch norm's running statistics alone: a forward pass for the gradient must not count a batch twice."""
    norms = [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm, norm.momentum, {k: v.clone() for k, v in norm.named_buffers()}) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # switched off, the norm would keep other tensors for the gradient, which torch refuses
    try:
        yield
    finally:
        for norm, momentum, buffers in before:
            norm.momentum = momentum
            norm.load_state_dict(buffers, strict=False)  # its count of batches


def _check(chans: int, num_pool_layers: int, drop_prob: float, norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f"model.norm={norm!r} is not a normalization: choose one of {', '.join(NORMS)}")
    if chans < 1 or num_pool_layers < 1:
        raise ValueError(
            f"a U-Net needs model.chans >= 1 and model.num_pool_layers >= 1, not {chans}, {num_pool_layers}"
        )
    if not 0 <= drop_prob < 1:
        raise ValueError(f"model.drop_prob={drop_prob} is not a probability in [0, 1)")


def _pad_to(x: Tensor, skip: Tensor) -> Tensor:
    """Reflects one row and one column where pooling had dropped the odd one.  (*b h w), (*b h' w') -> (*b h' w')"""
    rows, cols = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
    # Shapes are numbers to the compiler, so this is no branch on data; padding by nothing would copy the tensor.
    return F.pad(x, (0, cols, 0, rows), mode="reflect") if rows or cols else x


class ConvBlock(nn.Module):
    """Twice: 3x3 convolution, norm, LeakyReLU, channel dropout.  (b in_chans h w) -> (b out_chans h w)"""

    def __init__(self, in_chans: int, out_chans: int, drop_prob: float, make_norm: NormChoice) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for ins in (in_chans, out_chans):
            layers += [
                nn.Conv2d(ins, out_chans, kernel_size=3, padding=1, bias=make_norm.norm == "none"),
                make_norm(out_chans),
                nn.LeakyReLU(negative_slope=0.2, inplace=True),
                nn.Dropout2d(drop_prob),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class TransposeConvBlock(nn.Module):
    """2x2 transposed convolution of stride 2, norm, LeakyReLU.  (b in_chans h w) -> (b out_chans 2h 2w)"""

    def __init__(self, in_chans: int, out_chans: int, make_norm: NormChoice) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(in_chans, out_chans, kernel_size=2, stride=2, bias=make_norm.norm == "none"),
            make_norm(out_chans),
            nn.LeakyReLU(negative_slope=0.2, inplace=True),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)
