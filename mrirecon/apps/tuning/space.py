"""Search space: its dimensions, a check that each value can be set, and drawing of points."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from optuna.trial import BaseTrial

from mrirecon.apps.tuning.grammar import Dimension, parse_dimension
from mrirecon.config.grammar import number_text, typed_value
from mrirecon.config.options import is_group, nearest, no_option, options_of
from mrirecon.config.overrides import key_names
from mrirecon.errors import ConfigError

log = logging.getLogger(__name__)

# Keys that decide what is scored, or for how long: trials that differ in them cannot be compared.
_THE_SAME_FOR_ALL = (
    "data", "mask", "seed", "split", "ckpt", "run_dir", "experiment", "logger", "callbacks", "trainer", "hydra",
)  # fmt: skip
_MAY_DIFFER = (
    "data.batch_size", "data.fixed_masks", "data.sample_rate", "data.volume_sample_rate",
    "trainer.precision", "trainer.accumulate_grad_batches", "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm", "callbacks/averaging", "callbacks/penalty", "callbacks.averaging.",
    "callbacks.penalty.",
)  # fmt: skip


class Composed(NamedTuple):
    """A composed config, and the chosen option of each group."""

    cfg: DictConfig
    choices: Mapping[str, Any]

    def value(self, key: str) -> Any:
        """Value of a key, or chosen option of a group."""
        return self.choices.get(key) if is_group(key) else OmegaConf.select(self.cfg, key)

    def has(self, key: str) -> bool:
        """Whether the key or group exists."""
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(self.cfg, parent) if parent else self.cfg
        return is_group(key) or (isinstance(node, DictConfig) and name in node)


Compose = Callable[[Sequence[str]], Composed]
"""Composes the config of overrides as typed; raises ConfigError for an invalid one."""


@dataclass(frozen=True)
class Space:
    """The search space. default: the point of the default config; None where that lies outside."""

    dimensions: tuple[Dimension, ...]
    default: dict[str, Any] | None

    def draw(self, trial: BaseTrial) -> list[str]:
        """Draws a point, as overrides; no schedule for an optimizer that brings its own."""
        drawn: dict[str, str] = {}
        for dimension in self.dimensions:
            if dimension.key != "scheduler" or not brings_schedule(drawn.get("optimizer")):
                drawn[dimension.key] = _draw(dimension, trial)
        return [f"{key}={value}" for key, value in drawn.items()]


def open_space(texts: Sequence[str], is_typed: bool, fixed: Sequence[str], compose: Compose) -> Space:
    """Search space of the dimensions `texts` over the config with the overrides `fixed`.

    is_typed: whether the user typed the dimensions. Otherwise they are defaults, and inapplicable ones are dropped and
    logged. Raises ConfigError for a dimension that cannot be searched, or an invalid value of it.
    """
    base = compose(fixed)
    found: list[Dimension] = []
    # The optimizer comes first, here and in `draw`: it decides whether there is a schedule to search.
    for dimension in sorted(map(parse_dimension, texts), key=lambda dimension: dimension.key != "optimizer"):
        problem = _problem(dimension, fixed, base, found)
        if problem and is_typed:
            raise ConfigError(f"{dimension}: {problem}")
        if problem:
            log.info("Not searched: %s: %s", dimension.key, problem)
        else:
            found.append(_typed_like(dimension, base.value(dimension.key)))
    if not found:
        raise ConfigError("space: nothing is left to search: type a dimension, such as optimizer.lr=log(1e-4,1e-1)")
    _check_values(found, fixed, compose)
    return Space(tuple(found), _default_point(found, base))


def brings_schedule(optimizer: str | None) -> bool:
    """Whether an option of conf/optimizer sets its own schedule, as schedule-free optimizers do."""
    if optimizer is None:
        return False
    node = OmegaConf.load(options_of("optimizer")[optimizer])
    assert isinstance(node, DictConfig)
    entries = [key for entry in node.get("defaults", ()) if isinstance(entry, DictConfig) for key in entry]
    return any(str(key).startswith("override /scheduler") for key in entries)


def override_key(override: str) -> str:
    """Key or group of an override.  `+a.b=1` -> `a.b`, `~mask` -> `mask`"""
    return override.lstrip("+~").partition("=")[0]


def _problem(dimension: Dimension, fixed: Sequence[str], base: Composed, others: Sequence[Dimension]) -> str:
    """Why a dimension cannot be searched together with others; "" where it can."""
    key = dimension.key
    if key in (other.key for other in others):
        return "is searched twice: give one dimension for it"
    if key in map(override_key, fixed):
        return "is searched and set as well: leave one of the two out"
    if key.replace("/", ".").split(".")[0] in _THE_SAME_FOR_ALL and not key.startswith(_MAY_DIFFER):
        return "is the same in all trials, or their scores would not compare: set it to one value"
    if not base.has(key):
        return f"there is no such key{nearest(key, [*key_names(base.cfg)])}"
    optimizers = next((other.options for other in others if other.key == "optimizer"), (base.choices["optimizer"],))
    if key == "scheduler" and all(map(brings_schedule, optimizers)):
        return f"optimizer {', '.join(optimizers)} brings its own schedule: leave it out, or choose another one"
    if is_group(key):
        return _group_problem(dimension)
    if isinstance(base.value(key), DictConfig):
        return "is a group of keys: search one of its keys"
    return ""


def _group_problem(dimension: Dimension) -> str:
    if dimension.number_range is not None or not dimension.options:
        return f"expected choice(...) of the options of conf/{dimension.key}"
    return next(
        filter(None, (no_option(dimension.key, option) for option in dimension.options if option != "null")), ""
    )


def _typed_like(dimension: Dimension, default: Any) -> Dimension:
    """The dimension, drawing whole numbers where the default of its key is whole."""
    number_range = dimension.number_range
    if number_range is None or isinstance(default, bool) or not isinstance(default, int | float):
        return dimension
    if isinstance(default, int) and not number_range.is_whole:
        raise ConfigError(f"{dimension}: expected whole numbers, like its default {default}")
    return replace(dimension, number_range=replace(number_range, is_whole=isinstance(default, int)))


def _check_values(dimensions: Sequence[Dimension], fixed: Sequence[str], compose: Compose) -> None:
    """Composes the config for each option and range end once, so that invalid values fail before the search."""
    first = {dimension.key: dimension.edges()[0] for dimension in dimensions}
    points = [first, *({**first, d.key: edge} for d in dimensions for edge in d.edges()[1:])]
    for point in points:
        compose([*fixed, *(f"{key}={value}" for key, value in point.items())])


def _default_point(dimensions: Sequence[Dimension], base: Composed) -> dict[str, Any] | None:
    """Optuna's parameters of the default config; None, with a log message, where it lies outside the space."""
    point: dict[str, Any] = {}
    for dimension in dimensions:
        value = base.value(dimension.key)
        if dimension.key == "scheduler" and brings_schedule(point.get("optimizer")):
            continue
        params = _params(dimension, value)
        if params is None:
            log.info(
                "The default %s=%s lies outside %s, but is tried first",
                dimension.key,
                value,
                dimension.text,
            )
            return None
        point |= params
    return point


def _params(dimension: Dimension, value: Any) -> dict[str, Any] | None:
    """Optuna's parameters of one dimension for a value; None where the dimension does not include it."""
    for option in dimension.options:
        if option == str(value) or typed_value(dimension.key, option) == value:
            return {dimension.key: option}
    if dimension.number_range is None or not dimension.number_range.contains(value):
        return None
    if not dimension.options:
        return {dimension.key: value}
    return {dimension.key: _range_option(dimension), _inner_name(dimension): value}


def _draw(dimension: Dimension, trial: BaseTrial) -> str:
    name, number_range = dimension.key, dimension.number_range
    if dimension.options:
        option = str(trial.suggest_categorical(name, dimension.options))
        if number_range is None or option != _range_option(dimension):
            return option
        name = _inner_name(dimension)
    assert number_range is not None
    low, high, step = number_range.low, number_range.high, number_range.step
    if number_range.is_whole:
        return str(trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=number_range.is_log))
    return number_text(trial.suggest_float(name, low, high, step=step, log=number_range.is_log))


def _range_option(dimension: Dimension) -> str:
    return next(option for option in dimension.options if option.endswith(")"))


def _inner_name(dimension: Dimension) -> str:
    return f"{dimension.key} in {_range_option(dimension)}"
