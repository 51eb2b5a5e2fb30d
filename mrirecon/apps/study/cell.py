"""Runs one training of a study and writes its result, also where it diverged."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import TensorBoardLogger

from mrirecon.apps.run import interrupts_raised
from mrirecon.build import build_datamodule, build_module, build_trainer
from mrirecon.config.compose import flatten, json_config, plain
from mrirecon.data.datamodule import ReconDataModule
from mrirecon.data.provenance import versions
from mrirecon.errors import ConfigError, DivergedError, InputError
from mrirecon.metrics.scores import MAIN_SCORES
from mrirecon.system.atomic import write_json
from mrirecon.training.callbacks.baseline import ZeroFilledLine
from mrirecon.training.callbacks.curves import Curves
from mrirecon.training.callbacks.dashboard import start_session
from mrirecon.training.callbacks.record import hyperparameters, validation_scores, write_final
from mrirecon.training.module import ReconModule

FILE_NAME = "cell.json"
# Settings that may differ for a finished training to be reused.
_MAY_CHANGE = ("run_dir", "logger.", "data.num_workers", "data.resident", "callbacks.", "trainer.enable_")


def run_cell(cfg: DictConfig) -> bool:
    """Trains and validates a config of train.py and writes cell.json to its folder; False where it already exists.

    A model without weights is only validated. Raises ConfigError where the folder holds a training with other settings,
    or no validation took place.
    """
    path = Path(cfg.run_dir) / FILE_NAME
    config = json_config(plain(cfg))
    if path.exists():
        _check_same(path, config)
        return False
    shutil.rmtree(path.parent / "tensorboard", ignore_errors=True)  # of an interrupted run: its curves would be joined
    data, module, trainer = build_datamodule(cfg), build_module(cfg), build_trainer(cfg)
    curves = next(c for c in trainer.callbacks if isinstance(c, Curves))  # type: ignore[attr-defined]
    reason = _run(trainer, module, data, config)
    if not curves.validations and not reason:
        raise ConfigError(
            "trainer: no validation took place, so there is nothing to compare: set "
            "trainer.check_val_every_n_epoch and trainer.limit_val_batches so that there is one within the budget"
        )
    content = {
        "status": "diverged" if reason else "finished",
        "reason": reason,
        **_measured(trainer, module, curves),
        "config": config,
        "versions": versions(),
        "device": _device(module),
    }
    if not reason:
        write_final(trainer.logger, curves.validations[-1], trainer.global_step)
    write_json(path, content)
    return True


def _run(trainer: pl.Trainer, module: ReconModule, data: ReconDataModule, config: dict[str, Any]) -> str:
    """Trains, or only validates a model without weights. Returns the reason where it diverged, else ""."""
    try:
        with interrupts_raised():
            if any(p.requires_grad for p in module.parameters()):
                trainer.fit(module, data)
            else:
                if isinstance(trainer.logger, TensorBoardLogger):
                    start_session(trainer.logger.experiment, hyperparameters(config))
                trainer.validate(module, data, verbose=False)
    except DivergedError as error:
        return str(error)
    return ""


def _measured(trainer: pl.Trainer, module: ReconModule, curves: Curves) -> dict[str, Any]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    volumes = []
    if module.validated is not None:
        dataset = data.sets["val"]
        volumes = [
            {"name": dataset.volume(row["volume"])[0].name, "mask": dataset.volume(row["volume"])[1]}
            | {"patient": dataset.volume(row["volume"])[0].patient, **{score: row[score] for score in MAIN_SCORES}}
            for row in module.validated[1]["volumes"]
        ]
    lines = [c for c in trainer.callbacks if isinstance(c, ZeroFilledLine)]  # type: ignore[attr-defined]
    kept = validation_scores(trainer, module)
    return {
        "num_steps": trainer.global_step,
        "num_slices": curves.num_slices,
        "num_parameters": sum(p.numel() for p in module.parameters()),
        "weights_bytes": sum(p.numel() * p.element_size() for p in module.parameters()),
        "state_bytes": sum(_state_bytes(dict(optimizer.state)) for optimizer in trainer.optimizers),
        "peak_bytes": torch.cuda.max_memory_allocated(module.device) if module.device.type == "cuda" else None,
        "seconds_per_step": curves.seconds_per_step,
        "losses": [_finite_or_none(loss) for loss in curves.losses],
        "validations": curves.validations,
        "volumes": volumes,
        "zero_filled": lines[0].scores if lines else None,
        "conventions": kept["conventions"] if kept else None,
    }


def _state_bytes(kept: Any) -> int:
    """Bytes of all tensors in an optimizer state; SOAP keeps its matrices in lists."""
    if torch.is_tensor(kept):
        return kept.numel() * kept.element_size()
    if isinstance(kept, dict):
        return sum(_state_bytes(value) for value in kept.values())
    return sum(map(_state_bytes, kept)) if isinstance(kept, list | tuple) else 0


def _finite_or_none(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def _device(module: ReconModule) -> str:
    if module.device.type == "cuda":
        return torch.cuda.get_device_name(module.device)
    return f"CPU, {torch.get_num_threads()} threads"


def read_cell(path: Path) -> dict[str, Any] | None:
    """Content of a cell.json; None where it does not exist. Raises InputError where it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path}: is not JSON as study writes it ({error}): remove it and run it again") from error
    if not isinstance(content, dict) or not {"status", "config", "validations", "losses"} <= set(content):
        raise InputError(f"{path}: is no result of study: remove it and run it again")
    return content


def _check_same(path: Path, config: dict[str, Any]) -> None:
    content = read_cell(path)
    assert content is not None
    then, now = flatten(content["config"]), flatten(config)
    for key in sorted({*then, *now}):
        if not key.startswith(_MAY_CHANGE) and then.get(key) != now.get(key):
            raise ConfigError(
                f"output: {path} was made with {key}={then.get(key)}, now it is {now.get(key)}: "
                "give another output=DIR, or the settings it was made with"
            )


def check_settings(cfg: DictConfig) -> None:
    """Raises ConfigError for settings that a study does not support."""
    if cfg.trainer.devices not in (1, "1", "auto") or cfg.trainer.num_nodes != 1:
        raise ConfigError(
            f"trainer.devices={cfg.trainer.devices}: a training of a study takes one device; hydra/launcher=... runs "
            "several trainings at once"
        )
    if cfg.trainer.max_steps != -1:
        raise ConfigError("trainer.max_steps: a study gives every training the same passes: budget=N")


def is_finished(folder: Path) -> bool:
    """Whether a training's result exists."""
    return (folder / FILE_NAME).exists()
