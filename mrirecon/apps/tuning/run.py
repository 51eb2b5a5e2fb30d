"""Runs a hyperparameter search from the command line to the experiment with the best config."""

import shlex
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna import TrialPruned
from optuna.trial import Trial

from mrirecon.apps.tuning.experiment import Experiment
from mrirecon.apps.tuning.report import TRIAL_OVERRIDES, TRIAL_SCORES, print_summary, summary, trial_line
from mrirecon.apps.tuning.space import Composed, Space, open_space, override_key
from mrirecon.apps.tuning.storage import DEFAULT, REASON, Search, is_result, make_pruner
from mrirecon.apps.tuning.trial import METRICS, Data, TrialError, check_trial, digests, slim, train_trial, trial_folder
from mrirecon.config.compose import flatten, json_config, plain
from mrirecon.config.options import CONF
from mrirecon.config.overrides import check_types, chosen_groups, explain, without_null
from mrirecon.errors import ConfigError
from mrirecon.system.atomic import output_folder, write_json
from mrirecon.system.invocation import command_line
from mrirecon.system.progress import CountProgress

# Settings of a machine, which numbers do not depend on.
_MAY_CHANGE = ("run_dir", "trust", "data.root", "data.num_workers", "data.check", "trainer.devices", "logger.")


def search(cfg: DictConfig) -> int | None:
    """Runs trials until all have a result or the time is over, and writes the best config; 1 where there is none."""
    _check(cfg)
    # Lightning warns in every trial; the curves of a trial do not matter.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
    fixed, is_typed = _typed(list(HydraConfig.get().overrides.task))
    base = slim(_compose(fixed).cfg, cfg.without, ".")
    check_trial(base, cfg.metric)
    space = open_space(cfg.space, is_typed, fixed, _compose)
    pruner = make_pruner(cfg.pruner, cfg.num_startup, cfg.num_warmup)
    experiment = Experiment(cfg.experiment_dir, str(cfg.name), cfg.trust)
    output, data = output_folder(str(cfg.output)), Data(CountProgress())
    identity = _identity(cfg, base, space, digests(data.of(base)))
    args = (space.default, pruner, cfg.num_startup, cfg.sampler_seed, cfg.heartbeat)
    found = Search(output, METRICS[cfg.metric], identity, *args)
    experiment.claim(found.name)
    keep = partial(_keep, cfg, found, experiment, fixed, identity)

    _run(cfg, found, partial(_objective, cfg, space, fixed, data), keep)

    keep()
    print_summary(found, cfg.metric)
    if found.best() is None:
        print("No trial ran to its end: search lower learning rates, or with pruner=none.")
        return 1
    _say_next(output, experiment)
    return None


def _run(cfg: DictConfig, search: Search, objective: Any, keep: Any) -> None:
    """Runs trials until all, including those of other processes, have a result, or the time is over."""
    begin, waiting, num_before = time.monotonic(), False, sum(map(is_result, search.trials()))
    while cfg.timeout is None or time.monotonic() - begin < cfg.timeout:
        trial = search.run_one(objective, cfg.num_trials)
        if trial is not None:
            num_done = sum(map(is_result, search.trials()))
            rate = (time.monotonic() - begin) / max(1, num_done - num_before)
            print(trial_line(trial, search, cfg.metric, cfg.num_trials, rate * (cfg.num_trials - num_done)), flush=True)
            keep(trial.number)
            continue
        num_running = search.num_running()
        if num_running == 0:
            break
        if not waiting:
            print(f"Waiting for {num_running} trials of other processes; Ctrl-C leaves them alone.", flush=True)
        waiting = True
        time.sleep(1)


def _objective(cfg: DictConfig, space: Space, fixed: Sequence[str], data: Data, trial: Trial) -> float:
    """Trains with a drawn point of the space. Returns its score; stores overrides, scores and reason in the trial."""
    is_outside = space.default is None and trial.user_attrs.get(DEFAULT)
    drawn = [] if is_outside else space.draw(trial)
    trial.set_user_attr(TRIAL_OVERRIDES, drawn)
    made = slim(_compose([*fixed, *drawn]).cfg, cfg.without, str(trial_folder(Path(cfg.output), trial.number)))

    def report(score: float, epoch: int) -> bool:
        trial.report(score, epoch)
        return trial.should_prune()

    try:
        scores, is_pruned = train_trial(made, data, cfg.metric, report)
    except TrialError as error:
        trial.set_user_attr(REASON, str(error))
        raise TrialPruned from error  # so that the sampler avoids it, which it would not for a failed trial
    except ConfigError as error:
        trial.set_user_attr(REASON, str(error))
        raise ConfigError(f"trial {trial.number}, {' '.join(drawn)}: {error}") from error
    trial.set_user_attr(TRIAL_SCORES, {name: scores[name] for name in METRICS})
    if is_pruned:
        raise TrialPruned
    return float(scores[cfg.metric])


def _keep(
    cfg: DictConfig,
    search: Search,
    experiment: Experiment,
    fixed: Sequence[str],
    identity: dict[str, Any],
    number: int | None = None,
) -> None:
    """Writes the trials so far and, where trial `number` is the best or None, the best config."""
    write_json(Path(cfg.output) / "tune.json", summary(search, cfg.metric, identity))
    best = search.best()
    if best is None or number not in (None, best.number):
        return
    overrides = [*fixed, *best.user_attrs[TRIAL_OVERRIDES]]
    num_done = sum(map(is_result, search.trials()))
    remarks = [
        f"val/{cfg.metric} {best.values[0]:.5g}: trial {best.number}, the best of {num_done}",
        command_line(),
    ]
    experiment.write(overrides, _compose(overrides).cfg, _composed, remarks)


def _compose(overrides: Sequence[str]) -> Composed:
    """Config of train.py with overrides as typed. Raises ConfigError for an invalid one."""
    spelt = [without_null(override) for override in overrides]
    try:
        composed = _composed(spelt)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, spelt, "train")) from error
    check_types(_composed(chosen_groups(spelt)).cfg, composed.cfg, spelt)
    return composed


def _composed(overrides: Sequence[str]) -> Composed:
    cfg = hydra.compose("train", [*overrides], return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return Composed(cfg, choices)


def _typed(overrides: Sequence[str]) -> tuple[list[str], bool]:
    """Typed overrides of train.py, and whether a space was typed. Raises ConfigError for two spaces."""
    own = {str(key) for key in OmegaConf.load(CONF / "tune.yaml")}
    spaces = [override for override in overrides if override_key(override) == "space"]
    if len(spaces) > 1:
        raise ConfigError("space: is given twice: type the dimensions, or space=[...], not both")
    return [override for override in overrides if override_key(override).partition(".")[0] not in own], bool(spaces)


def _check(cfg: DictConfig) -> None:
    if cfg.num_trials < 1 or not (cfg.timeout is None or (isinstance(cfg.timeout, int | float) and cfg.timeout > 0)):
        raise ConfigError(
            f"num_trials={cfg.num_trials}, timeout={cfg.timeout}: expected 1 or more, and null or seconds"
        )
    if cfg.sampler_seed < 0 or cfg.heartbeat < 1:
        raise ConfigError(
            f"sampler_seed={cfg.sampler_seed}, heartbeat={cfg.heartbeat}: expected 0 or more, and seconds, 1 or more"
        )


def _identity(cfg: DictConfig, base: DictConfig, space: Space, data: dict[str, str]) -> dict[str, Any]:
    """Settings that must not change when a search is resumed, so that its trials stay comparable."""
    settings = json_config(flatten(plain(base)))
    config = {key: value for key, value in settings.items() if not key.startswith(_MAY_CHANGE)}
    return {"metric": cfg.metric, "space": [*map(str, space.dimensions)], "config": config, "data": data}


def _say_next(output: Path, experiment: Experiment) -> None:
    print(
        f"\nEvery trial: {output / 'tune.json'}\nThe best config: {experiment.path}\n\nNext:\n"
        f"  {experiment.command}   # trains it with checkpoints and pictures\n"
        f"  tensorboard --logdir {shlex.quote(str(output / 'trials'))}"
    )
