"""What a study runs: its parts, each a grid of settings of train.py, from a preset or as typed."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mrirecon.build import compose
from mrirecon.errors import ConfigError
from mrirecon.option_lists import CONF, is_group, nearest, no_option

Value = str | int | float | bool | None
Axes = dict[str, Sequence[Value]]

LR, LR_FACTOR, REG_WEIGHT = "lr", "lr_factor", "model.reg_weight"
_LOG = re.compile(r"log\(\s*([^,()]+),\s*([^,()]+),\s*(\d+)\s*\)")
_COUNTS = ("seeds", "lr_seeds", "budget")
_PART_KEYS = {"title", "question", "about", "settings", "axes", "baselines", *_COUNTS}
_PRESET_KEYS = {"title", "about", "settings", "parts", *_COUNTS}
# Of every training: nothing is kept but its curves.
_QUIET = (
    "callbacks=study", "trainer.enable_checkpointing=false", "trainer.enable_progress_bar=false",
    "trainer.num_sanity_val_steps=0", "trainer.log_every_n_steps=1", "hydra/hydra_logging=disabled",
    "hydra.job_logging.root.level=WARNING", "hydra.job.name=study",
)  # fmt: skip
_DIGITS = 3  # of a learning rate on a grid: as many as one types


class Part(NamedTuple):
    """A grid of trainings and what is asked of it.

    question: which of `findings.FINDERS` puts the answer into words. settings: overrides of train.py, the same in every
    cell. axes: what is varied, every combination of it; `lr` stands for optimizer.lr, `lr_factor` for multiples of each
    optimizer's own. seeds: runs of each combination, seed 0, 1, ... lr_seeds: as many of them are run of every learning
    rate, the others of the best one alone. budget: passes over the training data. baselines: axes of models
    that need no training, scored once.
    """

    name: str
    title: str
    question: str
    about: str
    settings: tuple[str, ...]
    axes: Axes
    seeds: int
    lr_seeds: int
    budget: int
    baselines: Axes


class Cell(NamedTuple):
    """One training: values of the axes and a seed. folder: below that of the study."""

    part: str
    axes: dict[str, Value]
    seed: int
    folder: str


class Study(NamedTuple):
    """A named set of parts."""

    name: str
    title: str
    about: str
    output: Path
    reach: float | None
    parts: tuple[Part, ...]
    launch: tuple[str, ...]  # overrides of Hydra itself


def read_study(typed: Sequence[str]) -> Study:
    """The study of a command line: `study=PRESET`, or axes as `optimizer=[sgd,adam] lr=log(1e-4,1e1,6)`, or both.

    A list is an axis, any other value a setting of every cell; so is a list where the key has one anyway. Beside a
    preset an axis takes the place of the preset's own. Raises ConfigError naming what cannot be used.
    """
    own, axes, settings, launch = _sort(typed)
    defaults = _load(CONF / "study.yaml")
    keys = {**defaults, **own}
    name, reach = keys["study"] or "custom", keys["reach"]
    if reach is not None and not (isinstance(reach, float) and 0 < reach < 1):
        raise ConfigError(f"reach={reach}: expected an SSIM between 0 and 1, or null for one chosen from the results")
    if keys["study"] is None:
        preset = _typed_preset(axes)
    else:
        preset = _preset(name)
        _replace_axes(preset, axes)
    parts = tuple(
        _part(part, node, preset, [own, node, preset, defaults], settings) for part, node in preset["parts"].items()
    )
    output = Path(str(keys["output"] or f"outputs/study/{name}"))
    return Study(str(name), preset["title"], preset.get("about", ""), output, reach, parts, tuple(launch))


def _typed_preset(axes: Axes) -> dict[str, Any]:
    if not axes:
        raise ConfigError(f"study: give study={'|'.join(presets())}, or something to vary, as optimizer=[sgd,adam]")
    return {"title": " x ".join(axes), "parts": {"study": {"title": "All of it", "axes": axes}}}


def _load(path: Path) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def presets() -> list[str]:
    """The names in conf/study."""
    return sorted(path.stem for path in (CONF / "study").glob("*.yaml"))


def _preset(name: str) -> dict[str, Any]:
    problem = no_option("study", name)
    if problem:
        raise ConfigError(problem)
    preset = _load(CONF / "study" / f"{name}.yaml")
    for node, known in [(preset, _PRESET_KEYS), *((part, _PART_KEYS) for part in preset["parts"].values())]:
        if set(node) - known:
            raise ConfigError(f"conf/study/{name}.yaml: {', '.join(sorted(set(node) - known))}: there is no such key")
    return preset


def _sort(typed: Sequence[str]) -> tuple[dict[str, Any], Axes, list[str], list[str]]:
    """Own keys, axes, settings of train.py, overrides of Hydra."""
    known = [str(key) for key in OmegaConf.load(CONF / "study.yaml")]
    own: dict[str, Any] = {}
    axes: Axes = {}
    settings, launch = [], []
    for argument in typed:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument}: expected key=value{nearest(argument, known)}")
        value = _value(key, text)
        if key.startswith("hydra"):
            launch.append(argument)
        elif key in known and key not in (LR, LR_FACTOR):
            own[key] = value
        elif isinstance(value, list) or key in (LR, LR_FACTOR):
            axes[key] = value if isinstance(value, list) else [value]
        else:
            settings.append(argument)
    for key in [key for key in axes if "." in key and _is_list(key, settings)]:
        settings.append(f"{key}={axes.pop(key)}")
    return own, axes, settings, launch


def _is_list(key: str, settings: Sequence[str]) -> bool:
    """Whether a key of train.py has a list for its value, as `optimizer.betas`."""
    chosen = [setting for setting in settings if is_group(setting.partition("=")[0])]
    return isinstance(OmegaConf.select(compose("train", chosen), key), ListConfig)


def _value(key: str, text: str) -> Any:
    """A typed value.  `log(1e-4,1e1,6)` -> six numbers, `[a,b]` -> a list"""
    if (found := _LOG.fullmatch(text.strip())) is not None:
        return _log_grid(key, text, *found.groups())
    try:
        value = OmegaConf.from_dotlist([f"x={text}"]).x
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{key}={text}: cannot be read: {str(error).splitlines()[0]}") from error
    return OmegaConf.to_container(value) if isinstance(value, ListConfig | DictConfig) else value


def _log_grid(key: str, text: str, low: str, high: str, num: str) -> list[float]:
    try:
        first, last, count = float(low), float(high), int(num)
    except ValueError as error:
        raise ConfigError(f"{key}={text}: expected log(FIRST,LAST,HOW MANY), as log(1e-4,1e1,6)") from error
    if not 0 < first < last < math.inf or count < 2:
        raise ConfigError(f"{key}={text}: expected 0 < first < last and at least two values")
    ratio = (math.log(last) - math.log(first)) / (count - 1)
    return [float(f"{math.exp(math.log(first) + ratio * i):.{_DIGITS}g}") for i in range(count)]


def _replace_axes(preset: Mapping[str, Any], axes: Axes) -> None:
    for key, values in axes.items():
        parts = [part for part in preset["parts"].values() if key in (part.get("axes") or {})]
        if not parts:
            raise ConfigError(f"{key}: no part of this preset varies it; leave study= out to make a study of your own")
        for part in parts:
            part["axes"][key] = values


def _part(
    name: str,
    node: Mapping[str, Any],
    preset: Mapping[str, Any],
    counts: Sequence[Mapping[str, Any]],
    typed: Sequence[str],
) -> Part:
    """counts: where to look for `seeds` and `budget`, the first that has them."""
    seeds, lr_seeds, budget = (_count(key, next(each[key] for each in counts if key in each)) for key in _COUNTS)
    assert seeds is not None
    assert budget is not None
    axes, baselines = (
        {key: _axis(key, values) for key, values in (node.get(kind) or {}).items()} for kind in ("axes", "baselines")
    )
    if LR in axes and LR_FACTOR in axes:
        raise ConfigError("lr and lr_factor: the one gives learning rates, the other multiples of them: give one")
    settings = _later_wins([*(preset.get("settings") or []), *(node.get("settings") or []), *typed])
    varied = [_key(axis) for axis in axes]
    kept = tuple(setting for setting in settings if setting.partition("=")[0] not in varied)
    question, about = str(node.get("question") or ""), str(node.get("about") or "")
    few = min(seeds, lr_seeds or seeds)
    return Part(name, str(node.get("title", name)), question, about, kept, axes, seeds, few, budget, baselines)


def _count(key: str, value: Any) -> int | None:
    if value is None and key == "lr_seeds":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key}={value}: expected a whole number of at least 1")
    return value


def _later_wins(settings: Sequence[str]) -> list[str]:
    return list({setting.partition("=")[0]: setting for setting in map(str, settings)}.values())


def _axis(key: str, values: Any) -> Sequence[Value]:
    values = _value(key, values) if isinstance(values, str) else values
    values = values if isinstance(values, list) else [values]
    for value in values:
        if isinstance(value, list | dict) or "/" in str(value):
            raise ConfigError(f"{key}={values}: expected names or numbers: the folders of the cells are called by them")
        problem = no_option(key, value) if is_group(key) else ""
        if problem:
            raise ConfigError(problem)
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"{key}={values}: expected each value once, and at least one")
    if key in (LR, LR_FACTOR) and not all(isinstance(value, int | float) and value > 0 for value in values):
        raise ConfigError(f"{key}={values}: expected positive numbers, or log(FIRST,LAST,HOW MANY)")
    return values


def _key(axis: str) -> str:
    """What train.py calls an axis."""
    return "optimizer.lr" if axis in (LR, LR_FACTOR) else axis


class Grid(NamedTuple):
    """One multirun: all combinations of its axes."""

    part: Part
    axes: Axes  # without lr_factor: it is a learning rate by now
    seeds: Sequence[int]

    def cells(self) -> Iterator[Cell]:
        """In the order they are run: every combination with the first seed, then with the next."""
        for seed in self.seeds:
            for values in itertools.product(*self.axes.values()):
                axes = dict(zip(self.axes, values, strict=True))
                name = "_".join([*map(_text, values), f"seed{seed}"])
                yield Cell(self.part.name, axes, seed, f"{self.part.name}/{name}")

    @property
    def settings(self) -> list[str]:
        """Those of its part; a baseline has another model, without the settings of the part's."""
        if "model" not in self.axes:
            return [*self.part.settings]
        return [setting for setting in self.part.settings if not setting.startswith("model")]

    def overrides(self, output: Path) -> list[str]:
        """What Hydra is told, for the cells and their folders."""
        swept = [f"{_key(axis)}={','.join(map(_text, values))}" for axis, values in self.axes.items()]
        names = [f"${{hydra:runtime.choices.{axis}}}" if is_group(axis) else f"${{{_key(axis)}}}" for axis in self.axes]
        return [
            *_QUIET,
            f"seed={','.join(map(str, self.seeds))}",
            *self.settings,
            *swept,
            f"trainer.max_epochs={self.part.budget}",
            f"hydra.sweep.dir='{(output / self.part.name).as_posix()}'",
            f"hydra.sweep.subdir={'_'.join([*names, 'seed${seed}'])}",
        ]


def _text(value: Value) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def grids(part: Part, default_lr: Mapping[str, float]) -> list[Grid]:
    """The first multiruns of a part: one, or one for each optimizer where learning rates are multiples of its own.

    default_lr: of each optimizer that the part uses with `lr_factor`.
    """
    found = [Grid(part, part.baselines, range(1))] if part.baselines else []
    if LR_FACTOR not in part.axes:
        return [*found, Grid(part, part.axes, range(part.lr_seeds))]
    for name, lr in default_lr.items():
        rates = [float(f"{lr * float(factor or 0):.{_DIGITS}g}") for factor in part.axes[LR_FACTOR]]
        rest = {key: values for key, values in part.axes.items() if key not in (LR_FACTOR, "optimizer")}
        found.append(Grid(part, {"optimizer": [name], **rest, LR: rates}, range(part.lr_seeds)))
    return found


def more_seeds(part: Part, best: Sequence[Mapping[str, Value]]) -> list[Grid]:
    """The multiruns that follow: the remaining seeds of the best settings, given by the values of their axes."""
    seeds = range(part.lr_seeds, part.seeds)
    trained = [axes for axes in best if "model" not in axes]
    return [Grid(part, {key: [value] for key, value in axes.items()}, seeds) for axes in trained] if seeds else []


def optimizers_of(part: Part) -> list[str]:
    """The optimizers a part uses; of one that names none, train.py's own."""
    if "optimizer" in part.axes:
        return [str(name) for name in part.axes["optimizer"]]
    chosen = [setting.partition("=")[2] for setting in part.settings if setting.startswith("optimizer=")]
    if chosen:
        return chosen[-1:]
    defaults = OmegaConf.load(CONF / "train.yaml").defaults
    return [str(entry.optimizer) for entry in defaults if isinstance(entry, DictConfig) and "optimizer" in entry]
