"""Configs composed from conf/, turned into plain data and into the objects they name."""

import math
from collections.abc import Collection
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from mrirecon.config.allowlist import check_targets
from mrirecon.config.options import CONF, own_folder
from mrirecon.errors import ConfigError, InputError


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as dicts, lists, strings and numbers, every interpolation resolved."""
    resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    """The config that a command would have with these overrides."""
    if GlobalHydra.instance().is_initialized():
        return hydra.compose(config_name, overrides)
    folder = str(own_folder() or "").replace("'", r"\'")
    own = [f"hydra.searchpath=['file://{folder}']"] if folder else []
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(config_name, [*overrides, *own])


def instantiate(key: str, node: Any, trust: Collection[str] = (), **kwargs: Any) -> Any:
    """The object a config node names. Raises ConfigError naming the key for a wrong, missing or unknown setting.

    trust: packages, besides this one, whose parts it may name; see `allowlist.check_targets`.
    """
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{key}: nothing is chosen; give {key}=..., one of the files in conf/{key}")
    check_targets(node, key, trust)
    try:
        return hydra.utils.instantiate(node, _convert_="all", **kwargs)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, (ConfigError, InputError)):
            raise cause from None
        raise ConfigError(f"{key}: {' '.join(str(cause).splitlines())}") from error


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; lists as text.  {"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat


def json_config(config: Any) -> Any:
    """A plain config as JSON can hold it: numbers that are not finite, as Prodigy's growth rate, become text."""
    if isinstance(config, dict):
        return {key: json_config(value) for key, value in config.items()}
    if isinstance(config, list):
        return [json_config(value) for value in config]
    return str(config) if isinstance(config, float) and not math.isfinite(config) else config
