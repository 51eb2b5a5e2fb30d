"""First weights of convolutions."""

from collections.abc import Callable

from torch import Tensor, nn

SLOPE = 0.2  # of the LeakyReLU behind the U-Net's convolutions

# Name -> what fills the weight of a convolution; None leaves torch's.
INITS: dict[str, Callable[[Tensor], object] | None] = {
    "default": None,  # torch's: uniform, variance 1 / (3 fan_in)
    "kaiming": lambda w: nn.init.kaiming_normal_(w, a=SLOPE, nonlinearity="leaky_relu"),  # arXiv:1502.01852, Eq. 15
    "xavier": lambda w: nn.init.xavier_normal_(w),  # Glorot and Bengio 2010, PMLR 9:249, Eq. 12
    "orthogonal": lambda w: nn.init.orthogonal_(w, nn.init.calculate_gain("leaky_relu", SLOPE)),  # arXiv:1312.6120
}


def initialise(network: nn.Module, init: str) -> None:
    """Fills the weights of all convolutions, and their biases with zero; "default" leaves both as torch made them.

    Raises ValueError for an unknown name.
    """
    if init not in INITS:
        raise ValueError(f"model.init={init!r} is not an initialisation: choose one of {', '.join(INITS)}")
    fill = INITS[init]
    if fill is None:
        return
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            continue
        for weight in _matrices(layer):
            fill(weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _matrices(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[Tensor]:
    """What makes one output pixel, with output channels first: their fan is the layer's.  -> (out in ...) each"""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Conv2d):
        return [weight]
    assert layer.stride == layer.kernel_size  # of a U-Net: an output pixel gets one tap of one input pixel
    return [tap.T for tap in weight.flatten(2).unbind(-1)]
