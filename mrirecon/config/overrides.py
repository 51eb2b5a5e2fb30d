"""Typed overrides: their types checked, and one line for a mistake with the nearest names."""

from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mrirecon.config.compose import compose
from mrirecon.config.options import CONF, is_group, nearest, no_option
from mrirecon.errors import ConfigError

# Lightning takes a number, a list or a word here.
_OF_SEVERAL_TYPES = ("trainer.devices", "trainer.deterministic")


def without_null(argument: str, config_name: str) -> str:
    """`mask=null` as Hydra wants it: `~mask`, or nothing to change where the group is absent anyway."""
    group, _, value = argument.partition("=")
    if value != "null" or not is_group(group):
        return argument
    defaults = OmegaConf.load(CONF / f"{config_name}.yaml").defaults
    absent = any(isinstance(entry, DictConfig) and entry.get(group, "") is None for entry in defaults)
    return "" if absent else f"~{group}"


def parse(overrides: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise ConfigError(_unparsable(error)) from error


def _unparsable(error: HydraException) -> str:
    """Hydra's grammar takes some characters for its own; quotes for Hydra inside quotes for the shell keep them."""
    text = str(error).splitlines()[0].rpartition("Exception: ")[2]
    return f"cannot be read as key=value: {text}; quote a value with special characters, as in 'data.root=\"a b~c\"'"


def check_types(cfg: DictConfig, overrides: list[str], config_name: str) -> None:
    """Raises ConfigError for a value of another type than the default it replaces.  `trainer.max_epochs=ten`"""
    parsed = [(text, override) for text, override in zip(overrides, parse(overrides), strict=True)]
    chosen = [text for text, override in parsed if is_group(override.key_or_group)]
    base = compose(config_name, chosen)
    for _, override in parsed:
        key = override.key_or_group
        if is_group(key) or override.is_add() or override.is_delete() or key in _OF_SEVERAL_TYPES:
            continue
        default, value = OmegaConf.select(base, key), OmegaConf.select(cfg, key)
        if not _same_kind(default, value):
            raise ConfigError(f"{key}={value!r}: expected {_kind(default)}, like its default {default!r}")


def _same_kind(default: Any, value: Any) -> bool:
    if default is None or value is None or isinstance(default, str):
        return not isinstance(value, DictConfig) or default is None
    return _kind(default) == _kind(value) or (isinstance(default, float) and _kind(value) == "a whole number")


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        DictConfig: "a group of keys",
    }
    return names.get(type(value), "a list")


def explain(error: Exception, overrides: list[str], config_name: str) -> str:
    """One line for a setting Hydra refused: which one, and the nearest valid names."""
    try:
        parsed = OverridesParser.create().parse_overrides([o for o in overrides if not o.startswith("-")])
    except HydraException as refused:
        return _unparsable(refused)
    for override in parsed:
        problem = _option_problem(override) if is_group(override.key_or_group) else ""
        if problem:
            return problem
    try:
        names = list(_names(config_name, [o for o in overrides if is_group(o.split("=")[0])]))
    except HydraException:  # the config itself is broken, whatever was typed
        names = []
    for override in parsed if names else ():
        key = override.key_or_group
        if not override.is_add() and key not in names and not key.startswith("hydra"):
            return f"{key}: there is no such key{nearest(key, names)}; --help shows all, and +{key}=... would add it"
    return str(error).splitlines()[0]


def _option_problem(override: Override) -> str:
    value = override.value()
    if value is None or str(value) == "checkpoint" or not isinstance(value, str):
        return ""
    return no_option(override.key_or_group, value)


def _names(config_name: str, chosen: list[str]) -> Iterator[str]:
    yield from (path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    try:
        cfg = compose(config_name, chosen)
    except HydraException:
        cfg = compose(config_name, [])

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key in node:
            yield f"{prefix}{key}"
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                yield from walk(child, f"{prefix}{key}.")

    yield from walk(cfg, "")
