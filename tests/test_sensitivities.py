"""Sensitivities: estimated once per centre and settings, kept, never stale, the same from every source."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Volume
from fastmri.data.subsample import RandomMaskFunc
from samples import slices
from test_module import trainer_of
from torch import Tensor

from mrirecon.config.compose import instantiate
from mrirecon.config.options import option_content
from mrirecon.data.conditions import conditions_of
from mrirecon.data.datamodule import ReconDataModule, recon_datamodule
from mrirecon.data.prepared.prepare import Preparation
from mrirecon.data.sensitivities import Sensitivities
from mrirecon.evaluation.scoring import evaluate, run_passes
from mrirecon.models.base import ReconModel
from mrirecon.physics.espirit import Espirit
from mrirecon.physics.sample import Measurement, Slice, undersample
from mrirecon.training.module import ReconModule

NEEDS = ("kspace", "sens_maps")


class Counted:
    """ESPIRiT that counts the slices it was asked for."""

    def __init__(self, calib_width: int = 24) -> None:
        self.inner, self.num_slices = Espirit(calib_width), 0

    def __repr__(self) -> str:
        return repr(self.inner)

    def __call__(self, measurement: Measurement) -> Tensor:
        self.num_slices += len(measurement.mask)
        return self.inner(measurement)


def measured(num_low: int = 8, seed: int = 0, others: int = 0) -> Slice:
    """Two slices of three coils; the centre of `num_low` columns, and other columns by `others`."""
    kspace = torch.randn(2, 3, 24, 32, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))
    acs_mask = torch.zeros(1, 1, 1, 32, dtype=torch.bool)
    acs_mask[..., 16 - num_low // 2 : 16 + num_low // 2] = True
    mask = acs_mask | (torch.rand(1, 1, 1, 32, generator=torch.Generator().manual_seed(others)) < 0.3)
    return slices(kspace, mask, (20, 30), acs_mask=acs_mask)


def maps_of(kept: Sensitivities, batch: Slice, estimate: Any) -> Tensor:
    return kept.of(batch, undersample(batch, NEEDS).measurement, estimate)


@pytest.mark.parametrize("on_disk", [False, True])
def test_maps_are_estimated_once_whatever_else_is_sampled(tmp_path: Path, on_disk: bool) -> None:
    kept, estimate = Sensitivities(tmp_path / "maps" if on_disk else None), Counted()
    first = maps_of(kept, measured(others=1), estimate)
    torch.testing.assert_close(first, Espirit()(undersample(measured(others=1), NEEDS).measurement))
    assert torch.equal(maps_of(kept, measured(others=2), estimate), first)
    assert estimate.num_slices == 2
    again = Sensitivities(tmp_path / "maps" if on_disk else None)
    assert torch.allclose(maps_of(again, measured(others=1), estimate), first)
    assert estimate.num_slices == (2 if on_disk else 4)


def test_other_values_centres_settings_and_forms_have_maps_of_their_own(tmp_path: Path) -> None:
    kept, estimate = Sensitivities(tmp_path), Counted()
    maps_of(kept, measured(), estimate)
    for batch, how in (
        (measured(seed=1), estimate), (measured(num_low=6), estimate), (measured(), Counted(12)),
        (measured()._replace(size=torch.tensor([[18, 30]] * 2)), estimate),
    ):  # fmt: skip
        before = how.num_slices
        maps_of(kept, batch, how)
        assert how.num_slices == before + 2
    assert len(list(tmp_path.rglob("*.npz"))) == 10
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("damage", [lambda raw: raw[:100], lambda raw: b"", lambda raw: _flipped(raw)])
def test_damaged_maps_are_reported_and_estimated_again(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kept, estimate = Sensitivities(tmp_path), Counted()
    first = maps_of(kept, measured(), estimate)
    for path in tmp_path.rglob("*.npz"):
        path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert torch.allclose(maps_of(Sensitivities(tmp_path), measured(), estimate), first)
    assert estimate.num_slices == 4
    assert "is damaged" in caplog.text


def _flipped(raw: bytes) -> bytes:
    """One bit of the values is another."""
    return raw[:500] + bytes([raw[500] ^ 4]) + raw[501:]


def test_a_folder_that_takes_no_file_is_reported_and_memory_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "maps").write_text("a file")
    kept, estimate = Sensitivities(tmp_path / "maps"), Counted()
    maps_of(kept, measured(), estimate)
    maps_of(kept, measured(), estimate)
    assert estimate.num_slices == 2
    assert "cannot be kept" in caplog.text


def test_memory_keeps_the_latest_maps_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrirecon.data.sensitivities.free_memory", lambda device: 4 * 3 * 3 * 20 * 32 * 8)
    kept, estimate = Sensitivities(None), Counted()
    for seed in (0, 1, 2):
        maps_of(kept, measured(seed=seed), estimate)
    maps_of(kept, measured(seed=2), estimate)
    assert estimate.num_slices == 6
    maps_of(kept, measured(seed=0), estimate)
    assert estimate.num_slices == 8


def set_of(tmp_path: Path, volume: Volume) -> Path:
    for number in range(2):
        path = tmp_path / "set" / "multicoil_val" / f"v{number}.h5"
        volume(path, 3, 3, size=(64, 48), target=(40, 40), seed=number)
    return tmp_path / "set"


def data_of(root: Path | None, **changes: Any) -> ReconDataModule:
    settings: dict[str, Any] = {
        "challenge": "multicoil", "mask": RandomMaskFunc([0.2], [3]), "batch_size": 2, "num_workers": 0,
        "check": "headers", "split": "val", "seed": 0,
    }  # fmt: skip
    return recon_datamodule(root=None if root is None else str(root), **{**settings, **changes})


def model_of(name: str) -> ReconModel:
    content = option_content("model", name)
    assert isinstance(content, dict)
    return instantiate("model", {**content, "num_iterations": 5})


@pytest.mark.parametrize("name", ["cg_sense", "tv", "wavelet"])
def test_a_model_of_kspace_scores_the_same_from_scans_store_memory_and_workers(
    tmp_path: Path, volume: Volume, name: str
) -> None:
    root = set_of(tmp_path, volume)
    Preparation(root, tmp_path / "store", "all", "single", 0, lambda *_: None).run()
    ways: dict[str, dict[str, Any]] = {
        "scans": {},
        "again": {"sensitivities": str(tmp_path / "maps")},
        "kept": {"sensitivities": str(tmp_path / "maps")},
        "resident": {"resident": True},
        "store": {"prepared": str(tmp_path / "store")},
        "workers": {"num_workers": 1},
    }
    scores = {}
    for way, changes in ways.items():
        found = evaluate(trainer_of(tmp_path), ReconModule(model_of(name)), data_of(root, **changes), None)
        scores[way] = [found["ssim"], found["psnr"]]
    assert all(values == pytest.approx(scores["scans"], rel=1e-5) for values in scores.values()), scores
    assert (tmp_path / "store" / "sensitivities").is_dir()
    assert not (root / "sensitivities").exists()  # somebody's own data is left alone


def test_a_disturbed_measurement_has_maps_of_its_own(tmp_path: Path, volume: Volume) -> None:
    root = set_of(tmp_path, volume)
    conditions = conditions_of({"noise": [0.2], "missing_coils": [], "shifts": []})
    data = data_of(root, conditions=conditions, sensitivities=str(tmp_path / "maps"))
    run_passes(trainer_of(tmp_path), ReconModule(model_of("cg_sense")), data)
    assert len(list((tmp_path / "maps").rglob("*.npz"))) == 2 * 2 * 3
    alone = data_of(root, conditions=conditions)
    passes = run_passes(trainer_of(tmp_path), ReconModule(model_of("cg_sense")), alone)
    again = run_passes(trainer_of(tmp_path), ReconModule(model_of("cg_sense")), data_of(
        root, conditions=conditions, sensitivities=str(tmp_path / "maps")))  # fmt: skip
    assert [one.results["nmse"] for one in again] == pytest.approx([one.results["nmse"] for one in passes], rel=1e-5)
    assert again[1].results["nmse"] > again[0].results["nmse"]


def test_real_coils_give_maps_that_explain_their_images(realdata: Path) -> None:
    import h5py

    from mrirecon.physics.coils import sens_expand, sens_reduce
    from mrirecon.physics.fft import ifft1c

    with h5py.File(realdata / "multicoil" / "brain_t1_7coil.h5") as f:
        kspace = torch.from_numpy(np.asarray(f["kspace"][:]))
    mask = torch.ones(1, 1, 1, kspace.shape[-1], dtype=torch.bool)
    batch = slices(kspace, mask, (kspace.shape[-2], kspace.shape[-1]))
    measurement = undersample(batch, NEEDS).measurement
    maps = Sensitivities(None).of(batch, measurement, Espirit())
    assert measurement.kspace is not None
    images = ifft1c(measurement.kspace, dim=-1)
    unexplained = images - sens_expand(sens_reduce(images, maps), maps)
    assert unexplained.norm() < 0.25 * images.norm()  # what is left is noise, of one coil above all
