"""Runs a function with the config that was typed: composed by Hydra, with the groups of a checkpoint as plain data.

A checkpoint's config may come from anybody, so it takes no part in Hydra's composition: the command's own config is
composed first, the checkpoint's groups are put into it as plain data, and what was typed for them is applied last.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from mrirecon.config.allowlist import check_foreign, check_targets
from mrirecon.config.compose import compose, plain
from mrirecon.config.options import CONF, options_of, spell_lists, take_config_dir
from mrirecon.config.overrides import apply, check_types, chosen_groups, is_override, parse, without_null
from mrirecon.config.places import check_places
from mrirecon.errors import ConfigError
from mrirecon.system.invocation import arguments, with_arguments

# In a multirun, a key of a group that comes from the checkpoint: Hydra has no such key, but has to vary it.
_VARIED = "++from_checkpoint."

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """What was typed, and what a checkpoint adds to it."""

    config_name: str
    typed: list[str]  # all arguments
    passed: list[str] = field(default_factory=list)  # those for Hydra
    withheld: list[str] = field(default_factory=list)  # overrides of keys that the checkpoint's groups have
    groups: dict[str, Any] = field(default_factory=dict)  # of the checkpoint, plain data


def read_request(config_name: str, keys: Sequence[str], config_of: Callable[[str], Config]) -> Request:
    """Reads the command line.

    keys: groups and keys that `ckpt=` brings with it, unless they are chosen. config_of: the config of a checkpoint.
    Raises ConfigError for what cannot be typed, and what `check_foreign`, `check_places` and `config_of` raise.
    """
    flags, others = take_config_dir(arguments())
    others = spell_lists(others, config_name)
    texts = [argument for argument in others if is_override(argument)]
    overrides = dict(zip(texts, parse(texts), strict=True))
    given = {override.key_or_group: override for override in overrides.values()}
    ckpt = given["ckpt"].value() if "ckpt" in given and keys else None
    groups: dict[str, Any] = {}
    trust = _trusted(given.get("trust"))
    if ckpt is not None:
        config = config_of(str(ckpt))
        wanted = [key for key in keys if key not in given and config.get(key) is not None]
        groups = {key: check_foreign(config[key], key, trust) for key in wanted}
        check_places(groups, given)
    varies = bool({"-m", "--multirun"} & {*others})
    passed, withheld = [*flags], []  # flags first: argparse takes values before or behind them, not both
    for argument in others:
        override = overrides.get(argument)
        if override is None or override.key_or_group.partition(".")[0] not in groups:
            passed.append(without_null(argument))
            continue
        if override.is_sweep_override():
            if not varies:
                raise ConfigError(f"{argument}: is several values: quote a text with a comma, or add -m to run each")
            passed.append(_VARIED + argument.lstrip("+"))
        else:
            withheld.append(argument)
    return Request(config_name, [*flags, *others], passed, withheld, groups)


def run(request: Request, story: Callable[[DictConfig], None]) -> None:
    """Calls the story with the config, once or for each job of a multirun, where and how Hydra says.

    Raises what Hydra raises for a config that cannot be composed.
    """
    whole = with_arguments(request.typed)

    def job(cfg: DictConfig) -> None:
        sys.argv = whole  # other ranks are started with it
        story(cfg)

    if request.groups and _shows_config(request.passed):
        print(OmegaConf.to_yaml(_shown(request)), end="")
        return
    sys.argv = [sys.argv[0], *request.passed]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=request.config_name)(job)()


def checked(request: Request, cfg: DictConfig) -> DictConfig:
    """The config of a job, with the checkpoint's groups and everything that was typed.

    Raises ConfigError for an unknown key, a value of another type, or a part that is not allowed.
    """
    task = list(HydraConfig.get().overrides.task)
    varied = [text.removeprefix(_VARIED) for text in task if text.startswith(_VARIED)]
    typed = [text for text in task if not text.startswith(_VARIED)] + request.withheld + varied
    if request.groups:
        with open_dict(cfg):
            cfg.pop("from_checkpoint", None)
        _merge(cfg, request.groups)
        for override in parse([*request.withheld, *varied]):
            apply(cfg, override)
        _rewrite_record(cfg, typed)
    trust = _trusted(next((o for o in reversed(parse(typed)) if o.key_or_group == "trust"), None))
    found = cfg.get("trust")
    if (OmegaConf.to_container(found) if isinstance(found, ListConfig) else found or []) != trust:
        raise ConfigError(f"trust={found}: a file sets it, but only the command line may: type trust=[PACKAGE]")
    base = compose(request.config_name, chosen_groups(t for t in task if not t.startswith(_VARIED)))
    _merge(base, request.groups)
    check_types(base, cfg, typed)
    if trust and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a package of one's own lies there, or is installed
    check_targets(plain(cfg), trust=trust)
    return cfg


def _merge(cfg: DictConfig, groups: Mapping[str, Any]) -> None:
    """Puts the groups into a config, below what an experiment says of them."""
    for key, value in groups.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    experiment = choices.get("experiment") if groups else None
    if experiment is not None:
        content = OmegaConf.load(options_of("experiment")[experiment])
        for key in set(content) & set(groups):
            OmegaConf.update(cfg, str(key), content[key], merge=True, force_add=True)


def _trusted(override: Override | None) -> list[str]:
    """The packages that `trust=[a,b]` names.  Raises ConfigError for what cannot be the name of a package."""
    if override is None:
        return []
    names = override.value()
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ConfigError(f"{override.input_line}: expected names of packages, as in trust=[mypackage]")
    return list(map(str, names))


def _shows_config(passed: Sequence[str]) -> bool:
    return any(argument in ("--cfg", "-c") or argument.startswith("--cfg=") for argument in passed)


def _shown(request: Request) -> DictConfig:
    cfg = compose(request.config_name, [argument for argument in request.passed if is_override(argument)])
    _merge(cfg, request.groups)
    for override in parse(request.withheld):
        apply(cfg, override)
    return cfg


def _rewrite_record(cfg: DictConfig, typed: Sequence[str]) -> None:
    """Hydra wrote the record of the run before the checkpoint's groups were in its config."""
    for folder in _record_folders():
        OmegaConf.save(cfg, folder / "config.yaml")
        OmegaConf.save(OmegaConf.create(list(typed)), folder / "overrides.yaml")


def _record_folders() -> Iterator[Path]:
    settings = HydraConfig.get()
    if settings.output_subdir is not None:
        folder = Path(settings.runtime.output_dir) / settings.output_subdir
        if folder.is_dir():
            yield folder
