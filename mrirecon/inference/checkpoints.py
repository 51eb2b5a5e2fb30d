"""Reads checkpoints and exported folders as plain data and tensors, and loads their weights into a model."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrirecon.config.allowlist import check_size
from mrirecon.config.renamed import renamed
from mrirecon.errors import ConfigError, InputError
from mrirecon.inference.export import is_exported, weights_file
from mrirecon.inference.export import read as read_exported


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint of this project, as plain data and tensors; nothing in it is executed.

    An exported folder gives `config` and `state_dict` only. Raises ConfigError for a missing file, InputError for a
    file that is not a readable checkpoint of this project.
    """
    path = Path(path)
    if is_exported(path):
        return _current(read_exported(path))
    if not path.is_file():
        raise ConfigError(f"ckpt={path}: there is no such file; a run keeps its checkpoints in its folder checkpoints/")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        refused = isinstance(error, pickle.UnpicklingError)
        reason = (
            "it holds objects, or is no torch file"
            if refused
            else str(error).splitlines()[0]
            if str(error)
            else "empty"
        )
        raise InputError(
            f"{path}: is not a readable checkpoint of plain tensors ({reason}): train or copy it again"
        ) from error
    if (
        not isinstance(checkpoint, dict)
        or not isinstance(checkpoint.get("config"), dict)
        or "state_dict" not in checkpoint
    ):
        raise InputError(
            f"{path}: is not a checkpoint of this project: expected the entries config and state_dict; "
            "foreign weights can be loaded into mrirecon.models.unet.Unet with load_state_dict"
        )
    return _current(checkpoint)


def _current(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with renamed targets of its config updated.  Raises InputError for a config without end."""
    check_size(checkpoint["config"])
    return {**checkpoint, "config": renamed(checkpoint["config"])}


def file_of(ckpt: str) -> Path:
    """The file that stands for a checkpoint, whose hash identifies it: of an exported folder, its weights."""
    return weights_file(Path(ckpt)) if is_exported(Path(ckpt)) else Path(ckpt)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copies a checkpoint's weights into a model.

    Raises InputError naming the first entry that is missing, unknown, of another shape, or not finite.
    """
    weights = {
        name.removeprefix("model."): value
        for name, value in read_checkpoint(path)["state_dict"].items()
        if name.startswith("model.")
    }
    expected = model.state_dict()
    for name in sorted({*expected, *weights}):
        problem = _mismatch(expected.get(name), weights.get(name))
        if problem:
            raise InputError(f"{path}: does not fit the model: {name} {problem}; is model.* set to something else?")
    model.load_state_dict(weights)


def _mismatch(expected: torch.Tensor | None, got: torch.Tensor | None) -> str:
    if expected is None or got is None:
        return "is not in the model" if expected is None else "is not in the checkpoint"
    if expected.shape != got.shape:
        return f"has shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    if got.is_floating_point() and not torch.isfinite(got).all():
        return "has values that are not finite"
    return ""
