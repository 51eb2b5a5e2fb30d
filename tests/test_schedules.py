"""Learning-rate schedules: every rate against its formula written out."""

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mrirecon.errors import ConfigError
from mrirecon.training import schedules

LR = 0.2

EVERY: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "constant": (schedules.constant, {}),
    "step": (schedules.step, {"step_size": 3, "gamma": 0.1}),
    "multistep": (schedules.multistep, {"milestones": [2, 5], "gamma": 0.1}),
    "exponential": (schedules.exponential, {"gamma": 0.9}),
    "warmup_linear": (schedules.warmup_linear, {"warmup_fraction": 0.2, "decay_fraction": 0.3, "final_factor": 0.0}),
    "cosine": (schedules.cosine, {"final_factor": 0.1}),
    "warmup_cosine": (schedules.warmup_cosine, {"final_factor": 0.0, "warmup_fraction": 0.2}),
    "onecycle": (schedules.onecycle, {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}),
    "plateau": (schedules.plateau, {"factor": 0.5, "patience": 1, "threshold": 1e-3, "min_lr": 0.01}),
}
PER_EPOCH = ("constant", "step", "multistep", "exponential", "plateau")


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(2))


def optimizers() -> list[Optimizer]:
    return [SGD([parameter()], lr=LR), SGD([parameter()], lr=LR, momentum=0.9), Adam([parameter()], lr=LR)]


def rates(config: dict[str, Any], optimizer: Optimizer, num: int, scores: list[float] | None = None) -> list[float]:
    """The learning rate of each of `num` updates, and the one that would follow."""
    found = [optimizer.param_groups[0]["lr"]]
    for i in range(num):
        optimizer.step()
        config["scheduler"].step(*([] if scores is None else [scores[i]]))
        found.append(optimizer.param_groups[0]["lr"])
    return found


def cosine(progress: float, final: float) -> float:
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


@pytest.mark.parametrize("optimizer", optimizers(), ids=["sgd", "momentum", "adam"])
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_every_schedule_lasts_the_run_and_its_state_needs_no_pickle(
    name: str, optimizer: Optimizer, num_steps: int
) -> None:
    schedule, knobs = EVERY[name]
    optimizer.param_groups[0]["lr"] = LR
    config = schedule(optimizer, num_steps=num_steps, num_epochs=1, **knobs)
    assert isinstance(config["scheduler"], LRScheduler)
    assert config["interval"] == ("epoch" if name in PER_EPOCH else "step")
    assert config["frequency"] == 1
    found = rates(config, optimizer, num_steps, [0.5] * num_steps if name == "plateau" else None)
    assert all(0 <= lr <= LR * (1 + 1e-12) for lr in found)
    assert found[0] > 0
    buffer = io.BytesIO()
    torch.save([optimizer.state_dict(), config["scheduler"].state_dict()], buffer)
    buffer.seek(0)
    torch.load(buffer, weights_only=True)


def test_constant_is_constant() -> None:
    optimizer = SGD([parameter()], lr=LR)
    assert rates(schedules.constant(optimizer, 5, 5), optimizer, 5) == [LR] * 6


def test_step_is_fastmris() -> None:
    optimizer = Adam([parameter()], lr=LR)
    found = rates(schedules.step(optimizer, 1000, 50, step_size=40, gamma=0.1), optimizer, 50)
    assert found == pytest.approx([LR] * 40 + [LR / 10] * 11)


def test_multistep_falls_after_each_milestone() -> None:
    optimizer = SGD([parameter()], lr=LR)
    found = rates(schedules.multistep(optimizer, 100, 10, milestones=[2, 5], gamma=0.1), optimizer, 6)
    assert found == pytest.approx([LR] * 2 + [LR / 10] * 3 + [LR / 100] * 2)


def test_exponential_falls_by_the_same_factor_after_every_epoch() -> None:
    optimizer = SGD([parameter()], lr=LR)
    found = rates(schedules.exponential(optimizer, 100, 10, gamma=0.5), optimizer, 4)
    assert found == pytest.approx([LR * 0.5**k for k in range(5)])


def test_warmup_linear_is_a_trapezoid_that_ends_at_its_final_factor() -> None:
    optimizer = SGD([parameter()], lr=LR)
    config = schedules.warmup_linear(optimizer, 10, 2, decay_fraction=0.4, final_factor=0.2, warmup_steps=3)
    factors = [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]  # the last one follows the last update
    assert rates(config, optimizer, 10) == pytest.approx([LR * f for f in factors])


def test_warmup_linear_without_room_to_decay_is_the_straight_line_up_or_a_triangle() -> None:
    optimizer = SGD([parameter()], lr=LR)
    config = schedules.warmup_linear(optimizer, 2, 1, decay_fraction=0.5, final_factor=0.0, warmup_steps=9)
    assert rates(config, optimizer, 2) == pytest.approx([LR / 10, LR / 5, 3 * LR / 10])
    optimizer = SGD([parameter()], lr=LR)
    config = schedules.warmup_linear(optimizer, 4, 1, decay_fraction=1.0, final_factor=0.0, warmup_steps=2)
    assert rates(config, optimizer, 4) == pytest.approx([LR * f for f in (1 / 3, 2 / 3, 1, 1 / 2, 0)])


def test_cosine_falls_from_one_to_the_final_factor() -> None:
    optimizer = Adam([parameter()], lr=LR)
    found = rates(schedules.cosine(optimizer, 8, 2, final_factor=0.1), optimizer, 9)
    assert found == pytest.approx([LR * cosine(min(k, 8) / 8, 0.1) for k in range(10)])
    assert (found[0], found[8]) == pytest.approx((LR, LR / 10))


@pytest.mark.parametrize("warmup", [{"warmup_fraction": 0.4}, {"warmup_steps": 4}])
def test_warmup_cosine_rises_in_a_straight_line_then_falls(warmup: dict[str, Any]) -> None:
    optimizer = SGD([parameter()], lr=LR)
    found = rates(schedules.warmup_cosine(optimizer, 10, 2, final_factor=0.0, **warmup), optimizer, 10)
    rise = [LR * k / 5 for k in (1, 2, 3, 4)]
    assert found == pytest.approx(rise + [LR * cosine(k / 6, 0.0) for k in range(7)])


def test_a_run_shorter_than_its_warmup_ends_on_the_straight_line() -> None:
    optimizer = SGD([parameter()], lr=LR)
    config = schedules.warmup_cosine(optimizer, 1, 1, final_factor=0.0, warmup_steps=99)
    assert rates(config, optimizer, 1) == pytest.approx([LR / 100, LR / 50])


@pytest.mark.parametrize("warmup", [{}, {"warmup_fraction": 0.1, "warmup_steps": 3}])
def test_warmup_is_given_exactly_once(warmup: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="exactly one of scheduler"):
        schedules.warmup_cosine(SGD([parameter()], lr=LR), 10, 2, final_factor=0.0, **warmup)


def test_onecycle_peaks_at_each_groups_own_learning_rate() -> None:
    optimizer = Adam([parameter()], lr=LR)
    optimizer.add_param_group({"params": [parameter()], "lr": LR / 2})
    config = schedules.onecycle(optimizer, 19, 1, pct_start=0.3, div_factor=10.0, final_div_factor=100.0)
    found = rates(config, optimizer, 19)
    # 20 points: the peak is at 0.3 * 20 - 1 = 5, the end at 19; the factors run 0.1 -> 1 -> 0.001.
    up = [0.1 + 0.9 * 0.5 * (1 - math.cos(math.pi * k / 5)) for k in range(5)]
    down = [cosine(k / 14, 0.001) for k in range(15)]
    assert found == pytest.approx([LR * factor for factor in up + down])
    assert optimizer.param_groups[1]["lr"] == pytest.approx(found[-1] / 2)


def test_onecycle_cycles_momentum_only_where_there_is_some() -> None:
    knobs = EVERY["onecycle"][1]
    plain, momentum, adam = optimizers()
    for optimizer in (plain, momentum, adam):
        schedules.onecycle(optimizer, 10, 1, **knobs)
    assert plain.param_groups[0]["momentum"] == 0
    assert momentum.param_groups[0]["momentum"] == 0.95
    assert adam.param_groups[0]["betas"] == (0.95, 0.999)


@pytest.mark.parametrize(("pct_start", "num_steps"), [(0.5, 1), (0.1, 9), (0.25, 3), (0.0, 4), (1.0, 4)])
def test_onecycle_survives_a_rise_of_one_step_or_none(pct_start: float, num_steps: int) -> None:
    optimizer = Adam([parameter()], lr=LR)
    config = schedules.onecycle(optimizer, num_steps, 1, pct_start=pct_start, div_factor=25.0, final_div_factor=1e4)
    assert all(math.isfinite(lr) for lr in rates(config, optimizer, num_steps))


def test_plateau_lowers_the_rate_when_val_ssim_stops_rising_and_keeps_the_floor() -> None:
    optimizer = SGD([parameter()], lr=LR)
    config = schedules.plateau(optimizer, 10, 10, factor=0.25, patience=1, threshold=0.01, min_lr=0.02)
    assert config["monitor"] == "val/ssim"
    scores = [0.5, 0.52, 0.525, 0.529, 0.6, 0.5, 0.5, 0.5, 0.5]
    found = rates(config, optimizer, len(scores), scores)
    assert found == pytest.approx([LR, LR, LR, LR, LR / 4, LR / 4, LR / 4, 0.02, 0.02, 0.02])


@pytest.mark.parametrize("name", ["cosine", "warmup_cosine", "warmup_linear", "onecycle"])
@pytest.mark.parametrize("num_steps", [0, -1, math.inf])
def test_a_run_of_unknown_length_is_refused(name: str, num_steps: float) -> None:
    schedule, knobs = EVERY[name]
    with pytest.raises(ConfigError, match=r"how many steps the run has, but that number is .*trainer.max_epochs"):
        schedule(SGD([parameter()], lr=LR), num_steps=num_steps, num_epochs=1, **knobs)


@pytest.mark.parametrize(
    ("name", "knob", "value"),
    [
        ("step", "step_size", 0),
        ("exponential", "gamma", 0.0),
        ("warmup_linear", "decay_fraction", -0.1),
        ("warmup_cosine", "warmup_fraction", 1.5),
        ("onecycle", "pct_start", -0.1),
        ("plateau", "factor", 1.0),
    ],
)
def test_a_knob_out_of_range_is_named(name: str, knob: str, value: float) -> None:
    schedule, knobs = EVERY[name]
    with pytest.raises(ConfigError, match=rf"scheduler\.{knob} must be .*, but is {value}"):
        schedule(SGD([parameter()], lr=LR), num_steps=10, num_epochs=1, **(knobs | {knob: value}))


@pytest.mark.parametrize("milestones", [[5, 2], [3, 3], [0, 4]])
def test_milestones_that_do_not_rise_are_refused(milestones: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.milestones must be a rising list"):
        schedules.multistep(SGD([parameter()], lr=LR), 10, 2, milestones=milestones, gamma=0.1)
