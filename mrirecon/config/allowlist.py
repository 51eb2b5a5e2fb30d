"""What a config may name: an allowlist, checked before anything is imported or called for it."""

import re
from functools import cache
from importlib import import_module
from typing import Any

from mrirecon.config.options import CONF
from mrirecon.errors import ConfigError, InputError

# A config, typed or from a checkpoint, may name these and nothing else.
_ALLOWED = re.compile(
    r"torch\.optim\.[A-Z]\w+"
    r"|schedulefree\.(?:SGD|AdamW|RAdam)ScheduleFree|prodigyopt\.Prodigy|pytorch_optimizer\.(?:Lion|SOAP)"
    r"|fastmri\.data\.subsample\.[A-Z]\w+MaskFunc|fastmri\.data\.subsample\.\w+FractionFunc"
    r"|pytorch_lightning\.Trainer|pytorch_lightning\.callbacks\.[A-Z]\w+|pytorch_lightning\.loggers\.TensorBoardLogger"
)
_OURS = re.compile(r"(mrirecon\.(?:models|data|synthetic|sampling|training)(?:\.[a-z]\w*)*)\.(\w+)")


def check_targets(node: Any, key: str = "") -> None:
    """Raises ConfigError for the first `_target_` that is none of this project's parts, before anything is called."""
    if isinstance(node, dict):
        if "_target_" in node:
            _check_target(str(node["_target_"]), key)
        for name, child in node.items():
            check_targets(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for number, child in enumerate(node):
            check_targets(child, f"{key}[{number}]")


def _check_target(target: str, key: str) -> None:
    if _ALLOWED.fullmatch(target) or target in _named_in_conf():
        return
    ours = _OURS.fullmatch(target)
    if ours is None:
        raise ConfigError(
            f"{key}._target_={target!r} is refused: a config may name parts of mrirecon, torch.optim.*, some "
            "optimizers of schedulefree, prodigyopt and pytorch_optimizer, fastmri.data.subsample.*MaskFunc and "
            "Lightning's Trainer, callbacks and TensorBoardLogger"
        )
    try:
        part = getattr(import_module(ours[1]), ours[2])
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}._target_={target!r} does not exist: {error}") from error
    if getattr(part, "__module__", None) != ours[1]:  # something the module merely imported
        raise ConfigError(f"{key}._target_={target!r} is refused: {ours[1]} does not define it")
    raise ConfigError(
        f"{key}._target_={target!r} is refused: no file in conf/ names it; a part of your own needs a conf/GROUP/X.yaml"
    )


@cache
def _named_in_conf() -> frozenset[str]:
    """Every `_target_` of the options that there are: functions that were not meant for configs can do harm."""
    line = re.compile(r"^\s*_target_:\s*(mrirecon\.\S+)", re.MULTILINE)
    return frozenset(target for path in CONF.rglob("*.yaml") for target in line.findall(path.read_text()))


def data_only(node: Any, key: str) -> Any:
    """Refuses what would be evaluated: the config of a checkpoint is resolved, so nothing in it need be."""
    if "${" in str(node):
        raise InputError(f"the checkpoint's config has an interpolation in {key}: it was not written by this project")
    check_targets(node, key)
    return node
