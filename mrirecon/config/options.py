"""The options of conf/: which there are, the nearest to a misspelt one, and several of one group at once."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from mrirecon.errors import ConfigError

CONF = Path(__file__).resolve().parents[2] / "conf"


def is_group(key: str) -> bool:
    """Whether conf/ has a folder of options of that name."""
    return key != "" and (CONF / key).is_dir()


def nearest(name: str, names: Sequence[str]) -> str:
    """The nearest names, in words; nothing where none is near."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def no_option(group: str, name: object) -> str:
    """What is wrong with the name of an option; nothing where there is such a one."""
    options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if name in options:
        return ""
    return f"{group}={name}: there is no such option{nearest(str(name), options)}; choose one of {', '.join(options)}"


def spell_lists(typed: Sequence[str], config_name: str) -> list[str]:
    """`mask=[a,b]`, which Hydra would merge into one option, as `masks=[a,b]`, where the command takes several.

    Raises ConfigError where it takes one, or where the one option is chosen or changed beside a list.
    """
    keys = [str(key) for key in OmegaConf.load(CONF / f"{config_name}.yaml")]
    spelt = [_spell(argument, keys, config_name) for argument in typed]
    for argument in spelt:
        group = argument.partition("s=")[0]
        if f"{group}s" not in keys or not is_group(group) or argument == f"{group}s=null":
            continue
        beside = [a for a in spelt if re.match(rf"\+*{group}[.=]", a) and a != f"{group}=checkpoint"]
        if beside:
            raise ConfigError(f"{beside[0]}: is about one option, but {group}=[...] chooses several: leave one out")
    return spelt


def _spell(argument: str, keys: Sequence[str], config_name: str) -> str:
    group, _, value = argument.partition("=")
    if not value.lstrip().startswith("[") or not is_group(group):
        return argument
    if f"{group}s" not in keys:
        raise ConfigError(f"{argument}: expected one option of conf/{group}; {config_name}.py takes no list of them")
    return f"{group}s={value}"


def chosen_options(group: str, names: object) -> dict[str, DictConfig]:
    """Options of a group by name.  ["random_4x", "random_8x"] -> {"random_4x": ..., "random_8x": ...}

    None gives none. Raises ConfigError with the nearest names for one that is not there.
    """
    if names is None:
        return {}
    if not isinstance(names, list | ListConfig) or not names or len(set(names)) < len(names):
        raise ConfigError(f"{group}={names}: expected a list of options, each once, as in {group}=[A,B]")
    return {str(name): _option(group, name) for name in names}


def _option(group: str, name: object) -> DictConfig:
    problem = no_option(group, name)
    if problem:
        raise ConfigError(problem)
    node = OmegaConf.load(CONF / group / f"{name}.yaml")
    assert isinstance(node, DictConfig)
    missing = OmegaConf.missing_keys(node)
    if missing:
        raise ConfigError(f"{group}={name}: has no value for {', '.join(sorted(missing))}: choose it alone, with them")
    return node
