"""Learning-rate schedules; contract: `schedule(optimizer, num_steps, num_epochs, **knobs) -> lr_scheduler config`.

`num_steps` and `num_epochs` are the optimizer steps and epochs of the whole run. The returned dict is the one that
Lightning's `configure_optimizers` takes: `scheduler`, `interval` ("step" or "epoch"), `frequency`, and `monitor` where
the schedule follows a score. Every factor multiplies each parameter group's own learning rate.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from mrirecon.errors import ConfigError

Schedule = dict[str, Any]


def constant(optimizer: Optimizer, num_steps: int, num_epochs: int) -> Schedule:
    """Constant learning rate."""
    return _config(LambdaLR(optimizer, lambda epoch: 1.0), "epoch")


def step(optimizer: Optimizer, num_steps: int, num_epochs: int, step_size: int, gamma: float) -> Schedule:
    """Multiplies by `gamma` after every `step_size` epochs; fastMRI's recipe: 40 and 0.1."""
    _require(step_size >= 1, "step_size", "1 epoch or more", step_size)
    return _config(StepLR(optimizer, step_size=step_size, gamma=gamma), "epoch")


def multistep(
    optimizer: Optimizer, num_steps: int, num_epochs: int, milestones: Sequence[int], gamma: float
) -> Schedule:
    """Multiplies by `gamma` after each of `milestones`, in epochs."""
    rising = list(milestones) == sorted(set(milestones)) and all(epoch >= 1 for epoch in milestones)
    _require(rising, "milestones", "a rising list of epochs from 1 on", list(milestones))
    return _config(MultiStepLR(optimizer, milestones=list(milestones), gamma=gamma), "epoch")


def exponential(optimizer: Optimizer, num_steps: int, num_epochs: int, gamma: float) -> Schedule:
    """Multiplies by `gamma` after every epoch."""
    _require(0 < gamma <= 1, "gamma", "a factor above 0, at most 1", gamma)
    return _config(ExponentialLR(optimizer, gamma=gamma), "epoch")


def cosine(optimizer: Optimizer, num_steps: int, num_epochs: int, final_factor: float) -> Schedule:
    """Half a cosine from 1 down to `final_factor` over all steps (SGDR without restarts, arXiv:1608.03983, Eq. 5)."""
    return warmup_cosine(optimizer, num_steps, num_epochs, warmup_steps=0, final_factor=final_factor)


def warmup_cosine(
    optimizer: Optimizer,
    num_steps: int,
    num_epochs: int,
    final_factor: float,
    warmup_fraction: float | None = None,
    warmup_steps: int | None = None,
) -> Schedule:
    """Linear warm-up to 1, then half a cosine down to `final_factor`.

    The warm-up is a fraction of all steps or a number of steps; ConfigError unless exactly one is given. A run shorter
    than its warm-up ends within it.
    """
    _require_num_steps(num_steps)
    warmup = _warmup_length(num_steps, warmup_fraction, warmup_steps)
    return _config(LambdaLR(optimizer, _warmup_cosine_factor(warmup, num_steps, final_factor)), "step")


def warmup_linear(
    optimizer: Optimizer,
    num_steps: int,
    num_epochs: int,
    decay_fraction: float,
    final_factor: float,
    warmup_fraction: float | None = None,
    warmup_steps: int | None = None,
) -> Schedule:
    """Trapezoid: linear warm-up to 1, constant, linear decay to `final_factor` at the last step (arXiv:2405.18392).

    Warm-up as for `warmup_cosine`; the decay takes `decay_fraction` of all steps, at most those after the warm-up.
    """
    _require_num_steps(num_steps)
    _require(0 <= decay_fraction <= 1, "decay_fraction", "a fraction from 0 to 1", decay_fraction)
    warmup = _warmup_length(num_steps, warmup_fraction, warmup_steps)
    decay = min(round(decay_fraction * num_steps), max(0, num_steps - warmup))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)  # above 0: the first step must change the weights
        left = min(1.0, max(0, num_steps - step) / decay) if decay else 1.0
        return final_factor + (1 - final_factor) * left

    return _config(LambdaLR(optimizer, factor), "step")


def onecycle(
    optimizer: Optimizer,
    num_steps: int,
    num_epochs: int,
    pct_start: float,
    div_factor: float,
    final_div_factor: float,
    anneal_strategy: str = "cos",
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
) -> Schedule:
    """1cycle (arXiv:1708.07120): up to the optimizer's learning rate and down again, momentum inversely.

    Momentum (or Adam's beta1) is cycled only where it is above 0, and not for schedule-free optimizers.
    """
    _require_num_steps(num_steps)
    _require(0 <= pct_start <= 1, "pct_start", "a fraction from 0 to 1", pct_start)
    total_steps = num_steps + 1  # Lightning steps once more after the last update; torch's formula ends one step before
    scheduler = OneCycleLR(
        optimizer,
        max_lr=[float(group["lr"]) for group in optimizer.param_groups],
        total_steps=total_steps,
        # torch divides by the length of the rise, which must not be zero.
        pct_start=float(pct_start) if pct_start * total_steps > 1 else 0.0,
        anneal_strategy=anneal_strategy,  # type: ignore[arg-type]
        cycle_momentum=_has_momentum(optimizer),
        base_momentum=base_momentum,
        max_momentum=max_momentum,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )
    return _config(scheduler, "step")


def plateau(
    optimizer: Optimizer,
    num_steps: int,
    num_epochs: int,
    factor: float,
    patience: int,
    threshold: float,
    min_lr: float,
) -> Schedule:
    """Multiplies by `factor` after more than `patience` validations without a rise of `val/ssim` by `threshold`."""
    _require(0 <= factor < 1, "factor", "a number from 0 to below 1", factor)
    scheduler = ReduceLROnPlateau(
        optimizer,
        mode="max",
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode="abs",  # SSIM may be near 0, where a relative gain is meaningless
        min_lr=min_lr,
    )
    return _config(scheduler, "epoch") | {"monitor": "val/ssim"}


def _config(scheduler: LRScheduler, interval: str) -> Schedule:
    return {"scheduler": scheduler, "interval": interval, "frequency": 1}


def _require(met: bool, knob: str, expected: str, value: object) -> None:
    if not met:
        raise ConfigError(f"scheduler.{knob} must be {expected}, but is {value!r}")


def _require_num_steps(num_steps: int) -> None:
    if not 1 <= num_steps < math.inf:
        raise ConfigError(
            f"this scheduler needs to know how many steps the run has, but that number is {num_steps}: "
            "set trainer.max_epochs or trainer.max_steps, or choose scheduler=constant"
        )


def _warmup_length(num_steps: int, fraction: float | None, steps: int | None) -> int:
    if (fraction is None) == (steps is None):
        raise ConfigError(
            "give exactly one of scheduler.warmup_fraction and scheduler.warmup_steps and set the other to null, "
            f"but they are {fraction!r} and {steps!r}"
        )
    if steps is not None:
        _require(steps >= 0, "warmup_steps", "0 steps or more", steps)
        return steps
    assert fraction is not None
    _require(0 <= fraction <= 1, "warmup_fraction", "a fraction from 0 to 1", fraction)
    return round(fraction * num_steps)


def _warmup_cosine_factor(warmup: int, num_steps: int, final_factor: float) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)  # above 0: the first step must change the weights
        progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2

    return factor


def _has_momentum(optimizer: Optimizer) -> bool:
    if "train_mode" in optimizer.param_groups[0]:  # schedule-free: beta1 interpolates between two sets of weights
        return False
    return "betas" in optimizer.defaults or optimizer.defaults.get("momentum", 0) > 0
