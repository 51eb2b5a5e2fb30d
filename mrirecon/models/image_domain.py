"""Models that see only the zero-filled image: none at all, or any network from image to image."""

from torch import nn

from mrirecon.models.base import ReconModel
from mrirecon.models.unet import Unet
from mrirecon.physics.sample import Measurement, Prediction


class ZeroFilled(ReconModel):
    """The baseline: the zero-filled image itself. It has no parameters, so it can be scored but not trained."""

    def forward(self, measurement: Measurement) -> Prediction:
        """The image that it is given."""
        return Prediction(measurement.zero_filled)


class ImageDomain(ReconModel):
    """A network applied to the normalised zero-filled image.  (b y x) -> (b y x)

    Each image is brought to mean 0 and standard deviation 1 and clamped to +-`clamp` standard deviations (None: not
    clamped), as in fastMRI's U-Net transform; the network's answer is brought back to the units of the input.
    """

    def __init__(self, network: nn.Module, min_size: int = 1, clamp: float | None = 6.0) -> None:
        super().__init__()
        self.network = network
        self.min_size = min_size
        self.clamp = clamp

    def forward(self, measurement: Measurement) -> Prediction:
        """The network's image, in the unit of the zero-filled one."""
        zero_filled = measurement.zero_filled
        mean = zero_filled.mean(dim=(-2, -1), keepdim=True)
        std = zero_filled.std(dim=(-2, -1), keepdim=True) + 1e-11  # fastMRI's; an all-zero slice stays finite
        x = (zero_filled - mean) / std
        if self.clamp is not None:
            x = x.clamp(-self.clamp, self.clamp)
        return Prediction(self.network(x.unsqueeze(1)).squeeze(1).to(zero_filled.dtype) * std + mean)


def unet(
    chans: int,
    num_pool_layers: int,
    drop_prob: float,
    norm: str,
    num_groups: int | None,
    clamp: float | None,
    affine: bool | None = None,  # these three have defaults for checkpoints from before there was a choice
    init: str = "default",
    gradient_checkpointing: bool = False,
) -> ImageDomain:
    """The fastMRI baseline: a U-Net from the zero-filled image to the image. See `Unet` and `ImageDomain`."""
    network = Unet(1, 1, chans, num_pool_layers, drop_prob, norm, num_groups, affine, init, gradient_checkpointing)
    return ImageDomain(network, network.min_size, clamp)
