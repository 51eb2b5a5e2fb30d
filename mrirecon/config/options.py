"""The options of conf/: which there are, the nearest to a misspelt one, and several of one group at once."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from mrirecon.errors import ConfigError

_GROUP = re.compile(r"\w+(/\w+)*")


def _conf() -> Path:
    """Inside the package where it was installed from a wheel, beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


CONF = _conf()
IS_INSTALLED = CONF.parent == Path(__file__).resolve().parents[1]  # from a wheel: no place for a person's own files
_roots = [CONF]


def own_folder() -> Path | None:
    """The folder of `--config-dir`, with options of a person's own; None where none was typed."""
    return _roots[-1] if len(_roots) > 1 else None


def take_config_dir(typed: Sequence[str]) -> tuple[list[str], list[str]]:
    """Makes the options of `--config-dir` count, and gives the arguments that name it, and the others.

    Raises ConfigError for a folder that is not there, or has another file of a name that conf/ has: Hydra would read
    that of conf/.
    """
    flags, others, rest = [], [], iter(typed)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag not in ("--config-dir", "-cd"):
            others.append(argument)
            continue
        folder = Path(value if equals else next(rest, "")).absolute()
        flags = ["--config-dir", str(folder)]
    _roots[1:] = [Path(flags[1])] if flags else []
    if flags:
        _check_own(Path(flags[1]))
    return flags, others


def _check_own(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder}: there is no such folder")
    if folder.resolve() == CONF:
        return
    for path in sorted(CONF.rglob("*.yaml")):
        other = folder / path.relative_to(CONF)
        if other.exists() and other.read_bytes() != path.read_bytes():
            raise ConfigError(f"--config-dir: {other}: this project has a file of that name: give it another name")


def is_group(key: str) -> bool:
    """Whether conf/, or the folder of `--config-dir`, has a folder of options of that name."""
    return _GROUP.fullmatch(key) is not None and any((root / key).is_dir() for root in _roots)


def group_names() -> list[str]:
    """The groups of options."""
    return sorted({path.name for root in _roots for path in root.iterdir() if path.is_dir() and _is_shown(path)})


def _is_shown(folder: Path) -> bool:
    return folder.name != "hydra" and not folder.name.startswith((".", "_"))


def options_of(group: str) -> dict[str, Path]:
    """The options of a group and their files, by name."""
    return {path.stem: path for root in _roots for path in sorted((root / group).glob("*.yaml"))}


def option_named(group: str, content: object) -> str | None:
    """The option that says exactly this; None where none does.  plain data"""
    return next((name for name in options_of(group) if option_content(group, name) == content), None)


def option_content(group: str, name: str) -> object:
    """What the file of an option says, as plain data."""
    return OmegaConf.to_container(OmegaConf.load(options_of(group)[name]))


def command_file(config_name: str) -> Path:
    """The YAML of a command."""
    return CONF / f"{config_name}.yaml"


def nearest(name: str, names: Iterable[str]) -> str:
    """The nearest names, in words; nothing where none is near."""
    close = difflib.get_close_matches(name, dict.fromkeys(names), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def no_option(group: str, name: object) -> str:
    """What is wrong with the name of an option; nothing where there is such a one."""
    options = sorted(options_of(group))
    if name in options:
        return ""
    return f"{group}={name}: there is no such option{nearest(str(name), options)}; choose one of {', '.join(options)}"


def spell_lists(typed: Sequence[str], config_name: str) -> list[str]:
    """`mask=[a,b]`, which Hydra would merge into one option, as `masks=[a,b]`, where the command takes several.

    Raises ConfigError where it takes one, or where the one option is chosen or changed beside a list.
    """
    keys = [str(key) for key in OmegaConf.load(command_file(config_name))]
    spelt = [_spell(argument, keys, config_name) for argument in typed]
    for argument in spelt:
        group = argument.partition("s=")[0]
        if f"{group}s" not in keys or not is_group(group) or argument == f"{group}s=null":
            continue
        beside = [a for a in spelt if re.match(rf"\+*{group}[.=]", a)]
        if beside:
            raise ConfigError(f"{beside[0]}: is about one option, but {group}=[...] chooses several: leave one out")
    return spelt


def _spell(argument: str, keys: Sequence[str], config_name: str) -> str:
    group, _, value = argument.partition("=")
    if not value.lstrip().startswith("[") or not is_group(group):
        return argument
    if f"{group}s" not in keys:
        raise ConfigError(f"{argument}: expected one option of conf/{group}; {config_name} takes no list of them")
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
    node = OmegaConf.load(options_of(group)[str(name)])
    assert isinstance(node, DictConfig)
    missing = OmegaConf.missing_keys(node)
    if missing:
        raise ConfigError(f"{group}={name}: has no value for {', '.join(sorted(missing))}: choose it alone, with them")
    return node
