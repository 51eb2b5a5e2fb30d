"""Stores the trials of a search in an SQLite file; can be resumed, and shared by several processes."""

import fcntl
import json
import logging
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DatabaseError

from mrirecon.errors import ConfigError, InputError

log = logging.getLogger(__name__)

PRUNERS = ("median", "hyperband", "none")
REASON, DEFAULT = "reason", "default"  # trial attributes: why it ended early; whether it is the default config
_IDENTITY, _NAME = "identity", "name"
_HEARTBEATS_MISSED = 3  # after this many a process counts as dead

Objective = Callable[[Trial], float]


class Search:
    """A search in a folder, new or resumed.

    identity: settings that must not change when it is resumed, as plain nested data. heartbeat: seconds between
    heartbeats of a process; the trial of a process without them is restarted. Raises ConfigError, naming the
    difference, where the folder holds a search of another identity, InputError where its file is not a search.
    """

    def __init__(
        self,
        folder: Path,
        direction: str,
        identity: Mapping[str, Any],
        default: dict[str, Any] | None,
        pruner: BasePruner,
        num_startup: int,
        seed: int,
        heartbeat: int,
    ) -> None:
        self.folder, self.num_startup, self.seed = folder, num_startup, seed
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # the command prints progress itself
        with self._locked():
            self.study = _load(folder / "trials.db", direction, pruner, heartbeat)
            self._check(identity)
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(default or {}, user_attrs={DEFAULT: True})

    def run_one(self, objective: Objective, num_trials: int) -> FrozenTrial | None:
        """Runs one trial; None where all `num_trials` have been started, here or in other processes.

        KeyboardInterrupt and SystemExit are raised again, and the trial is queued to be restarted. Other errors of the
        objective are raised again too, and the trial is marked as failed.
        """
        begun: list[Trial] = []
        with ExitStack() as lock:
            lock.enter_context(self._locked())
            self._take_back_stale()
            if self.num_begun() >= num_trials:
                return None
            self.study.sampler = self._sampler()

            def unlocked(trial: Trial) -> float:
                begun.append(trial)
                lock.close()
                return objective(trial)

            try:
                self.study.optimize(unlocked, n_trials=1)
            except (KeyboardInterrupt, SystemExit):
                for trial in begun:
                    self._give_back(trial)
                raise
            except Exception as error:
                if not begun or not self._is_retried(begun[0].number):
                    raise
                # Without heartbeats from this process, another one has taken the trial over.
                log.warning("trial %d: was taken over by another process (%s)", begun[0].number, type(error).__name__)
        return self._trial(begun[0].number)

    @property
    def name(self) -> str:
        """Unique name of the search."""
        return str(self.study.user_attrs[_NAME])

    def num_begun(self) -> int:
        """Number of trials that have a result or are running."""
        return sum(is_result(trial) or trial.state == TrialState.RUNNING for trial in self.trials())

    def num_running(self) -> int:
        """Number of running trials, without those of dead processes."""
        self._take_back_stale()
        return sum(trial.state == TrialState.RUNNING for trial in self.trials())

    def trials(self) -> list[FrozenTrial]:
        """All trials as they stand, those of other processes too."""
        return self.study.get_trials(deepcopy=False)

    def best(self) -> FrozenTrial | None:
        """Complete trial with the best score; None without one."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return ranked(complete, self.is_maximized)[0] if complete else None

    @property
    def is_maximized(self) -> bool:
        """Whether a larger score is better."""
        return self.study.direction == StudyDirection.MAXIMIZE

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """File lock, so that no other process starts a trial between counting and starting one here."""
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _check(self, identity: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(identity))
        then = self.study.user_attrs.get(_IDENTITY)
        if then is None:
            self.study.set_user_attr(_NAME, secrets.token_hex(8))
            self.study.set_user_attr(_IDENTITY, now)
            return
        difference = first_difference(then, now)
        if difference:
            raise ConfigError(
                f"output={self.folder}: holds a search with other settings: {difference}. "
                "Use the settings it was started with, or give another output=DIR"
            )

    def _sampler(self) -> TPESampler:
        """Sampler seeded by the number of trials: processes draw differently, a resumed search draws the same."""
        entropy = (self.seed, len(self.study.get_trials(deepcopy=False)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(
                n_startup_trials=self.num_startup,
                seed=int(np.random.SeedSequence(entropy).generate_state(1)[0]),
                multivariate=True,
                group=True,  # a dimension may exist only for some values of another
                constant_liar=True,
            )

    def _take_back_stale(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)

    def _give_back(self, trial: Trial) -> None:
        left = self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        if left.state == TrialState.FAIL:
            _retry()(self.study, left)

    def _is_retried(self, number: int) -> bool:
        return any(number in trial.system_attrs.get("retry_history", ()) for trial in self.trials())

    def _trial(self, number: int) -> FrozenTrial:
        return next(trial for trial in self.trials() if trial.number == number)


def is_result(trial: FrozenTrial) -> bool:
    """Whether a trial has a score, or a reason for having none."""
    if trial.state == TrialState.FAIL:
        return REASON in trial.user_attrs
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def ranked(trials: list[FrozenTrial], is_maximized: bool) -> list[FrozenTrial]:
    """Trials by score, best first; ties by number."""
    return sorted(trials, key=lambda trial: (-trial.values[0] if is_maximized else trial.values[0], trial.number))


def make_pruner(name: str, num_startup: int, num_warmup: int) -> BasePruner:
    """Pruner by name. num_startup: trials, and num_warmup: validations of a trial, that are never pruned."""
    if name not in PRUNERS:
        raise ConfigError(f"pruner={name}: expected one of {', '.join(PRUNERS)}")
    if num_startup < 0 or num_warmup < 0:
        raise ConfigError(f"num_startup={num_startup}, num_warmup={num_warmup}: expected 0 or more")
    if name == "median":
        return MedianPruner(n_startup_trials=num_startup, n_warmup_steps=num_warmup + 1)  # steps count from 1
    if name == "hyperband":
        return HyperbandPruner(min_resource=max(1, num_warmup), max_resource="auto", reduction_factor=3)
    return NopPruner()


def first_difference(then: Any, now: Any, key: str = "") -> str:
    """Text naming the first difference of two plain nested values; "" where they are equal."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in [*then, *(name for name in now if name not in then)]:
            difference = first_difference(then.get(name), now.get(name), f"{key} {name}".strip())
            if difference:
                return difference
        return ""
    return "" if then == now else f"{key} was {then}, now it is {now}"


def _retry() -> Callable[[optuna.Study, FrozenTrial], None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RetryHeartbeatStaleTrialCallback()


def _load(file: Path, direction: str, pruner: BasePruner, heartbeat: int) -> optuna.Study:
    file = file.resolve()
    if set("?{}") & set(str(file)):
        raise ConfigError(f"output={file.parent}: SQLite refuses names with ?, {{ or }}: give another folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            storage = RDBStorage(
                f"sqlite:///{file}",
                engine_kwargs={"connect_args": {"timeout": 60}},  # seconds to wait while another process writes
                heartbeat_interval=heartbeat,
                grace_period=_HEARTBEATS_MISSED * heartbeat,
                heartbeat_stale_trial_callback=_retry(),
            )
        return optuna.create_study(
            storage=storage,
            study_name="tune",
            direction=StudyDirection[direction.upper()],
            pruner=pruner,
            load_if_exists=True,
        )
    except (DatabaseError, RuntimeError) as error:
        raise InputError(
            f"{file}: is no readable file of trials ({str(error).splitlines()[0]}): move it away"
        ) from error
