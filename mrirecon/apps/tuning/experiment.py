"""Writes the best config of a search as an experiment for train."""

import secrets
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mrirecon.apps.tuning.space import Compose, override_key
from mrirecon.config.allowlist import trust_typed
from mrirecon.config.compose import flatten, plain
from mrirecon.config.options import CONF, IS_INSTALLED, is_group, own_folder
from mrirecon.errors import ConfigError
from mrirecon.system.atomic import write_whole
from mrirecon.system.invocation import typed_as


class Experiment:
    """The file `experiment/NAME.yaml` with the best config of a search.

    folder: null is conf/experiment: of `--config-dir` where that was typed, of the clone, or, where mrirecon was
    installed from a wheel, of the working folder. trust: packages that were trusted on the command line. Raises
    ConfigError for a name or folder that Hydra cannot find.
    """

    def __init__(self, folder: str | None, name: str, trust: Sequence[str] = ()) -> None:
        own = own_folder()
        conf = own or (Path("conf").absolute() if IS_INSTALLED else CONF)
        self.folder = conf / "experiment" if folder is None else Path(folder).resolve()
        self.name, self._mark, self._trust = name, "", trust
        if own is not None and self.folder.parent.resolve() != own.resolve():
            raise ConfigError(f"experiment_dir={folder}: expected {own / 'experiment'}, as --config-dir was typed")
        if self.folder.name != "experiment":
            raise ConfigError(
                f"experiment_dir={folder}: expected a folder called experiment, where Hydra looks for experiment={name}"
            )
        if not name.replace("-", "_").isidentifier():
            raise ConfigError(f"name={name}: expected only letters, digits, - and _")

    def claim(self, search: str) -> None:
        """Sets the search the file belongs to. Raises ConfigError where the file exists and is not of this search."""
        self._mark = f"# search {search}"
        if self.folder != CONF / "experiment" and (CONF / "experiment" / self.path.name).exists():
            raise ConfigError(f"name={self.name}: is the name of an experiment of this project: give another name=NAME")
        if self.path.exists() and self._mark not in self.path.read_text().splitlines():
            raise ConfigError(f"name={self.name}: {self.path} is there and not of this search: give another name=NAME")

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.folder / f"{self.name}.yaml"

    @property
    def command(self) -> str:
        """Command line that trains with it."""
        conf = self.folder.parent
        elsewhere = "" if conf == CONF else f" --config-dir {shlex.quote(str(conf))}"
        return f"{typed_as('train')}{elsewhere} experiment={self.name}{trust_typed(self._trust)}"

    def write(self, overrides: Sequence[str], cfg: DictConfig, compose: Compose, remarks: Sequence[str]) -> None:
        """Writes the file. Raises ConfigError where train would not compose exactly `cfg` from it.

        overrides: typed and found overrides, which give `cfg` over the defaults. remarks: lines of the comment.
        """
        comment = [" ".join(line.splitlines()) for line in (*remarks, self.command)]
        text = "\n".join(["# @package _global_", self._mark, *(f"# {line}" for line in comment)])
        text += "\n" + experiment_yaml(overrides, cfg)
        self._check(text, cfg, compose)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text)
        except PermissionError as error:
            raise ConfigError(f"experiment_dir={self.folder}: is not writable: choose another folder") from error

    def _check(self, text: str, cfg: DictConfig, compose: Compose) -> None:
        """Composes the text as train would, under a unique name. Raises ConfigError unless it gives `cfg`."""
        with tempfile.TemporaryDirectory() as folder:
            name = f"check_{secrets.token_hex(8)}"
            (Path(folder) / "experiment").mkdir()
            (Path(folder) / "experiment" / f"{name}.yaml").write_text(text)
            made = compose([f"experiment={name}", f"hydra.searchpath=[file://{folder}]"]).cfg
        then, now = _settings(cfg), _settings(made)
        for key in sorted({*then, *now}):
            if then.get(key) != now.get(key):
                raise ConfigError(
                    f"{key}: the search has {then.get(key)}, but an experiment with the same overrides gives "
                    f"{now.get(key)}: set {key} without + or ~, or in a config of its own"
                )


def experiment_yaml(overrides: Sequence[str], cfg: DictConfig) -> str:
    """Body of an experiment: group choices as a defaults list, keys with their values in `cfg`.

    ["optimizer=sgd", "optimizer.lr=0.1"] -> defaults: [override /optimizer: sgd], optimizer: {lr: 0.1}
    """
    above: list[Any] = []
    chosen: list[dict[str, Any]] = []
    keys = OmegaConf.create({})
    for override in overrides:
        key, value = override_key(override), override.partition("=")[2]
        if key == "experiment":
            above = [value, "_self_"]
        elif is_group(key):
            gone = override.startswith("~") or value == "null"
            chosen.append({f"override /{key}": None if gone else value})
        elif key != "trust" and not key.startswith("hydra"):  # a file may not set these
            OmegaConf.update(keys, key, _raw(cfg, key))
    defaults = {"defaults": [*above, *chosen]} if above or chosen else {}
    return "".join(OmegaConf.to_yaml(OmegaConf.create(part)) for part in (defaults, keys) if part)


def _raw(cfg: DictConfig, key: str) -> Any:
    """Value of a key without resolving interpolations."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.to_container(OmegaConf.select(cfg, parent) if parent else cfg, resolve=False)
    assert isinstance(node, dict)
    return node[name]


def _settings(cfg: DictConfig) -> dict[str, Any]:
    own = {"run_dir": ".", "trust": None}  # each run's, each command line's
    return flatten(plain(OmegaConf.merge(cfg, own)))  # type: ignore[arg-type]
