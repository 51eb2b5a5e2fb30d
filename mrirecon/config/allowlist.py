"""The allowlist of targets: what a config may name, checked before anything is imported or called for it."""

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

import yaml

from mrirecon.config.options import CONF, is_group
from mrirecon.errors import ConfigError, InputError

# Parts of other packages that a group may name, besides this project's own that the files of conf/ name.
_FOREIGN = {
    "optimizer": r"torch\.optim\.[A-Z]\w+|schedulefree\.(?:SGD|AdamW|RAdam)ScheduleFree|prodigyopt\.Prodigy"
    r"|pytorch_optimizer\.(?:Lion|SOAP)",
    "mask": r"fastmri\.data\.subsample\.(?:[A-Z]\w+MaskFunc|\w+FractionFunc)",
    "trainer": r"pytorch_lightning\.Trainer",
    "callbacks": r"pytorch_lightning\.callbacks\.[A-Z]\w+",
    "logger": r"pytorch_lightning\.loggers\.TensorBoardLogger",
}
_TARGET = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
# A checkpoint's config: plain names as keys, and of Hydra's own keys these alone.
_KEY = re.compile(r"[A-Za-z]\w*")
_KEYS_OF_HYDRA = ("_target_", "_partial_", "_convert_")
_NO_KEYS = ("defaults", "hydra")
_MAX_DEPTH = 16
_MAX_ENTRIES = 10_000  # of a group; normally some dozens
_NUMBERS = ("seed", "target_clamp")  # no groups
# In a terminal these can do anything; half a surrogate pair cannot be written at all.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_targets(node: Any, key: str = "", trust: Collection[str] = ()) -> None:
    """Raises ConfigError for the first `_target_` that its group may not name, before anything is called.

    key: the place of the node in the config; its first name is the group. trust: packages named on the command line,
    whose parts are allowed in every group.
    """
    if isinstance(node, dict):
        if "_target_" in node:
            _check_target(node["_target_"], key, trust)
        for name, child in node.items():
            check_targets(child, f"{key}.{name}" if key else str(name), trust)
    elif isinstance(node, list):
        for number, child in enumerate(node):
            check_targets(child, f"{key}[{number}]", trust)


def _check_target(target: Any, key: str, trust: Collection[str]) -> None:
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        raise ConfigError(f"{key}._target_={target!r} is refused: expected the dotted name of a part, such as a class")
    group, package = _group(key), target.partition(".")[0]
    if package in trust or _is_allowed(target, group):
        return
    if package == "mrirecon":
        raise ConfigError(
            f"{key}._target_={target!r} is refused: no file in conf/{group} names it; if it is a part of an older or "
            "newer mrirecon, use the version that wrote this config"
        )
    if package in ("builtins", "os", "sys", "subprocess", "torch", "hydra", "fastmri", "pytorch_lightning"):
        raise ConfigError(
            f"{key}._target_={target!r} is refused: it is not among the parts that a config may name for {group}"
        )
    raise ConfigError(
        f"{key}._target_={target!r} is refused: {package} is not trusted. If it is your own package, or one whose code "
        f"you trust, add trust=[{','.join([*trust, package])}] to the command line"
    )


def _group(key: str) -> str:
    return re.split(r"[.=\[]", key)[0]


def _is_allowed(target: str, group: str) -> bool:
    return target in _named_in_conf(group) or re.fullmatch(_FOREIGN.get(group, "(?!)"), target) is not None


def packages_to_trust(config: Mapping[str, Any]) -> list[str]:
    """The packages that have to be trusted to build the groups of a config."""
    found = {target for group, node in config.items() for target in _targets(node) if not _is_allowed(target, group)}
    return sorted({target.partition(".")[0] for target in found})


def trust_typed(packages: Collection[str]) -> str:
    """What is typed behind a command to trust packages; nothing where there are none.  ["a"] -> " 'trust=[a]'" """
    names = ",".join(packages)
    return " " + shlex.quote(f"trust=[{names}]") if names else ""


@cache
def _named_in_conf(group: str) -> frozenset[str]:
    """Every target of this project that the options of a group name: other functions can do harm."""
    files = [(path, "") for path in CONF.glob("*.yaml")]
    files += [(path, "") for path in CONF.glob("experiment/*.yaml")]
    files += [(path, group) for path in (CONF / group).rglob("*.yaml") if group]
    found: set[str] = set()
    for path, prefix in files:
        content = yaml.safe_load(path.read_text()) or {}
        node = content if prefix else content.get(group)
        found.update(target for target in _targets(node) if target.startswith("mrirecon."))
    return frozenset(found)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict) and "_target_" in node:
        yield str(node["_target_"])
    for child in _children(node):
        yield from _targets(child)


def check_foreign(node: Any, key: str, trust: Collection[str] = ()) -> Any:
    """The node of a checkpoint's config, which may come from anybody, if it is plain data and names allowed parts.

    What this project writes is resolved: it has no interpolations, and of the keys that Hydra reads `_target_`,
    `_partial_` and `_convert_` alone. Nothing is evaluated. Raises InputError for anything else, ConfigError for a
    target that is not allowed, and for a setting of Lightning's trainer that conf/ does not list.
    """
    _check_key(key, "it")
    _check_plain(node, key, 0)
    check_targets(node, key, trust)
    expected: Any = dict if is_group(key) else (int, float) if key in _NUMBERS else object
    if not (node is None or isinstance(node, expected)):
        raise _foreign(key, f"is a {type(node).__name__}")
    if key == "trainer":
        _check_trainer(node or {})
    return node


def check_size(config: dict[Any, Any]) -> None:
    """Raises InputError for a part of a checkpoint's config that cannot be looked through, as one that holds itself."""
    for key, node in config.items():
        level, num_entries = [node], 0
        for _ in range(2 * _MAX_DEPTH):
            level = list(islice((child for parent in level for child in _children(parent)), _MAX_ENTRIES + 1))
            num_entries += len(level)
            if num_entries > _MAX_ENTRIES:
                raise _foreign(str(key)[:60], f"has more than {_MAX_ENTRIES} entries")
        if level:
            raise _foreign(str(key)[:60], "is nested too deeply")


def _children(node: Any) -> Collection[Any]:
    return node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _check_trainer(node: dict[str, Any]) -> None:
    """Of Lightning's other settings some name folders, and some load code."""
    known = _settings("trainer")
    for name, child in node.items():
        if name not in known or any(_targets(child)):
            raise ConfigError(
                f"trainer.{name}: the checkpoint's config sets it, but only the command line may: "
                f"choose trainer=auto, and add what you want of it as +trainer.{name}=..."
            )


@cache
def _settings(group: str) -> frozenset[str]:
    """Every key that the options of a group list."""
    return frozenset(key for path in (CONF / group).glob("*.yaml") for key in yaml.safe_load(path.read_text()))


def _check_key(name: Any, key: str) -> None:
    sound = isinstance(name, str) and (_KEY.fullmatch(name) or name in _KEYS_OF_HYDRA) and name not in _NO_KEYS
    if not sound:
        raise _foreign(key, f"has the key {str(name)[:60]!r}")


def _check_plain(node: Any, key: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _foreign(key[:60], "is nested too deeply")
    if type(node) is dict:
        for name, child in node.items():
            _check_key(name, key)
            _check_plain(child, f"{key}.{name}", depth + 1)
    elif isinstance(node, list):
        for number, child in enumerate(node):
            _check_plain(child, f"{key}[{number}]", depth + 1)
    elif isinstance(node, str):
        if "${" in node or node == "???":
            raise _foreign(key, "has an interpolation or a missing value")
        if _CONTROL.search(node):
            raise _foreign(key, "has a control character")
    elif type(node) is int:
        if node.bit_length() > 64:
            raise _foreign(key, "has a number of more than 64 bits")
    elif not (node is None or type(node) in (bool, float)):
        raise _foreign(key, f"has a {type(node).__name__}, which is no plain data")


def _foreign(key: str, reason: str) -> InputError:
    return InputError(f"the checkpoint's config is refused: {key} {reason}, which this project never writes")
