"""Parses a study from the command line, optionally on top of a preset of conf/study."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mrirecon.apps.study.plan import LR, LR_FACTOR, LR_KEY, Axes, Part, Study, Value, axis_key
from mrirecon.config.compose import compose
from mrirecon.config.grammar import typed_value
from mrirecon.config.options import CONF, is_group, nearest, no_option, options_of, take_config_dir
from mrirecon.errors import ConfigError

_COUNTS = ("seeds", "lr_seeds", "budget")
_PART_KEYS = {"title", "question", "about", "settings", "axes", "baselines", *_COUNTS}
_PRESET_KEYS = {"title", "about", "settings", "parts", *_COUNTS}
# Keys of train.py that a study sets itself -> what to type instead.
_TAKEN = {
    "seed": "seeds=N", "trainer.max_epochs": "budget=N", "trainer.max_steps": "budget=N", "run_dir": "output=DIR",
    "hydra.run.dir": "output=DIR", "hydra.sweep.dir": "output=DIR", "hydra.sweep.subdir": "output=DIR",
    "ckpt": "nothing: every training starts anew", "split": "nothing: the validation set is scored",
    "callbacks": "callbacks/averaging=... and its neighbours",
}  # fmt: skip
_TYPED_ONLY = re.compile(r"[+~]*(trust|hydra)\b|-")


def read_study(typed: Sequence[str]) -> Study:
    """Study of a command line: `study=PRESET`, or axes as `optimizer=[sgd,adam] lr=log(1e-4,1e1,6)`, or both.

    A list is an axis; any other value, and a list for a key that holds a list, is a setting of every cell. A typed axis
    replaces the preset's axis. Raises ConfigError naming an invalid argument.
    """
    flags, typed = take_config_dir(typed)
    own, axes, settings, launch = _sort(typed)
    defaults = _load(CONF / "study.yaml")
    keys = {**defaults, **own}
    name, reach = keys["study"] or "custom", keys["reach"]
    if reach is not None and not (isinstance(reach, float) and 0 < reach < 1):
        raise ConfigError(f"reach={reach}: expected an SSIM between 0 and 1, or null for one chosen from the results")
    preset = _typed_preset(axes) if keys["study"] is None else _replaced(_preset(name), axes, settings)
    parts = tuple(
        _part(part, node, preset, [own, node, preset, defaults], settings) for part, node in preset["parts"].items()
    )
    output = Path(str(keys["output"] or f"outputs/study/{name}"))
    return Study(preset["title"], preset.get("about", ""), output, reach, parts, (*flags, *launch))


def _typed_preset(axes: Axes) -> dict[str, Any]:
    if not axes:
        raise ConfigError(f"study: give study={'|'.join(presets())}, or something to vary, as optimizer=[sgd,adam]")
    return {"title": " x ".join(axes), "parts": {"study": {"title": "All of it", "axes": axes}}}


def _load(path: Path) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def presets() -> list[str]:
    """Names of the presets in conf/study, and in the folder of `--config-dir`."""
    return sorted(options_of("study"))


def _preset(name: str) -> dict[str, Any]:
    problem = no_option("study", name)
    if problem:
        raise ConfigError(problem)
    preset = _load(options_of("study")[name])
    for node, known in [(preset, _PRESET_KEYS), *((part, _PART_KEYS) for part in preset["parts"].values())]:
        if set(node) - known:
            raise ConfigError(f"conf/study/{name}.yaml: {', '.join(sorted(set(node) - known))}: there is no such key")
        for text in map(str, [*node.get("settings", ()), *node.get("axes", ()), *node.get("baselines", ())]):
            if _TYPED_ONLY.match(text):
                raise ConfigError(f"conf/study/{name}.yaml: {text}: a file may not set it, only the command line")
    return preset


def _sort(typed: Sequence[str]) -> tuple[dict[str, Any], Axes, list[str], list[str]]:
    """Sorts arguments into own keys, axes, settings of train.py and overrides of Hydra."""
    known = [str(key) for key in OmegaConf.load(CONF / "study.yaml")]
    own: dict[str, Any] = {}
    axes: Axes = {}
    settings, launch = [], []
    for argument in typed:
        key, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument}: expected key=value{nearest(argument, known)}")
        if key in _TAKEN:
            raise ConfigError(f"{key}: a study sets it itself: give {_TAKEN[key]}")
        key, value = (LR if key == LR_KEY else key), typed_value(key, text)
        if key.startswith("hydra"):
            launch.append(argument)
        elif key in known and key not in (LR, LR_FACTOR):
            own[key] = value
        elif key != "trust" and (isinstance(value, list) or key in (LR, LR_FACTOR)):
            axes[key] = value if isinstance(value, list) else [value]
        else:
            settings.append(argument)
    for key in [key for key in axes if "." in key and _is_list(key, settings)]:
        settings.append(f"{key}={axes.pop(key)}")
    return own, axes, settings, launch


def _is_list(key: str, settings: Sequence[str]) -> bool:
    """Whether the value of a key of train.py is a list, as for `optimizer.betas`."""
    chosen = [setting for setting in settings if is_group(setting.partition("=")[0])]
    try:
        return isinstance(OmegaConf.select(compose("train", chosen), key), ListConfig)
    except (HydraException, OmegaConfBaseException):  # reported when the whole config is composed
        return False


def _replaced(preset: dict[str, Any], axes: Axes, settings: Sequence[str]) -> dict[str, Any]:
    """The preset with typed values on its axes. Raises ConfigError for settings that contradict one of its parts."""
    for key, values in axes.items():
        parts = [part for part in preset["parts"].values() if key in (part.get("axes") or {})]
        if not parts:
            raise ConfigError(f"{key}: no part of this preset varies it; leave study= out to make a study of your own")
        for part in parts:
            part["axes"][key] = values
            if key not in (LR, LR_FACTOR):  # its question and text refer to the preset's values
                part.pop("question", None)
                part.pop("about", None)
    for name, part in preset["parts"].items():
        fixed = [str(setting).partition("=")[0] for setting in part.get("settings") or ()]
        for key in (setting.partition("=")[0] for setting in settings):
            if key in fixed or key in (part.get("axes") or {}):
                raise ConfigError(
                    f"{key}: is what the part {name} of this preset is about; leave study= out for a study of your own"
                )
    return preset


def _part(
    name: str,
    node: Mapping[str, Any],
    preset: Mapping[str, Any],
    counts: Sequence[Mapping[str, Any]],
    typed: Sequence[str],
) -> Part:
    """One part of a study. counts: mappings searched in order for `seeds`, `lr_seeds` and `budget`."""
    seeds, lr_seeds, budget = (_count(key, next(each[key] for each in counts if key in each)) for key in _COUNTS)
    assert seeds is not None
    assert budget is not None
    axes, baselines = (
        {key: _axis(key, values) for key, values in (node.get(kind) or {}).items()} for kind in ("axes", "baselines")
    )
    if LR in axes and LR_FACTOR in axes:
        raise ConfigError("lr and lr_factor: the one gives learning rates, the other multiples of them: give one")
    settings = _later_wins([*(preset.get("settings") or []), *(node.get("settings") or []), *typed])
    varied = [axis_key(axis) for axis in axes]
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
    values = typed_value(key, values) if isinstance(values, str) else values
    values = values if isinstance(values, list) else [values]
    for value in values:
        if isinstance(value, list | dict) or re.search(r"[/,=$']", str(value)):
            raise ConfigError(f"{key}={values}: expected names or numbers: they name the folders of the cells")
        problem = no_option(key, value) if is_group(key) else ""
        if problem:
            raise ConfigError(problem)
    if not values or len(set(map(str, values))) < len(values):
        raise ConfigError(f"{key}={values}: expected each value once, and at least one")
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if key in (LR, LR_FACTOR) and (len(numbers) < len(values) or min(numbers) <= 0):
        raise ConfigError(f"{key}={values}: expected positive numbers, or log(FIRST,LAST,HOW MANY)")
    return values
