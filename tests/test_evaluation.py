"""metrics.json: the scores of fastmri.evaluate on the files that reconstruct.py writes, with how they were made."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import Volume
from fastmri import evaluate as reference
from fastmri.data.subsample import RandomMaskFunc
from test_module import data_of, trainer_of

from mrirecon.data.datamodule import ReconDataModule
from mrirecon.data.masks import describe_mask
from mrirecon.evaluation import Report, evaluate, write_json
from mrirecon.io import fastmri
from mrirecon.models.image_domain import ZeroFilled
from mrirecon.module import ReconModule
from mrirecon.reconstruct import reconstruct
from mrirecon.score_table import print_scores

MASK = RandomMaskFunc([0.08], [4])


def report_of(tmp_path: Path, data: ReconDataModule) -> Report:
    return evaluate(trainer_of(tmp_path), ReconModule(ZeroFilled()), data, None)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_scores_equal_fastmri_evaluate_on_the_written_reconstruction(
    tmp_path: Path, volume: Volume, scale: float
) -> None:
    sizes = [((64, 48), (40, 40)), ((33, 47), (33, 33))]
    for number, (size, target) in enumerate(sizes):
        volume(tmp_path / "singlecoil_val" / f"v{number}.h5", 3, size=size, target=target, seed=number, scale=scale)
    report = report_of(tmp_path, data_of(tmp_path, batch_size=2))
    for row in report["volumes"]:
        scan = fastmri.read(tmp_path / "singlecoil_val" / row["name"])
        pred = reconstruct(ZeroFilled(), scan, MASK, 2, torch.device("cpu")).volume.numpy()
        assert scan.target is not None
        assert row["ssim"] == pytest.approx(float(reference.ssim(scan.target, pred)[0]), abs=1e-6)
        assert row["psnr"] == pytest.approx(float(reference.psnr(scan.target, pred)), abs=1e-4)
        assert row["nmse"] == pytest.approx(float(reference.nmse(scan.target, pred)), rel=1e-6)
        assert row["data_range"] == pytest.approx(float(scan.target.max()))
    for score in ("ssim", "psnr", "nmse"):
        assert report[score] == pytest.approx(np.mean([row[score] for row in report["volumes"]]))


def test_zero_filled_scores_of_the_real_scans_are_the_known_ones(tmp_path: Path, realdata: Path) -> None:
    report = report_of(tmp_path, data_of(realdata / "lowfield"))
    assert (round(report["ssim"], 4), round(report["psnr"], 2), round(report["nmse"], 4)) == (0.6317, 25.62, 0.0459)


def test_a_report_says_how_it_was_made_and_is_plain_json(tmp_path: Path, folder: Path) -> None:
    report = report_of(tmp_path, data_of(folder))
    write_json(tmp_path / "out" / "metrics.json", report)
    read = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {"ssim", "psnr", "nmse", "volumes", "conventions"} <= read.keys()
    assert {"name", "acquisition", "num_slices", "acceleration", "data_range", "ssim", "psnr", "nmse"} <= read[
        "volumes"
    ][0].keys()
    assert {"data_range", "crop", "mask_seed", "mask", "target"} <= read["conventions"].keys()
    assert read["conventions"]["mask"] == describe_mask(MASK) == "RandomMaskFunc 4x, centre 0.08"
    columns, sampled = 36, round(36 / read["volumes"][0]["acceleration"])
    assert 3 <= sampled < columns


def test_volumes_of_one_name_are_told_apart_by_their_folder(tmp_path: Path, volume: Volume) -> None:
    roots = [tmp_path / "knee", tmp_path / "brain"]
    for seed, root in enumerate(roots):
        volume(root / "singlecoil_val" / "v.h5", seed=seed)
        volume(root / "singlecoil_val" / f"{root.name}.h5", seed=seed)
    report = report_of(tmp_path, data_of(roots))
    assert [(row["name"], row.get("folder")) for row in report["volumes"]] == [
        ("knee.h5", None), ("v.h5", str(roots[0] / "singlecoil_val")),
        ("brain.h5", None), ("v.h5", str(roots[1] / "singlecoil_val")),
    ]  # fmt: skip
    assert report["made_by"]["data"] == f"{roots[0]}, {roots[1]}"


def test_an_undefined_score_is_null_with_its_reason_and_not_in_the_mean(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(folder / "singlecoil_val" / "v0.h5", "a") as f:
        f["reconstruction_esc"][:] = 0
        f.attrs["max"] = 0.0
    report = report_of(tmp_path, data_of(folder))
    flat, sound = report["volumes"]
    assert flat["ssim"] is flat["psnr"] is flat["nmse"] is None
    assert set(flat["undefined"]) == {"ssim", "psnr", "nmse", "ms_ssim", "hfen"}
    assert report["ssim"] == sound["ssim"]
    json.dumps(report, allow_nan=False)
    print_scores("t", {"m": report})
    assert "undefined" in capsys.readouterr().out


def test_acquisitions_are_listed_apart(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(folder / "singlecoil_val" / "v0.h5", "a") as f:
        f.attrs["acquisition"] = "OTHER"
    print_scores("t", {"m": report_of(tmp_path, data_of(folder))})
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("OTHER", "TEST", "all"))
