"""Writes pictures of the slices with the lowest and with median SSIM, reconstructing only these again."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from mrirecon.data.sources import Draw, MaskedSlices
from mrirecon.errors import ConfigError
from mrirecon.evaluation.scoring import Pass
from mrirecon.metrics.scores import SCORE_TABLE
from mrirecon.physics.sample import collate
from mrirecon.reports.pictures import panels, row, sheet, write_png
from mrirecon.system.atomic import write_json
from mrirecon.training.module import ReconModule

FILE_NAME = "gallery.json"

Captioned = list[tuple[str, torch.Tensor]]


class Scored(NamedTuple):
    """SSIM of a slice, and where the slice is."""

    ssim: float
    volume: int  # number in the data set, in which a volume counts once per mask
    slice_num: int
    zero_filled_ssim: float | None


def check_gallery(num_slices: int, scores: Sequence[str]) -> None:
    """Raises ConfigError for a negative number of slices, or without SSIM to choose them by."""
    if num_slices < 0:
        raise ConfigError(f"gallery={num_slices}: expected a number of slices, 0 for none")
    if num_slices and "ssim" not in scores:
        raise ConfigError(f"gallery={num_slices}: chooses slices by SSIM: add ssim to scores, or give gallery=0")


def write_gallery(
    folder: Path, trainer: pl.Trainer, module: ReconModule, passes: Sequence[Pass], num_slices: int
) -> list[dict[str, Any]]:
    """Writes PNG files of the worst and the median slices, and of the worst slice under each condition.

    num_slices: number of worst, and of median, slices. Also writes gallery.json, whose entries are returned; `file` is
    relative to it. Call on the first rank only, after `run_passes`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9][0-9]_*.png"):  # of an earlier evaluation
        old.unlink()
    module.to(trainer.strategy.root_device).eval()  # Lightning leaves it on the CPU
    entries: list[dict[str, Any]] = []
    for one in passes if num_slices else ():
        kept = [
            (kind, scored)
            for kind, scored in chosen(one, 1 if one.condition else num_slices)
            if kind == "worst" or not one.condition
        ]
        images = _panels(trainer, module, one, [scored for _, scored in kept])
        for (kind, scored), captioned in zip(kept, images, strict=True):
            entries.append(_write(folder, f"{len(entries) + 1:02d}_{kind}.png", kind, one, scored, captioned))
    write_json(folder / FILE_NAME, entries)
    return entries


def chosen(one: Pass, num_slices: int) -> Iterator[tuple[str, Scored]]:
    """Slices with the lowest SSIM, lowest first, then those around the median; no slice twice."""
    ranked = sorted(_scored(one), key=lambda scored: scored[:3])
    yield from (("worst", scored) for scored in ranked[:num_slices])
    start = max(num_slices, len(ranked) // 2 - num_slices // 2)
    yield from (("median", scored) for scored in ranked[start : start + num_slices])


def _scored(one: Pass) -> Iterator[Scored]:
    baseline = one.zero_filled or one.results
    for volume, beside in zip(one.results["volumes"], baseline["volumes"], strict=True):
        slices = volume["slices"]
        for values in zip(slices["ssim"], slices["slice_num"], beside["slices"]["ssim"], strict=True):
            if values[0] is not None:
                yield Scored(values[0], volume["volume"], *values[1:])


def _write(folder: Path, name: str, kind: str, one: Pass, scored: Scored, images: Captioned) -> dict[str, Any]:
    info, mask = one.dataset.volume(scored.volume)
    acceleration = one.dataset.volume_sampling(info, mask).acceleration
    entry = {
        "file": name,
        "kind": kind,
        "name": info.name,
        "slice_num": scored.slice_num,
        "mask": mask,
        "condition": one.condition,
        "acquisition": info.acquisition,
        "acceleration": round(acceleration, 4),
        "ssim": scored.ssim,
        "zero_filled_ssim": scored.zero_filled_ssim,
    }
    words = (info.name, f"slice {scored.slice_num}", info.acquisition, mask, f"{acceleration:.2f}x", one.condition)
    ssim = SCORE_TABLE["ssim"]
    footer = f"{kind} by {ssim.label}, {ssim.shown(scored.ssim)}"
    if scored.zero_filled_ssim is not None:
        footer += f" (zero-filled {ssim.shown(scored.zero_filled_ssim)})"
    write_png(folder / name, sheet([row(images)], ", ".join(filter(None, words)), footer))
    return entry


@torch.no_grad()
def _panels(trainer: pl.Trainer, module: ReconModule, one: Pass, scored: Sequence[Scored]) -> list[Captioned]:
    """Captioned images of slices, each in the display window of its target.  (y x) each

    Slices of one shape are reconstructed together; those of a network alone, as they were scored.
    """
    items = [item_of(one.dataset, each.volume, each.slice_num) for each in scored]
    learned = any(True for _ in module.model.parameters())
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        groups[number if learned else one.dataset.shape(item)].append(number)
    found: dict[int, Captioned] = {}
    data = one.datamodule
    for numbers in groups.values():
        read = collate([one.dataset[Draw(items[number], 0)] for number in numbers])
        batch = data.on_after_batch_transfer(data.transfer_batch_to_device(read, module.device, 0), 0)
        assert batch.target is not None
        with trainer.precision_plugin.forward_context():
            pred = module(batch).magnitude
        for row_number, number in enumerate(numbers):
            images = (batch.measurement.zero_filled, pred, batch.target)
            zero_filled, reconstruction, target, error = panels(*(image[row_number] for image in images))
            found[number] = [target, reconstruction, error, zero_filled]
    return [found[number] for number in range(len(items))]


def item_of(dataset: MaskedSlices, volume: int, slice_num: int) -> int:
    """Index in a data set of a slice, given by volume and slice number."""
    for item in range(len(dataset)):
        name, index = dataset.split(item)
        _, number, found = dataset.source.where(index)
        if (dataset.number(name, number), found) == (volume, slice_num):
            return item
    raise KeyError(f"volume {volume} has no slice {slice_num}")
