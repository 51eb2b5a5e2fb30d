"""What the lessons share: how large they run, where their figures go, and batches of phantom heads to learn from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import matplotlib
import torch
from fastmri.data.subsample import MaskFunc
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mrirecon.data.augmentation import IDENTITY
from mrirecon.errors import ConfigError
from mrirecon.physics.sample import FULL_READOUT, Sample, Slice, undersample
from mrirecon.sampling.masks import volume_mask
from mrirecon.synthetic import head as phantom

Choice = TypeVar("Choice")


def choose(lecture: Choice, tiny: Choice) -> Choice:
    """`lecture`, or `tiny` where the environment says COURSE_SIZE=tiny, as the tests do."""
    size = os.environ.get("COURSE_SIZE", "lecture")
    if size not in ("lecture", "tiny"):
        raise ConfigError(f"COURSE_SIZE={size}: expected lecture or tiny; unset it for the lesson as it is meant")
    return lecture if size == "lecture" else tiny


def save(figure: Figure, name: str) -> Path:
    """Writes a figure to COURSE_FIGURES, or to figures/ beside the lessons, and returns its path."""
    folder = Path(os.environ.get("COURSE_FIGURES", Path(__file__).parent / "figures"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    # Software and date would make each run's file another one.
    figure.savefig(path, dpi=80, bbox_inches="tight", metadata={"Software": None})
    if matplotlib.get_backend().lower() == "agg":
        pyplot.close(figure)
    return path


def show(axis: Axes, image: Tensor, title: str, vmax: float, vmin: float = 0.0, cmap: str = "gray") -> None:
    """Draws an image in a fixed window, pixel by pixel, without ticks.  (y x)"""
    axis.imshow(image.detach().numpy(), vmin=vmin, vmax=vmax, cmap=cmap, interpolation="nearest")
    axis.set(title=title, xticks=[], yticks=[])


def heads(
    numbers: Sequence[int],
    recon_size: int,
    mask_func: MaskFunc,
    acquisitions: Sequence[str] = phantom.ACQUISITIONS,
    num_slices: int = 4,
    num_coils: int = 4,
    snr: float = 25.0,
) -> Sample:
    """Slices of simulated heads, undersampled as a batch of the framework; a number is a head, always the same.

    Contrasts take turns over the heads. -> every field of `Sample`, b = len(numbers) * num_slices
    """
    slices = [
        _slices(number, acquisitions[number % len(acquisitions)], recon_size, mask_func, num_slices, num_coils, snr)
        for number in numbers
    ]
    fields = (None if field[0] is None else torch.cat(field) for field in zip(*slices, strict=True))
    return undersample(Slice(*fields), [FULL_READOUT])


def _slices(
    number: int, acquisition: str, size: int, mask_func: MaskFunc, num_slices: int, num_coils: int, snr: float
) -> Slice:
    """All slices of one head, as read from a file."""
    generator = phantom.volume_generator(0, number)
    kspace, target, _ = phantom.simulate(
        acquisition, size, size, num_slices=num_slices, num_coils=num_coils, snr=snr, generator=generator
    )
    mask, acs_mask = (
        torch.from_numpy(m).expand(num_slices, 1, -1, -1)
        for m in volume_mask(mask_func, (kspace.shape[-2], size), f"course_{number:04d}.h5")
    )
    return Slice(
        kspace=kspace,
        mask=mask,
        acs_mask=acs_mask,
        loss_mask=None,
        target=target,
        size=torch.tensor([size, size]).expand(num_slices, 2),
        data_range=target.max().expand(num_slices),
        volume=torch.full((num_slices,), number),
        slice_num=torch.arange(num_slices),
        affine=torch.from_numpy(IDENTITY).expand(num_slices, 2, 3),
    )
