"""Reads what a report shows beside scores: gallery pictures and TensorBoard curves."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrirecon.errors import InputError
from mrirecon.metrics.scores import MAIN_SCORES, SCORE_TABLE

CURVES = ("train/loss", *(f"val/{name}" for name in MAIN_SCORES), "lr")
EVENTS = "events.out.tfevents.*"

_PNG = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """One picture of a gallery."""

    source: str  # a data URL
    caption: str


def read_gallery(folder: Path) -> list[Picture]:
    """Pictures listed in `folder/gallery.json`, in its order.

    Raises InputError where the list or a picture is missing, or lies outside the folder.
    """
    file = folder / "gallery.json"
    try:
        entries = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: expected a JSON list of pictures ({error}): make the gallery again") from error
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("file"), str) for e in entries
    ):
        raise InputError(f"{file}: expected a list of pictures, each with its `file`: make the gallery again")
    return [Picture(_data_url(folder, entry["file"]), caption(entry)) for entry in entries]


def _data_url(folder: Path, name: str) -> str:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{folder / 'gallery.json'}: {name!r} lies outside the gallery: name files inside it only")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): make the gallery again") from error
    if not content.startswith(_PNG):
        raise InputError(f"{path}: is not a PNG file: make the gallery again")
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def caption(entry: Mapping[str, Any]) -> str:
    """Caption of a gallery picture."""
    about = [entry.get("kind"), entry.get("name")]
    about.append(f"slice {entry['slice_num']}" if entry.get("slice_num") is not None else None)
    about += [entry.get("acquisition"), entry.get("mask") or _times(entry.get("acceleration")), entry.get("condition")]
    about += [_ssim(entry, "ssim", "SSIM"), _ssim(entry, "zero_filled_ssim", "zero-filled")]
    return ", ".join(str(part) for part in about if part)


def _times(acceleration: Any) -> str | None:
    return f"{acceleration:.3g}x" if isinstance(acceleration, (int, float)) else None


def _ssim(entry: Mapping[str, Any], key: str, label: str) -> str | None:
    value = entry.get(key)
    return f"{label} {SCORE_TABLE['ssim'].shown(value)}" if isinstance(value, (int, float)) else None


def read_curves(folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of each tag in `CURVES` found in the TensorBoard events below a folder."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for events in sorted({file.parent for file in folder.rglob(EVENTS)}):
        accumulator = EventAccumulator(str(events), size_guidance={"scalars": 0})  # all of them
        accumulator.Reload()
        for tag in set(CURVES) & set(accumulator.Tags()["scalars"]):
            steps, values = curves.setdefault(tag, ([], []))
            for point in accumulator.Scalars(tag):
                steps.append(point.step)
                values.append(point.value)
    return {tag: curves[tag] for tag in CURVES if tag in curves}
