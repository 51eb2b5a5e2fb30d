"""Conditions: what is done to k-space is what is said, the same every time, and the target stays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Volume
from fastmri.data.subsample import RandomMaskFunc
from test_module import trainer_of

from mrirecon.data.conditions import MissingCoil, Noise, ShiftedCentre, applicable, conditions_of
from mrirecon.data.datamodule import ReconDataModule, recon_datamodule
from mrirecon.data.prepared.prepare import Preparation
from mrirecon.data.sources import Draw, Source
from mrirecon.errors import ConfigError
from mrirecon.evaluation.scoring import evaluate, run_passes
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import ScanInfo
from mrirecon.models.image_domain import ZeroFilled
from mrirecon.physics.fft import ifft2c
from mrirecon.physics.zero_filled import to_hybrid
from mrirecon.training.module import ReconModule


@pytest.fixture
def info(tmp_path: Path, volume: Volume) -> ScanInfo:
    return fastmri.inspect(volume(tmp_path / "v.h5", 3, num_coils=4, size=(64, 48)))


def kspace_of(info: ScanInfo, slice_num: int = 1) -> np.ndarray:
    return fastmri.read_slice(info, slice_num)[0]


def test_noise_has_the_stated_deviation_in_every_pixel_and_levels_scale_it(info: ScanInfo) -> None:
    kspace, data_range = kspace_of(info), 7.0
    added = [Noise(level)(kspace, info, 1, data_range) - kspace for level in (0.1, 0.3)]
    image = ifft2c(torch.from_numpy(added[0]))
    # 12288 numbers: their deviation is known to 0.6 % (one sigma)
    assert image.real.std().item() == pytest.approx(0.7, rel=0.03)
    assert image.imag.std().item() == pytest.approx(0.7, rel=0.03)
    np.testing.assert_allclose(added[1], 3 * added[0], atol=1e-4)  # the sums with k-space were rounded to float32


def test_noise_depends_on_the_volume_s_name_and_the_slice_alone(info: ScanInfo) -> None:
    kspace, noise = kspace_of(info), Noise(0.1)
    first = noise(kspace, info, 1, 1.0)
    assert np.array_equal(first, noise(kspace, replace(info, path=Path("elsewhere")), 1, 1.0))
    assert not np.allclose(first, noise(kspace, info, 2, 1.0))
    assert not np.allclose(first, noise(kspace, replace(info, name="w.h5"), 1, 1.0))


def test_a_missing_coil_is_zero_and_the_others_stay(info: ScanInfo) -> None:
    kspace = kspace_of(info)
    found = MissingCoil(2)(kspace, info, 1, 1.0)
    assert not found[2].any()
    assert np.array_equal(np.delete(found, 2, axis=0), np.delete(kspace, 2, axis=0))
    assert kspace[2].any()


def test_a_shifted_centre_keeps_the_magnitude_and_moves_the_brightest_column(info: ScanInfo) -> None:
    kspace = kspace_of(info)
    found = ShiftedCentre(5)(kspace, info, 1, 1.0)
    images = [ifft2c(torch.from_numpy(k.copy())).abs() for k in (kspace, found)]
    torch.testing.assert_close(*images, atol=1e-5, rtol=1e-4)
    assert np.array_equal(found[..., 5:], kspace[..., :-5])


@pytest.mark.parametrize("condition", [MissingCoil(1), ShiftedCentre(-3)])
def test_what_is_done_to_hybrid_space_is_what_is_done_to_kspace(
    info: ScanInfo, condition: MissingCoil | ShiftedCentre
) -> None:
    kspace = kspace_of(info)
    before = to_hybrid(torch.from_numpy(condition(kspace, info, 1, 1.0)), 40)
    after = condition(to_hybrid(torch.from_numpy(kspace), 40).numpy(), info, 1, 1.0)
    torch.testing.assert_close(before, torch.from_numpy(after))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise": [-1]}, "conditions.noise"),
        ({"noise": [True]}, "conditions.noise"),
        ({"noise": 0.1}, "expected a list"),
        ({"noise": [0.1, 0.1]}, "each once"),
        ({"missing_coils": [4]}, "from 0 to 3"),
        ({"shifts": [0]}, "conditions.shifts"),
        ({"shifts": [48]}, "fewer than the 48"),
        ({"shift": [1]}, "expected one of noise, missing_coils, shifts"),
    ],
)
def test_a_number_that_cannot_be_is_refused_with_its_key(info: ScanInfo, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        applicable(conditions_of(settings), [info])


def test_a_scan_of_one_coil_has_none_to_miss_and_one_with_a_mask_no_shift(info: ScanInfo) -> None:
    both = conditions_of({"missing_coils": [0], "shifts": [2]})
    assert [c.name for c in applicable(both, [replace(info, num_coils=1)])] == ["centre shifted 2"]
    assert [c.name for c in applicable(both, [replace(info, mask=np.ones(48, dtype=bool))])] == ["coil 0 missing"]


def test_a_source_under_a_condition_gives_its_kspace_and_the_same_target(info: ScanInfo) -> None:
    source = Source([info], [2.0])
    read, under = source[1], source.under(MissingCoil(0))[1]
    assert torch.equal(under.target, read.target)
    assert not under.kspace[0].any()
    assert torch.equal(source.under(MissingCoil(0)).under(None)[1].kspace, read.kspace)


def multicoil(root: Path, **changes: Any) -> ReconDataModule:
    settings: dict[str, Any] = {"batch_size": 1, "num_workers": 0, "check": "full", "split": "val", "seed": 0}
    where = {"root": str(root), "challenge": "multicoil", "mask": RandomMaskFunc([0.08], [4])}
    return recon_datamodule(**where, **settings, **changes)


def test_worse_conditions_score_worse_and_the_mean_is_of_the_volumes_as_they_are(
    tmp_path: Path, volume: Volume
) -> None:
    for number in range(2):
        path = tmp_path / "multicoil_val" / f"v{number}.h5"
        volume(path, num_coils=2, size=(48, 48), seed=number)
    conditions = conditions_of({"noise": [0.05, 0.5], "missing_coils": [1], "shifts": [9]})
    data = multicoil(tmp_path, conditions=conditions)
    report = evaluate(trainer_of(tmp_path), ReconModule(ZeroFilled()), data, None)
    nmse = {cell["condition"]: cell["nmse"] for cell in report["grid"]}
    assert list(nmse) == ["", "noise 0.05", "noise 0.5", "coil 1 missing", "centre shifted 9"]
    assert nmse[""] < nmse["noise 0.05"] < nmse["noise 0.5"]
    assert nmse[""] < min(nmse["coil 1 missing"], nmse["centre shifted 9"])
    assert report["nmse"] == nmse[""]
    assert set(report["conditions"]) == set(nmse) - {""}
    assert all("maximum of the target" in report["conditions"][name] for name in ("noise 0.05", "noise 0.5"))
    assert len({row["mask_sha256"] for row in report["volumes"] if row["name"] == "v0.h5"}) == 1


def test_prepared_and_resident_data_give_the_scores_of_the_files(tmp_path: Path, volume: Volume) -> None:
    volume(tmp_path / "set" / "multicoil_val" / "v.h5", num_coils=2, size=(60, 48), target=(40, 40))
    Preparation(tmp_path / "set", tmp_path / "store", "all", "single", 0, lambda *_: None).run()
    kinds: dict[str, Any] = {"files": {}, "resident": {"resident": True}}
    kinds["prepared"] = {"prepared": str(tmp_path / "store")}
    found = {}
    for name, changes in kinds.items():
        conditions = conditions_of({"noise": [0.1], "missing_coils": [0], "shifts": [3]})
        data = multicoil(tmp_path / "set", conditions=conditions, **changes)
        passes = run_passes(trainer_of(tmp_path), ReconModule(ZeroFilled()), data)
        found[name] = {one.condition: one.results["nmse"] for one in passes}
        assert data.scored()[Draw(0, 0)].kspace.any(dim=-1).any(dim=-1).all()  # no condition is left behind
    assert found["resident"] == pytest.approx(found["files"], rel=1e-5)  # the order of two transforms: float32
    noise = "noise 0.1"
    # The noise in hybrid space is as strong, but another draw of it.
    assert found["prepared"].pop(noise) == pytest.approx(found["files"].pop(noise), rel=0.1)
    assert found["prepared"] == pytest.approx(found["files"], rel=1e-5)
