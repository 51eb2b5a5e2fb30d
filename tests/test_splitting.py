"""Splitting a mask to train without targets: two disjoint parts, drawn by seed; scans without a target train."""

from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import Volume
from hypothesis import given
from hypothesis import strategies as st
from test_module import Losses, trainer_of
from torch import nn

from mrirecon.build import build_module
from mrirecon.data.datamodule import ReconDataModule, recon_datamodule
from mrirecon.errors import ConfigError, InputError
from mrirecon.models.base import ReconModel
from mrirecon.physics.crop import center_crop
from mrirecon.physics.sample import Measurement, Prediction
from mrirecon.physics.sense import SenseOperator
from mrirecon.sampling.splitting import Splitting
from mrirecon.training.losses import HeldBackLoss, L1Loss
from mrirecon.training.module import ReconModule


@given(st.integers(9, 60), st.integers(9, 40), st.sampled_from(["columns", "points"]),
       st.sampled_from(["uniform", "gaussian"]), st.integers(0, 8), st.integers(0, 99))  # fmt: skip
def test_the_parts_are_disjoint_and_make_the_mask(
    w: int, h: int, unit: str, density: str, keep: int, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((1, w)) < 0.5
    mask[0, w // 2] = True
    seen, held = Splitting(0.4, unit, density, keep).draw(mask, h, (seed,))
    whole = mask if unit == "columns" else np.repeat(mask, h, axis=0)
    assert not (seen & held).any()
    assert np.array_equal(seen | held, whole)
    rows = slice(None) if unit == "columns" else slice(h // 2 - keep // 2, h // 2 - keep // 2 + keep)
    centre = (rows, slice(w // 2 - keep // 2, w // 2 - keep // 2 + keep))
    assert np.array_equal(seen[centre], whole[centre])
    again, _ = Splitting(0.4, unit, density, keep).draw(mask, h, (seed,))
    assert np.array_equal(again, seen)


def test_the_fraction_is_held_back_and_gaussian_prefers_the_middle() -> None:
    mask = np.ones((1, 128), bool)
    for density in ("uniform", "gaussian"):
        held = Splitting(0.25, "points", density, 4).draw(mask, 100, (0,))[1]
        assert held.sum() == round(0.25 * (12800 - 16))
    held = [Splitting(0.1, "points", density, 0).draw(mask, 100, (0,))[1] for density in ("uniform", "gaussian")]
    inner = [part[25:75, 32:96].mean() for part in held]
    assert inner[1] > 2 * inner[0]


@pytest.mark.parametrize(
    "settings",
    [
        (0.0, "columns", "uniform", 4),
        (0.4, "rows", "uniform", 4),
        (0.4, "points", "flat", 4),
        (0.4, "points", "uniform", -1),
    ],
)
def test_what_cannot_be_split_is_refused(settings: Any) -> None:
    with pytest.raises(ConfigError, match="splitting"):
        Splitting(*settings)
    with pytest.raises(ConfigError, match=r"splitting\.unit=points"):
        Splitting(0.4, "columns", "uniform", 4).draw(np.ones((8, 8), bool), 8, (0,))


class Filtered(ReconModel):
    """The sensitivity-combined image through a convolution, and its k-space: the smallest model that can learn so."""

    needs = ("kspace", "sens_maps")

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 5, padding=2)
        nn.init.zeros_(self.conv.weight), nn.init.zeros_(self.conv.bias)

    def forward(self, measurement: Measurement) -> Prediction:
        operator = SenseOperator(measurement.mask, measurement.sens_maps, measurement.readout)
        image = operator.adjoint(measurement.kspace)
        filtered = self.conv(torch.view_as_real(image).movedim(-1, 1)).movedim(1, -1).contiguous()
        image = torch.view_as_complex(filtered)
        return Prediction(center_crop(image, measurement.size), operator.expand(image))


@pytest.fixture
def root(tmp_path: Path, volume: Volume) -> Path:
    """Undersampled training scans without a target, and validation scans with one."""
    own = np.arange(40) % 2 == 0
    own[14:26] = True
    for number in range(3):
        path = volume(tmp_path / "multicoil_train" / f"t{number}.h5", 3, 2, size=(40, 40), seed=number, mask=own)
        with h5py.File(path, "a") as f:
            del f["reconstruction_rss"], f.attrs["max"]
    volume(tmp_path / "multicoil_val" / "v.h5", 2, 2, size=(40, 40), seed=9, mask=own)
    return tmp_path


def data_of(root: Path, unit: str, **changes: Any) -> ReconDataModule:
    settings: dict[str, Any] = {"batch_size": 3, "num_workers": 0, "check": "full", "split": "val", "seed": 0}
    settings |= {"challenge": "multicoil", "splitting": Splitting(0.4, unit, "uniform", 8), "needs_target": False}
    return recon_datamodule(root=str(root), **{**settings, **changes})


@pytest.mark.parametrize("unit", ["columns", "points"])
def test_a_model_trains_on_scans_without_a_target(tmp_path: Path, root: Path, unit: str) -> None:
    torch.manual_seed(0)
    losses, module = Losses(), ReconModule(Filtered(), HeldBackLoss(), partial(torch.optim.Adam, lr=0.03))
    trainer_of(tmp_path, losses, max_epochs=20).fit(module, data_of(root, unit))
    assert len(losses.values) == 60
    assert np.mean(losses.values[-6:]) < 1.9 < losses.values[0]  # 2 is what predicting nothing gives
    assert module.validated is not None
    assert module.validated[1]["ssim"] is not None


def test_the_parts_are_drawn_anew_in_every_epoch_and_the_same_with_workers(root: Path) -> None:
    def drawn(**changes: Any) -> dict[tuple[int, int, int], tuple[bool, ...]]:
        data = data_of(root, "columns", **changes)
        data.setup("fit")
        data.serve(Filtered())
        loader, found = data.train_dataloader(), {}
        for epoch in (0, 1):
            loader.batch_sampler.sampler.set_epoch(epoch)
            for batch in loader:
                assert not (batch.mask & batch.loss_mask).any()
                rows = zip(batch.volume, batch.slice_num, batch.loss_mask.flatten(1), strict=True)
                found |= {(epoch, int(v), int(n)): tuple(held.tolist()) for v, n, held in rows}
        return found

    one = drawn()
    assert len(one) == len(set(one.values())) == 18
    assert drawn(num_workers=1, batch_size=2) == one


def test_a_loss_that_needs_a_target_refuses_scans_without(tmp_path: Path, root: Path) -> None:
    with pytest.raises(InputError, match=r"t0\.h5: has no target"):
        data_of(root, "columns", needs_target=True).setup("fit")
    adam = partial(torch.optim.Adam, lr=0.01)
    module, trainer, data = ReconModule(Filtered(), L1Loss(), adam), trainer_of(tmp_path), data_of(root, "columns")
    with pytest.raises(ConfigError, match="compares with a target"):
        trainer.fit(module, data)
    module, trainer = ReconModule(Filtered(), HeldBackLoss(), adam), trainer_of(tmp_path)
    data = data_of(root, "columns", resident=True)
    with pytest.raises(ConfigError, match=r"data\.resident"):
        trainer.fit(module, data)


@pytest.mark.parametrize("typed", [["loss=held_back"], ["splitting=columns"]])
def test_splitting_and_its_loss_go_together(typed: list[str]) -> None:
    from test_configs import compose

    cfg = compose(*typed, "run_dir=x")
    with pytest.raises(ConfigError, match="neither works alone"):
        build_module(cfg)
    build_module(compose("loss=held_back", "splitting=points", "run_dir=x"))
