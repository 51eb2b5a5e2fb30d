"""Checks that a run continued from a checkpoint keeps the settings of that run."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mrirecon.config.compose import flatten
from mrirecon.errors import ConfigError, InputError
from mrirecon.inference.checkpoints import read_checkpoint
from mrirecon.inference.export import is_exported

# Prefixes of settings that must not change.
_MUST_STAY = (
    "seed", "target_clamp", "data.", "mask.", "augmentation.", "splitting.", "model.", "loss.", "optimizer.",
    "scheduler.", "trainer.precision", "trainer.accumulate_grad_batches", "trainer.gradient_clip",
    "trainer.limit_train_batches", "trainer.overfit_batches", "trainer.devices", "trainer.num_nodes",
    "callbacks.averaging.", "callbacks.penalty.",
)  # fmt: skip
_MAY_CHANGE = ("data.root", "data.num_workers", "data.check", "data.sensitivities")
_MAY_MOVE = "data.prepared"  # may move, not be added or dropped: its k-space is rounded
# Schedules that do not depend on the length of the run.
_OF_ANY_LENGTH = tuple(
    f"mrirecon.training.schedules.{name}" for name in ("constant", "step", "multistep", "exponential", "plateau")
)


def check_continues(config: Mapping[str, Any]) -> None:
    """Raises ConfigError, naming the first difference, where the settings differ from those of the run of `ckpt`.

    Raises InputError for a state that names files which Lightning would delete.
    """
    ckpt = config["ckpt"]
    if ckpt is None:
        return
    if is_exported(Path(ckpt)):
        raise ConfigError(
            f"ckpt={ckpt}: an exported model has the weights alone, not the state of the optimizer: "
            "continue from checkpoints/last.ckpt of its run"
        )
    checkpoint = read_checkpoint(ckpt)
    _check_paths(checkpoint.get("callbacks"), ckpt)
    then, now = flatten(checkpoint["config"]), flatten(dict(config))
    if "None" not in (then.get(_MAY_MOVE, "None"), now.get(_MAY_MOVE, "None")):
        then[_MAY_MOVE] = now[_MAY_MOVE]
    keys = [k for k in sorted({*then, *now}) if k.startswith(_MUST_STAY) and k not in _MAY_CHANGE]
    fixed_length = now.get("scheduler._target_") not in _OF_ANY_LENGTH
    if fixed_length:
        keys.append("trainer.max_epochs")  # the schedule depends on it
    for key in keys:
        if then.get(key) != now.get(key):
            raise ConfigError(
                f"ckpt={ckpt}: its run had {key}={then.get(key)}, this one has {key}={now.get(key)}: "
                "continue with the same settings, or start a new run without ckpt"
            )
    num_done, most = checkpoint["epoch"] + 1, config["trainer"]["max_epochs"]
    if most is not None and 0 <= most <= num_done:
        cure = "its schedule ends there, so the run is finished" if fixed_length else "give more"
        raise ConfigError(f"trainer.max_epochs={most}: ckpt={ckpt} has {num_done} epochs already: {cure}")


def _check_paths(states: Any, ckpt: str) -> None:
    """Raises InputError unless the paths in the states of callbacks are those of checkpoints in a folder.

    Lightning deletes what they name once there is a better one: a checkpoint in the folder of the run alone, but
    anything at all where the path goes through `..` or is a URL, as in `local:///home`.
    """
    for key, path in _paths(states):
        if path == "" or (isinstance(path, str) and not _ELSEWHERE.search(path) and path.endswith(".ckpt")):
            continue
        raise InputError(
            f"{ckpt}: the state of its callbacks has {key}={str(path)[:200]!r}, which this project never writes: "
            "it is refused, as that file could be deleted"
        )


_ELSEWHERE = re.compile(r"::|://|^\w+:|(?:^|/)\.\.(?:/|$)")


def _paths(states: Any) -> Iterator[tuple[str, Any]]:
    for state in states.values() if isinstance(states, dict) else ():
        if isinstance(state, dict):
            yield from ((key, state[key]) for key in state if str(key).endswith("_path"))
            kept = state.get("best_k_models")
            yield from (("best_k_models", path) for path in (kept if isinstance(kept, dict) else ()))
