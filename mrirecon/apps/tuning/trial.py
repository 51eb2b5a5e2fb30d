"""Runs one trial: a training as in train.py without checkpoints and pictures, scored after each validation."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from mrirecon.apps.run import interrupts_raised
from mrirecon.build import build_datamodule, build_module, build_trainer
from mrirecon.config.compose import plain
from mrirecon.data.catalog.volumes import Progress
from mrirecon.data.datamodule import ReconDataModule
from mrirecon.data.provenance import data_digest
from mrirecon.errors import ConfigError, DivergedError, InputError
from mrirecon.metrics.scores import MAIN_SCORES, SCORE_TABLE
from mrirecon.training.callbacks.record import write_final

METRICS = {name: SCORE_TABLE[name].direction for name in MAIN_SCORES}
"""Scores that a search can optimise -> direction."""
_READ_BY = ("data", "mask", "augmentation", "split", "seed")

ReportScore = Callable[[float, int], bool]
"""Reports (score, epoch from 1 on) to the search. Returns whether the trial should be pruned."""


class TrialError(Exception):
    """A trial ended without a score, which counts as a result; the message is the reason."""


class Data:
    """Data of a search, shared by all trials with the same data settings."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._key: dict[str, Any] = {}
        self._datamodule: ReconDataModule | None = None

    def of(self, cfg: DictConfig) -> ReconDataModule:
        """Datamodule of a config; the last one is reused where the data settings are equal."""
        key = {name: value for name, value in plain(cfg).items() if name in _READ_BY}
        if self._datamodule is None or key != self._key:
            self._key, self._datamodule = key, build_datamodule(cfg, self._progress)
        return self._datamodule


class Reporter(pl.Callback):
    """Reports the score of each validation to the search, and stops the run where it is pruned."""

    def __init__(self, metric: str, report_score: ReportScore) -> None:
        self.metric, self.report_score = metric, report_score
        self.best: dict[str, Any] | None = None
        self.is_pruned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        results: dict[str, Any] = pl_module.validated[1]
        score = results[self.metric]
        if score is None:
            raise InputError(f"the {self.metric} of every validation volume is undefined: check the targets")
        sign = SCORE_TABLE[self.metric].sign
        if self.best is None or sign * score > sign * self.best[self.metric]:
            self.best = results
        self.is_pruned = self.report_score(score, trainer.current_epoch + 1)
        if self.is_pruned:
            trainer.should_stop = True


def slim(cfg: DictConfig, without: Sequence[str], folder: str) -> DictConfig:
    """Config of a trial: that of train.py without the callbacks `without`, in its own folder. Raises ConfigError."""
    missing = [name for name in without if name not in (cfg.get("callbacks") or {})]
    if missing:
        raise ConfigError(f"without={missing}: expected callbacks of train: {', '.join(cfg.get('callbacks') or ())}")
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.run_dir = folder
    for name in without:
        del cfg.callbacks[name]
    left = [str(node.get("_target_")) for node in (cfg.get("callbacks") or {}).values()]
    # Lightning adds its own unless switched off.
    cfg.trainer.enable_checkpointing = any("Checkpoint" in target for target in left)
    cfg.trainer.enable_progress_bar = any("progress" in target for target in left)
    return cfg


def check_trial(cfg: DictConfig, metric: str) -> None:
    """Raises ConfigError for settings that trials do not support."""
    if metric not in METRICS:
        raise ConfigError(f"metric={metric}: expected one of {', '.join(METRICS)}, of the validation set")
    if cfg.ckpt is not None:
        raise ConfigError(f"ckpt={cfg.ckpt}: every trial of a search starts from scratch: leave it out")
    devices = cfg.trainer.devices
    if str(devices) != "1" and (isinstance(devices, int | str) or len(devices) != 1):
        raise ConfigError(
            f"trainer.devices={devices}: a trial runs on one device; begin the command once for each, with the same "
            "output, and trainer.devices=[0], trainer.devices=[1], ..."
        )


def digests(datamodule: ReconDataModule) -> dict[str, str]:
    """Fingerprints of training and validation data, which are prepared first."""
    datamodule.prepare_data()
    datamodule.setup("fit")
    sets = {split: datamodule.sets[split].source for split in ("train", "val")}
    return {split: data_digest(zip(s.volumes, s.data_ranges, strict=True)) for split, s in sets.items()}


def train_trial(cfg: DictConfig, data: Data, metric: str, report_score: ReportScore) -> tuple[dict[str, Any], bool]:
    """Scores of the best validation, and whether the run was pruned.

    Raises TrialError where training diverged or ran out of device memory, ConfigError and InputError for problems that
    concern all trials.
    """
    datamodule = data.of(cfg)
    try:
        with interrupts_raised():
            return _train(cfg, datamodule, Reporter(metric, report_score))
    except DivergedError as error:
        raise TrialError(f"diverged: {error}") from error
    except torch.OutOfMemoryError as error:
        raise TrialError(f"out of memory: {str(error).splitlines()[0]}") from error
    finally:
        # The data outlive the trial: without this they keep trainer and model, whose memory the next trial needs.
        datamodule.trainer = None
        gc.collect()


def _train(cfg: DictConfig, datamodule: ReconDataModule, reporter: Reporter) -> tuple[dict[str, Any], bool]:
    module, trainer = build_module(cfg), build_trainer(cfg)
    trainer.callbacks.append(reporter)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule)
    if reporter.best is None:
        raise ConfigError("trainer.max_epochs, check_val_every_n_epoch: no epoch was validated: train longer")
    write_final(trainer.logger, reporter.best, trainer.global_step)
    return reporter.best, reporter.is_pruned


def trial_folder(output: Path, number: int) -> Path:
    """Folder of a trial's TensorBoard events."""
    return output / "trials" / str(number)
