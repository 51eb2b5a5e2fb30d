"""What every reconstruction model states of itself: the contract of `mrirecon.physics.sample.Model`."""

from collections.abc import Collection

from torch import nn

from mrirecon.errors import ConfigError
from mrirecon.physics.sample import NEEDS, Measurement, Prediction


class ReconModel(nn.Module):
    """A model to derive from: it looks at the zero-filled image alone unless it says otherwise.

    needs: the optional fields of a `Measurement` that it reads, out of `NEEDS`. min_size: the smallest side of an image.
    """

    needs: Collection[str] = ()
    min_size: int = 1

    def forward(self, measurement: Measurement) -> Prediction:
        """The reconstruction of a batch, in the unit of the measurement."""
        raise NotImplementedError


def check_model(model: nn.Module) -> None:
    """Raises ConfigError for a module that does not state what the contract asks for."""
    needs, min_size = getattr(model, "needs", None), getattr(model, "min_size", None)
    if isinstance(needs, str) or not isinstance(needs, Collection) or not set(needs) <= set(NEEDS):
        raise ConfigError(
            f"model: {type(model).__name__}.needs is {needs!r}: expected a set out of {', '.join(NEEDS)}, the fields of "
            "its Measurement that it reads besides the zero-filled image (see docs/extending.md)"
        )
    if not isinstance(min_size, int) or min_size < 1:
        raise ConfigError(
            f"model: {type(model).__name__}.min_size is {min_size!r}: expected the smallest side of an image it works on"
        )
