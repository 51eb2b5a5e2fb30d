"""Typed overrides: parsed, applied to a config, checked for their types, and explained where they are mistaken."""

from collections.abc import Iterable, Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from mrirecon.config.compose import compose
from mrirecon.config.options import group_names, is_group, nearest, no_option
from mrirecon.errors import ConfigError

# Lightning takes a number, a list or a word here.
_OF_SEVERAL_TYPES = ("trainer.devices", "trainer.deterministic")


def without_null(argument: str) -> str:
    """`mask=null` as Hydra wants it, `~mask`; other arguments unchanged."""
    group, _, value = argument.partition("=")
    return f"~{group}" if value == "null" and is_group(group) else argument


def is_override(argument: str) -> bool:
    """Whether an argument of a command line changes the config, and is no flag and no value of one."""
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def parse(overrides: Iterable[str]) -> list[Override]:
    """Raises ConfigError naming what cannot be read."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        # Hydra's grammar takes some characters for its own; quotes for Hydra inside quotes for the shell keep them.
        text = str(error).splitlines()[0].rpartition("Exception: ")[2]
        raise ConfigError(
            f"cannot be read as key=value: {text}; quote a value with special characters, as in 'data.root=\"a b~c\"'"
        ) from error


def apply(cfg: DictConfig, override: Override) -> None:
    """Changes the config in place as Hydra would.  Raises ConfigError for a key that is not there, or is already."""
    key, value = override.key_or_group, override.value()
    is_there = OmegaConf.select(cfg, key, throw_on_missing=False) is not None
    if override.is_delete():
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or last not in node:
            raise ConfigError(unknown_key(key, key_names(cfg)))
        with open_dict(node):
            del node[last]
    elif override.is_add() and is_there and not isinstance(value, dict | list):
        raise ConfigError(f"{override.input_line}: {key} is there already: leave out the +")
    elif override.is_add() or override.is_force_add():
        OmegaConf.update(cfg, key, value, merge=True, force_add=True)
    else:
        names = list(key_names(cfg))
        if key not in names:
            raise ConfigError(unknown_key(key, names))
        OmegaConf.update(cfg, key, value, merge=True)


def check_types(base: DictConfig, cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Raises ConfigError for a value of another type than the default it replaces.  `trainer.max_epochs=ten`

    base: the config with the chosen groups and without any key changed.
    """
    for override in parse(overrides):
        key = override.key_or_group
        if is_group(key) or override.is_add() or override.is_delete() or key in _OF_SEVERAL_TYPES:
            continue
        default, value = OmegaConf.select(base, key), OmegaConf.select(cfg, key)
        if not _same_kind(default, value):
            raise ConfigError(f"{key}={value!r}: expected {_kind(default)}, like its default {default!r}")


def chosen_groups(overrides: Iterable[str]) -> list[str]:
    """The overrides that choose an option of a group."""
    overrides = list(overrides)
    return [text for text, override in zip(overrides, parse(overrides), strict=True) if is_group(override.key_or_group)]


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
        parsed = parse(filter(is_override, overrides))
    except ConfigError as refused:
        return str(refused)
    for override in parsed:
        problem = _option_problem(override) if is_group(override.key_or_group) else ""
        if problem:
            return problem
    try:
        names = list(_names(config_name, [o for o in overrides if is_override(o) and is_group(o.split("=")[0])]))
    except HydraException:  # the config itself is broken, whatever was typed
        names = []
    for override in parsed if names else ():
        key = override.key_or_group
        if not override.is_add() and key not in names and not key.startswith("hydra"):
            return unknown_key(key, names)
    return str(error).splitlines()[0]


def unknown_key(key: str, names: Iterable[str]) -> str:
    """What to say of a key that is not there."""
    return f"{key}: there is no such key{nearest(key, list(names))}; --help shows all, and +{key}=... would add it"


def _option_problem(override: Override) -> str:
    value = override.value()
    return no_option(override.key_or_group, value) if isinstance(value, str) else ""


def _names(config_name: str, chosen: list[str]) -> Iterator[str]:
    yield from group_names()
    try:
        cfg = compose(config_name, chosen)
    except HydraException:
        cfg = compose(config_name, [])
    yield from key_names(cfg)


def key_names(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every key of a config, nested ones joined by dots."""
    for key in map(str, node):
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from key_names(child, f"{prefix}{key}.")
