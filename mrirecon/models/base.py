"""What every reconstruction model states of itself: the contract of `mrirecon.physics.sample.Model`."""

from collections.abc import Collection

from torch import nn

from mrirecon.errors import ConfigError
from mrirecon.physics.espirit import Espirit
from mrirecon.physics.sample import NEEDS, Measurement, Prediction, Sample


class ReconModel(nn.Module):
    """A model to derive from: it looks at the zero-filled image alone unless it says otherwise.

    needs: the optional fields of a `Measurement` that it reads, out of `NEEDS`.
    min_size: the smallest side of an image. sensitivities: how `sens_maps` are estimated, for a model that needs them.
    """

    needs: Collection[str] = ()
    min_size: int = 1
    sensitivities: Espirit = Espirit()

    def forward(self, measurement: Measurement) -> Prediction:
        """The reconstruction of a batch, in the unit of the measurement."""
        raise NotImplementedError


def with_sensitivities(model: ReconModel, sample: Sample) -> Sample:
    """The sample with the sensitivities that the model needs, estimated now; unchanged for one that needs none."""
    if "sens_maps" not in model.needs:
        return sample
    measurement = sample.measurement
    return sample._replace(measurement=measurement._replace(sens_maps=model.sensitivities(measurement)))


def check_model(model: nn.Module) -> ReconModel:
    """The model itself.  Raises ConfigError for a module that does not state what the contract asks for."""
    if not isinstance(model, ReconModel):
        raise ConfigError(
            f"model: {type(model).__name__} is no model of this project: derive it from "
            "mrirecon.models.base.ReconModel (see docs/extending.md)"
        )
    needs, min_size = model.needs, model.min_size
    if isinstance(needs, str) or not isinstance(needs, Collection) or not set(needs) <= set(NEEDS):
        raise ConfigError(
            f"model: {type(model).__name__}.needs is {needs!r}: expected a set out of {', '.join(NEEDS)}, the fields "
            "of its Measurement that it reads besides the zero-filled image (see docs/extending.md)"
        )
    if not isinstance(min_size, int) or min_size < 1:
        raise ConfigError(
            f"model: {type(model).__name__}.min_size is {min_size!r}: expected the smallest side of an image"
        )
    return model
