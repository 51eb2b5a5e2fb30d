"""THE table of shapes: what travels from file to model and back, and the one step between, undersampling on the device.

b = batch, h = readout, w = phase encoding, y x = image. A `Slice` is what is read, in the units of the file; a `Sample`
is what training and scoring get, divided by `scale`; its `Measurement` is all that a model sees; a `Prediction` is what
a model gives back.

Hybrid space is image along the readout, cropped to the rows of the image, and k-space along the phase encoding. A mask
of columns acts there as it does on k-space, so every operator works along w alone.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import default_collate

from mrirecon.physics.zero_filled import to_hybrid, zero_filled, zero_filled_hybrid

FULL_READOUT = "full_readout"
NEEDS = ("kspace", "sens_maps", FULL_READOUT)
"""What a model may state in `needs`: optional fields of a `Measurement`, and that the readout must stay k-space."""


class Slice(NamedTuple):
    """One slice, or a batch of them, as read: k-space with everything that was acquired, and the mask to apply."""

    kspace: Tensor  # complex64 (b coil h w)
    mask: Tensor  # bool (b 1 1 w), or (b 1 h w) for a pattern in both directions
    acs_mask: Tensor  # bool, as mask: the fully sampled centre
    loss_mask: Tensor | None  # bool, as mask: held back from the model, for a loss in k-space; None: nothing is
    target: Tensor | None  # float32 (b y x); None where the scan has none
    size: Tensor  # int64 (b 2), (y, x): what is reconstructed
    data_range: Tensor  # float32 (b), maximum of the target volume; 0 where there is none
    volume: Tensor  # int64 (b), index of the volume in its data set
    slice_num: Tensor  # int64 (b)
    affine: Tensor  # float32 (b 2 3), of the augmentation: how the image is moved first


class HybridSlice(Slice):
    """A slice in hybrid space: `kspace` is (b coil y w), masks are those of columns, in half the bytes."""


class Measurement(NamedTuple):
    """What a model sees; its fields have the unit in which the zero-filled image has standard deviation 1."""

    kspace: Tensor | None  # masked; complex64 (b coil h w), with readout "image" (b coil y w); None unless needed
    mask: Tensor  # bool (b 1 1 w), with readout "kspace" also (b 1 h w)
    acs_mask: Tensor  # bool, as mask
    sens_maps: Tensor | None  # complex64, as kspace: root sum of squares over coils 1; None unless needed
    zero_filled: Tensor  # float32 (b y x), root sum of squares of the coil images
    size: tuple[int, int]  # (y, x) of the image wanted
    readout: str  # "kspace", or "image": `kspace` is in hybrid space


class Prediction(NamedTuple):
    """What a model gives back, in the unit of its measurement."""

    image: Tensor  # (b y x), real or complex
    kspace: Tensor | None = None  # complex64, as the measurement's kspace, every sample predicted
    sens_maps: Tensor | None = None  # complex64, as the measurement's: those that the model itself estimated

    @property
    def magnitude(self) -> Tensor:
        """The image that is shown, scored and compared with a target.  -> real (b y x)"""
        return self.image.abs() if self.image.is_complex() else self.image


class Model(Protocol):
    """The contract of models."""

    @property
    def needs(self) -> Collection[str]:
        """Out of `NEEDS`."""

    @property
    def min_size(self) -> int:
        """The smallest side of an image it works on."""

    @property
    def sensitivities(self) -> Callable[[Measurement], Tensor]:
        """Estimates the `sens_maps` of a model that needs them; equal ones have equal texts (`repr`)."""

    @property
    def __call__(self) -> Callable[[Measurement], Prediction]:
        """The reconstruction of a batch."""


class Sample(NamedTuple):
    """A batch for training and scoring; `scale` and `mean` lead back to the units of the file."""

    measurement: Measurement
    target: Tensor | None  # float32 (b y x), unclamped
    loss_mask: Tensor | None  # bool, as the measurement's mask: where `held_back` was measured
    held_back: Tensor | None  # complex64, as the measurement's kspace: measured at `loss_mask`, hidden from the model
    data_range: Tensor  # float32 (b); 0 where there is no target
    scale: Tensor  # float32 (b), file units per unit
    mean: Tensor  # float32 (b), of the zero-filled image
    volume: Tensor  # int64 (b)
    slice_num: Tensor  # int64 (b)

    def rows(self, index: slice | Tensor) -> Self:
        """Some slices of the batch."""
        return _mapped(self, lambda tensor: tensor[index])

    def row_alone(self) -> Self:
        """The slice of a batch of one, without the axis of the batch."""
        return _mapped(self, lambda tensor: tensor[0])


def undersample(batch: Slice, needs: Collection[str] = ()) -> Sample:
    """Applies the mask and divides by the standard deviation of the zero-filled image.

    needs: of the model; its k-space is in hybrid space wherever the mask is one of columns and the readout may change.
    Sensitivities are not estimated here. Raises ValueError where the whole readout is asked of hybrid slices.
    """
    size = image_size_of(batch)
    wants_kspace = bool({"kspace", "sens_maps", FULL_READOUT}.intersection(needs)) or batch.loss_mask is not None
    is_hybrid = isinstance(batch, HybridSlice)
    if is_hybrid and FULL_READOUT in needs:
        raise ValueError("a HybridSlice holds no k-space of the whole readout: read it from the scan's own file")
    kspace = batch.kspace
    if wants_kspace and not is_hybrid and FULL_READOUT not in needs and _is_of_columns(batch):
        kspace, is_hybrid = to_hybrid(kspace, size[0]), True
    image = zero_filled_hybrid(kspace, batch.mask, size[1]) if is_hybrid else zero_filled(kspace, batch.mask, size)
    image, scale, mean = normalise(image)
    measurement = Measurement(
        kspace=masked(kspace, batch.mask, scale) if wants_kspace else None,
        mask=batch.mask,
        acs_mask=batch.acs_mask,
        sens_maps=None,
        zero_filled=image,
        size=size,
        readout="image" if is_hybrid else "kspace",
    )
    return Sample(
        measurement=measurement,
        target=None if batch.target is None else batch.target / scale[:, None, None],
        loss_mask=batch.loss_mask,
        held_back=None if batch.loss_mask is None else masked(kspace, batch.loss_mask, scale),
        data_range=batch.data_range / scale,
        scale=scale,
        mean=mean,
        volume=batch.volume,
        slice_num=batch.slice_num,
    )


def image_size_of(batch: Slice) -> tuple[int, int]:
    """(y, x) of the images of a batch, which share it; known without waiting for a device where there is a target."""
    if batch.target is not None:
        return batch.target.shape[-2], batch.target.shape[-1]
    y, x = batch.size[0].tolist()
    return y, x


def _is_of_columns(batch: Slice) -> bool:
    return batch.mask.shape[-2] == 1 and (batch.loss_mask is None or batch.loss_mask.shape[-2] == 1)


def normalise(zero_filled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The image divided by its scale, the scale, and the mean of the result.  (b y x) -> (b y x), (b), (b)

    The scale is the unbiased standard deviation plus fastMRI's 1e-11; it is 1 for an image without any variation.
    """
    num_pixels = zero_filled.shape[-2] * zero_filled.shape[-1]
    mean = (_sum(zero_filled) / num_pixels).to(zero_filled.dtype)
    squares = _sum((zero_filled - mean[:, None, None]).square_())
    std = (squares / max(1, num_pixels - 1)).sqrt().to(zero_filled.dtype)
    scale = torch.where(std > 0, std + 1e-11, 1.0)
    return zero_filled / scale[:, None, None], scale, mean / scale


def _sum(images: Tensor) -> Tensor:
    """The sum of each image, by rows: no batch and no number of threads changes a bit.  (b y x) -> (b) float64"""
    return images.sum(dim=-1).double().sum(dim=-1)


def masked(kspace: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
    """Masked k-space in normalised units.  (b coil h|y w), (b 1 1|h w), (b) -> (b coil h|y w)"""
    sampled = kspace * mask + 0.0  # fastMRI's + 0.0: no negative zeros
    # Real by real: a complex number divided by a real one takes torch several times as long.
    return torch.view_as_complex(torch.view_as_real(sampled) / scale[:, None, None, None, None])


def collate(parts: Sequence[Any]) -> Any:
    """One batch of several slices or samples of one shape: tensors are stacked, what they share is kept once."""
    first = parts[0]
    if isinstance(first, Tensor):
        return default_collate(list(parts))
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(collate(values) for values in zip(*parts, strict=True)))
    return first


def batch_of_one(read: Slice) -> Slice:
    """A slice as a batch."""
    return _mapped(read, lambda tensor: tensor[None])


def _mapped(node: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(node, Tensor):
        return change(node)
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*(_mapped(value, change) for value in node))
    return node
