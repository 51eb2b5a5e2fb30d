"""Puts the parts named in YAML together, for the commands; `inference.interface` builds a model alone."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything

from mrirecon.config.compose import instantiate, plain
from mrirecon.data.catalog.volumes import Progress
from mrirecon.data.conditions import conditions_of
from mrirecon.data.datamodule import ReconDataModule
from mrirecon.errors import ConfigError
from mrirecon.inference.checkpoints import load_weights
from mrirecon.models.base import ReconModel, check_model
from mrirecon.sampling import masks
from mrirecon.training.callbacks.record import Record
from mrirecon.training.module import ReconModule

# Settings of a data set that mean nothing for another one.
_OF_ONE_SET = ("prepared", "writer", "files", "acquisitions", "num_cols")
# Of Lightning's: 16-mixed would stop at the overflows that its loss scaler is there to skip.
_PRECISIONS = ("32-true", "32", "bf16-mixed")


def part(cfg: DictConfig, key: str, **kwargs: Any) -> Any:
    """The object that the node of a key names.  Raises ConfigError."""
    return instantiate(key, OmegaConf.select(cfg, key), cfg.get("trust") or (), **kwargs)


def build_datamodule(cfg: DictConfig, progress: Progress | None = None, **scored: Any) -> ReconDataModule:
    """The data, with the masks that are drawn over it. Nothing is read yet.

    scored: `scored_masks` and `conditions` of evaluation.
    """
    names = ("mask", "augmentation", "splitting")
    chosen = {name: part(cfg, name) if cfg.get(name) is not None else None for name in names}
    needs_target = cfg.get("loss") is None or "target" in _needs(part(cfg, "loss"))
    settings = {"split": cfg.split, "seed": cfg.seed, "needs_target": needs_target, "progress": progress}
    # Called here: Hydra would turn what is a dataclass among its arguments into a dict.
    return part(cfg, "data", _partial_=True)(**chosen, **settings, **scored)


def build_scored(
    cfg: DictConfig, mask_options: Mapping[str, DictConfig], progress: Progress | None = None
) -> tuple[ReconDataModule, dict[str, ReconDataModule]]:
    """The data that evaluation scores, and under its name what it scores besides.

    mask_options: masks to score under, in the place of `cfg.mask`; none is that one. Raises ConfigError.
    """
    scored: dict[str, Any] = {}
    if mask_options:
        trust = cfg.get("trust") or ()
        funcs = {name: instantiate(f"mask={name}", node, trust) for name, node in mask_options.items()}
        # One alone has no name, so that its scores are those of mask=NAME.
        scored["scored_masks"] = masks.named(funcs if len(funcs) > 1 else {"": next(iter(funcs.values()))})
    conditions = conditions_of(plain(cfg.conditions)) if cfg.robustness else ()
    data, others = build_datamodule(cfg, progress, conditions=conditions, **scored), {}
    if cfg.robustness_root is not None:
        changes = {"root": cfg.robustness_root, **dict.fromkeys(_OF_ONE_SET)}
        other = OmegaConf.merge(cfg, {"data": changes})
        assert isinstance(other, DictConfig)
        others["other anatomy"] = build_datamodule(other, progress, **scored)
    return data, others


def build_module(cfg: DictConfig) -> ReconModule:
    """Everything that learns: model, loss, optimizer, schedule; its first weights depend on `cfg.seed` alone."""
    if not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed={cfg.seed}: expected a number from 0 to 2**32 - 1")
    seed_everything(cfg.seed, workers=True, verbose=False)
    parts = {name: part(cfg, name) for name in ("model", "loss", "optimizer", "scheduler")}
    check_model(parts["model"])
    _check_splitting(parts["loss"], cfg.get("splitting") is not None)
    _try(parts["optimizer"], parts["scheduler"])
    return ReconModule(**parts, target_clamp=cfg.target_clamp)


def _needs(loss: Any) -> Collection[str]:
    needs = getattr(loss, "needs", None)
    if isinstance(needs, str) or not isinstance(needs, Collection):
        raise ConfigError(
            f"loss: {type(loss).__name__} does not state what it needs: derive it from "
            "mrirecon.training.losses.TargetLoss (see docs/extending.md)"
        )
    return needs


def _check_splitting(loss: Any, is_split: bool) -> None:
    if ("held_back" in _needs(loss)) != is_split:
        raise ConfigError(
            "loss, splitting: samples that are held back (splitting=columns or points) go with a loss on them "
            "(loss=held_back), and neither works alone"
        )


def _try(optimizer: Any, scheduler: Any) -> None:
    """Calls both once on a stand-in: a knob they refuse is found now, not when the data has been read."""
    try:
        trial = optimizer([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"optimizer: {error}") from error
    try:
        scheduler(trial, num_steps=10, num_epochs=2)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"scheduler: {error}") from error


def build_trainer(cfg: DictConfig) -> Trainer:
    """Lightning's trainer with the callbacks and logger of the config; the run's config goes into its checkpoints."""
    callbacks = [part(cfg, f"callbacks.{name}") for name in cfg.get("callbacks") or {}]
    logger: Any = part(cfg, "logger") if cfg.get("logger") else False
    if cfg.get("callbacks"):
        callbacks.append(Record(plain(cfg), OmegaConf.to_yaml(cfg, resolve=True)))
    if str(cfg.trainer.precision) not in _PRECISIONS:
        raise ConfigError(
            f"trainer.precision={cfg.trainer.precision}: expected one of {', '.join(_PRECISIONS)}; "
            "k-space is complex64, and half precision needs a loss scaler that skips steps"
        )
    try:
        return part(cfg, "trainer", callbacks=callbacks, logger=logger)
    except MisconfigurationException as error:
        raise ConfigError(f"trainer: {error}") from error


def build_evaluation(cfg: DictConfig, model: ReconModel) -> tuple[Trainer, ReconModule]:
    """What scores a model: no optimizer, no logger."""
    return build_trainer(cfg), ReconModule(model)


def load_model(cfg: DictConfig) -> ReconModel:
    """The model of the config, with the weights of `ckpt` where one is given, in evaluation mode."""
    if cfg.get("model") is None:
        raise ConfigError("ckpt: give ckpt=FILE, a checkpoint of a training run, or model=zero_filled for the baseline")
    model = check_model(part(cfg, "model"))
    has_weights = any(True for _ in model.parameters())
    if has_weights and cfg.ckpt is None:
        raise ConfigError(
            "ckpt: the chosen model has to be trained first: give ckpt=FILE, a checkpoint of a training run"
        )
    if cfg.ckpt is not None and not has_weights:
        raise ConfigError(f"ckpt={cfg.ckpt}: the chosen model has no weights to take from it: leave ckpt out")
    if has_weights:
        load_weights(model, cfg.ckpt)
    return model.eval()
