"""The options of training that are no part of an optimizer: averaging, L1, clipping, stopping, finding a rate."""

from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
import pytorch_lightning as pl
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from test_configs import TINY, compose
from test_module import Losses, StopAfter, data_of, small_unet, trainer_of
from torch import Tensor

from mrirecon.build import build_datamodule, build_module, build_trainer
from mrirecon.config.options import CONF
from mrirecon.errors import ConfigError
from mrirecon.inference.continuation import check_continues
from mrirecon.training import schedules
from mrirecon.training.callbacks.averaging import WeightEMA
from mrirecon.training.callbacks.lr_finder import LRFinder
from mrirecon.training.callbacks.penalty import L1Penalty
from mrirecon.training.callbacks.record import Record
from mrirecon.training.losses import L1Loss
from mrirecon.training.module import ReconModule

SGD = partial(torch.optim.SGD, lr=0.1)


def module_of(optimizer: Any = SGD, scheduler: Any = None, **changes: Any) -> ReconModule:
    torch.manual_seed(1)
    return ReconModule(small_unet(**changes), L1Loss(), optimizer, scheduler)


def last(folder: Path) -> pl.callbacks.ModelCheckpoint:
    return pl.callbacks.ModelCheckpoint(
        folder, save_last=True, save_top_k=0, save_on_train_epoch_end=True, enable_version_counter=False
    )


class Weights(pl.Callback):
    """All weights after every step, while validating, and when pictures are made; the gradients of every step."""

    def __init__(self) -> None:
        self.stepped: list[list[Tensor]] = []
        self.validated: list[Tensor] = []
        self.pictured: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.stepped.append([p.detach().clone() for p in pl_module.parameters()])

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self.validated = [p.detach().clone() for p in pl_module.parameters()]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.pictured = [p.detach().clone() for p in pl_module.parameters()]


def test_the_moving_average_is_validated_pictured_and_kept(tmp_path: Path, folder: Path) -> None:
    weights, module = Weights(), module_of(norm="batch")
    start = [p.detach().clone() for p in module.parameters()]
    callbacks = [weights, WeightEMA(decay=0.5), last(tmp_path)]
    trainer_of(tmp_path, *callbacks, max_epochs=1, enable_checkpointing=True).fit(module, data_of(folder))
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    for number, (name, ended) in enumerate(module.named_parameters()):
        average = weights.stepped[0][number]  # the first update starts it
        for step in weights.stepped[1:]:
            average = 0.5 * average + 0.5 * step[number]
        for found in (weights.validated[number], weights.pictured[number], kept[name], ended):
            torch.testing.assert_close(found, average, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weights.stepped[-1][0], weights.validated[0])
    assert not torch.allclose(start[0], weights.validated[0])


# Both runs keep their checkpoints in one folder. save_last would write after the average took the weights' place.
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_resumed_run_has_the_moving_average_of_an_uninterrupted_one(tmp_path: Path, folder: Path) -> None:
    def fit(epochs: int, ckpt: str | None = None) -> dict[str, Tensor]:
        module = module_of(partial(torch.optim.Adam, lr=1e-2))
        keep = pl.callbacks.ModelCheckpoint(
            tmp_path / "kept", filename="last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False
        )
        callbacks = [WeightEMA(decay=0.9), keep, StopAfter(epochs)]
        trainer = trainer_of(tmp_path, *callbacks, enable_checkpointing=True, limit_val_batches=0)
        trainer.fit(module, data_of(folder), ckpt_path=ckpt, weights_only=True)
        return module.state_dict()

    whole = fit(2)
    fit(1)
    resumed = fit(2, str(tmp_path / "kept" / "last.ckpt"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_two_averages_of_the_weights_are_refused(tmp_path: Path, folder: Path) -> None:
    module = build_module(compose("optimizer=schedulefree_sgd", "run_dir=x", *TINY))
    with pytest.raises(ConfigError, match="averages the weights itself"):
        trainer_of(tmp_path, WeightEMA(decay=0.9)).fit(module, data_of(folder))


def one_step(tmp_path: Path, folder: Path, *callbacks: pl.Callback, **changes: Any) -> tuple[ReconModule, list[Tensor]]:
    """A step of SGD of rate 1 and the move it made."""
    module = module_of(partial(torch.optim.SGD, lr=1.0), norm="group")
    before = [p.detach().clone() for p in module.parameters()]
    trainer_of(tmp_path, *callbacks, max_epochs=1, limit_train_batches=1, limit_val_batches=0, **changes).fit(
        module, data_of(folder)
    )
    return module, [b - p.detach() for b, p in zip(before, module.parameters(), strict=True)]


def test_the_l1_penalty_adds_the_sign_of_weights_and_spares_biases_and_norms(tmp_path: Path, folder: Path) -> None:
    _, plain = one_step(tmp_path, folder)
    torch.manual_seed(1)
    start = [p.detach() for p in module_of(norm="group").parameters()]
    _, penalised = one_step(tmp_path, folder, L1Penalty(0.01))
    for p, without, with_penalty in zip(start, plain, penalised, strict=True):
        expected = 0.01 * p.sign() if p.ndim > 1 else torch.zeros_like(p)
        torch.testing.assert_close(with_penalty - without, expected, rtol=0, atol=1e-6)  # of float32 weights of 1


@pytest.mark.parametrize("weight", [-1.0, float("inf")])
def test_an_l1_penalty_that_is_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.penalty\.weight"):
        L1Penalty(weight)


def test_clipping_bounds_the_norm_of_the_gradient_and_keeps_its_direction(tmp_path: Path, folder: Path) -> None:
    _, whole = one_step(tmp_path, folder)
    _, clipped = one_step(tmp_path, folder, gradient_clip_val=0.01)
    norm = torch.nn.utils.get_total_norm(whole)
    assert norm > 0.02
    for a, b in zip(whole, clipped, strict=True):
        torch.testing.assert_close(b, a * (0.01 / norm), rtol=1e-3, atol=1e-6)  # differences of float32 weights


def test_coupled_weight_decay_is_an_l2_penalty_and_decoupled_decay_is_not() -> None:
    def moved(**knobs: Any) -> Tensor:
        w = torch.nn.Parameter(torch.tensor([[2.0, -4.0]]))
        optimizer = torch.optim.Adam([w], lr=0.1, **knobs)
        w.grad = torch.tensor([[0.0, 0.0]])
        optimizer.step()
        return torch.tensor([[2.0, -4.0]]) - w.detach()

    # The gradient of the penalty alone: Adam's first step is its sign; decoupled it is lr * weight_decay * w.
    torch.testing.assert_close(moved(weight_decay=0.01), torch.tensor([[0.1, -0.1]]), rtol=1e-4, atol=0)
    decoupled = moved(weight_decay=0.01, decoupled_weight_decay=True)
    torch.testing.assert_close(decoupled, torch.tensor([[0.002, -0.004]]), rtol=1e-4, atol=0)


def options(folder: Path, run: Path, *typed: str) -> DictConfig:
    places = [f"data.root={folder}", f"run_dir={run}", "data=fastmri_singlecoil", "logger=null", "trainer=cpu"]
    typed = tuple(option for option in [*places, *TINY, *typed] if option != "logger=null")
    return compose(*typed, "trainer.num_sanity_val_steps=0")


@pytest.mark.parametrize(
    "option", ["callbacks/averaging=ema", "callbacks/penalty=l1", "callbacks/stopping=early", "model.init=orthogonal",
               "model.gradient_checkpointing=true", "trainer.gradient_clip_val=1.0", "model.drop_prob=0.1",
               "trainer.accumulate_grad_batches=2", "model.affine=true"],
)  # fmt: skip
def test_every_trick_is_an_option_that_trains(option: str, folder: Path, tmp_path: Path) -> None:
    cfg = options(folder, tmp_path, option, "trainer.max_epochs=1", "optimizer.weight_decay=0.01")
    module, trainer = build_module(cfg), build_trainer(cfg)
    trainer.fit(module, build_datamodule(cfg))
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_a_misspelt_trick_is_refused() -> None:
    GlobalHydra.instance().clear()
    with (
        hydra.initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises(hydra.errors.MissingConfigException, match="emma"),
    ):
        hydra.compose("train", ["callbacks/averaging=emma"])


def test_early_stopping_ends_a_run_whose_ssim_no_longer_rises(folder: Path, tmp_path: Path) -> None:
    typed = ["callbacks/stopping=early", "callbacks.stopping.patience=2", "trainer.max_epochs=9", "optimizer=sgd"]
    cfg = options(folder, tmp_path, *typed, "optimizer.lr=0.0", "scheduler=constant")
    trainer = build_trainer(cfg)
    trainer.fit(build_module(cfg), build_datamodule(cfg))
    assert trainer.current_epoch == 3


def test_the_finder_s_rate_is_trained_with_scheduled_and_recorded(tmp_path: Path, folder: Path) -> None:
    config = {"optimizer": {"lr": 0.1}, "seed": 0}
    record, losses = Record(config, "text"), Losses()
    finder = LRFinder(1e-6, 1.0, num_steps=40, early_stop_threshold=4.0)
    module = module_of(SGD, partial(schedules.cosine, final_factor=0.0))
    start = {k: v.clone() for k, v in module.state_dict().items()}
    seen: dict[str, Any] = {}

    class First(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
            if not seen and trainer.global_step == 0:
                seen["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
                seen["same"] = all(torch.equal(v, start[k]) for k, v in pl_module.state_dict().items())

    callbacks = [finder, First(), losses, record, last(tmp_path / "kept")]
    trainer = trainer_of(tmp_path, *callbacks, enable_checkpointing=True, limit_val_batches=0)
    trainer.fit(module, data_of(folder))
    assert finder.optimal_lr is not None
    found = finder.optimal_lr.suggestion()
    assert found is not None
    assert 1e-6 < found < 1.0
    assert seen == {"lr": found, "same": True}
    assert len(losses.values) == trainer.global_step == 18
    assert trainer.lr_scheduler_configs[0].scheduler.base_lrs == [found]
    assert torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["config"]["optimizer"]["lr"] == found
    assert config["optimizer"]["lr"] == 0.1
    assert not list(tmp_path.glob(".lr_find*"))


def test_the_finder_leaves_a_continued_run_alone(tmp_path: Path, folder: Path) -> None:
    def fit(ckpt: str | None, *callbacks: pl.Callback) -> pl.Trainer:
        stop = StopAfter(1 if ckpt is None else 2)
        trainer = trainer_of(
            tmp_path, *callbacks, stop, last(tmp_path / "kept"), enable_checkpointing=True, limit_val_batches=0
        )
        trainer.fit(module_of(), data_of(folder), ckpt_path=ckpt, weights_only=True)
        return trainer

    fit(None)
    finder = LRFinder(1e-6, 1.0, num_steps=40, early_stop_threshold=4.0)
    trainer = fit(str(tmp_path / "kept" / "last.ckpt"), finder)
    assert finder.optimal_lr is None
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_steps": 5}, "too few steps"), ({"max_lr": 1e30, "early_stop_threshold": None}, "lower it")],
)
def test_a_range_test_that_finds_nothing_says_so(
    tmp_path: Path, folder: Path, changes: dict[str, Any], message: str
) -> None:
    finder = LRFinder(**{"min_lr": 1e-6, "max_lr": 1.0, "num_steps": 12, "early_stop_threshold": 4.0, **changes})
    with pytest.raises(ConfigError, match=message):
        trainer_of(tmp_path, finder, limit_val_batches=0).fit(module_of(norm="none"), data_of(folder))


def test_a_finder_without_a_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="min_lr < max_lr"):
        LRFinder(1.0, 0.1, num_steps=10, early_stop_threshold=4.0)


def test_a_run_is_not_continued_with_another_average(tmp_path: Path, folder: Path) -> None:
    cfg = options(folder, tmp_path, "callbacks/averaging=ema", "trainer.max_epochs=1", "scheduler=constant")
    build_trainer(cfg).fit(build_module(cfg), build_datamodule(cfg))
    ckpt = tmp_path / "checkpoints" / "last.ckpt"
    other = options(folder, tmp_path, f"ckpt={ckpt}", "scheduler=constant")
    with pytest.raises(ConfigError, match=r"callbacks\.averaging\."):
        check_continues(other)
