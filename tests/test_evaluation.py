"""metrics.json: the scores of fastmri.evaluate on the files that reconstruct.py writes, with how they were made."""

import hashlib
import json
import math
import multiprocessing
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed
from conftest import Volume
from fastmri import evaluate as reference
from fastmri.data.subsample import RandomMaskFunc
from test_module import data_of, small_unet, trainer_of
from torch.multiprocessing.spawn import start_processes

from mrirecon.config.compose import json_config
from mrirecon.data.conditions import conditions_of
from mrirecon.data.datamodule import ReconDataModule
from mrirecon.data.prepared.prepare import Preparation
from mrirecon.data.provenance import mask_digest
from mrirecon.evaluation.scoring import Metrics, baseline_origin, evaluate, metrics_of, origin_of, run_passes
from mrirecon.inference.checkpoints import read_checkpoint
from mrirecon.inference.reconstruct import reconstruct
from mrirecon.io.raw import fastmri
from mrirecon.metrics.scores import ALL_SCORES
from mrirecon.models.image_domain import ZeroFilled
from mrirecon.reports.comparison import compare
from mrirecon.reports.table import print_scores
from mrirecon.sampling.masks import describe_mask, named, volume_mask
from mrirecon.system.atomic import write_json
from mrirecon.training.callbacks.record import Record
from mrirecon.training.losses import L1Loss
from mrirecon.training.module import ReconModule

MASK = RandomMaskFunc([0.08], [4])


def report_of(tmp_path: Path, data: ReconDataModule) -> Metrics:
    return evaluate(trainer_of(tmp_path), ReconModule(ZeroFilled()), data, None)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_scores_equal_fastmri_evaluate_on_the_written_reconstruction(
    tmp_path: Path, volume: Volume, scale: float
) -> None:
    sizes = [((64, 48), (40, 40)), ((33, 47), (33, 33))]
    for number, (size, target) in enumerate(sizes):
        volume(tmp_path / "singlecoil_val" / f"v{number}.h5", 3, size=size, target=target, seed=number, scale=scale)
    found = report_of(tmp_path, data_of(tmp_path, batch_size=2))
    for row in found["volumes"]:
        scan = fastmri.read(tmp_path / "singlecoil_val" / row["name"])
        pred = reconstruct(ZeroFilled(), scan, MASK, 2, torch.device("cpu")).volume.numpy()
        assert scan.target is not None
        assert row["ssim"] == pytest.approx(float(reference.ssim(scan.target, pred)[0]), abs=1e-6)
        assert row["psnr"] == pytest.approx(float(reference.psnr(scan.target, pred)), abs=1e-4)
        assert row["nmse"] == pytest.approx(float(reference.nmse(scan.target, pred)), rel=1e-6)
        assert row["data_range"] == pytest.approx(float(scan.target.max()))
    for score in ("ssim", "psnr", "nmse"):
        assert found[score] == pytest.approx(np.mean([row[score] for row in found["volumes"]]))


def test_zero_filled_scores_of_the_real_scans_are_the_known_ones(tmp_path: Path, realdata: Path) -> None:
    found = report_of(tmp_path, data_of(realdata / "lowfield"))
    assert (round(found["ssim"], 4), round(found["psnr"], 2), round(found["nmse"], 4)) == (0.6317, 25.62, 0.0459)


def test_a_report_says_how_it_was_made_and_is_plain_json(tmp_path: Path, folder: Path) -> None:
    found = report_of(tmp_path, data_of(folder))
    write_json(tmp_path / "out" / "metrics.json", found)
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
    found = report_of(tmp_path, data_of(roots))
    assert [(row["name"], row.get("folder")) for row in found["volumes"]] == [
        ("knee.h5", None), ("v.h5", str(roots[0] / "singlecoil_val")),
        ("brain.h5", None), ("v.h5", str(roots[1] / "singlecoil_val")),
    ]  # fmt: skip
    assert found["made_by"]["data"] == f"{roots[0]}, {roots[1]}"


def test_an_undefined_score_is_null_with_its_reason_and_not_in_the_mean(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(folder / "singlecoil_val" / "v0.h5", "a") as f:
        f["reconstruction_esc"][:] = 0
        f.attrs["max"] = 0.0
    found = report_of(tmp_path, data_of(folder))
    flat, sound = found["volumes"]
    assert flat["ssim"] is flat["psnr"] is flat["nmse"] is None
    assert set(flat["undefined"]) == {"ssim", "psnr", "nmse", "ms_ssim", "hfen"}
    assert found["ssim"] == sound["ssim"]
    json.dumps(found, allow_nan=False)
    print_scores("t", {"m": found})
    assert "undefined" in capsys.readouterr().out


def test_acquisitions_are_listed_apart(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(folder / "singlecoil_val" / "v0.h5", "a") as f:
        f.attrs["acquisition"] = "OTHER"
    print_scores("t", {"m": report_of(tmp_path, data_of(folder))})
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("OTHER", "TEST", "all"))


def test_a_report_has_the_mask_the_patient_and_the_fingerprints(tmp_path: Path, folder: Path) -> None:
    found = report_of(tmp_path, data_of(folder))
    info = fastmri.inspect(folder / "singlecoil_val" / "v0.h5")
    row = found["volumes"][0]
    mask, _ = volume_mask(MASK, info.kspace_size, "v0.h5")
    text = "".join(str(int(sampled)) for sampled in mask[0])
    assert row["mask_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert (row["patient"], row["nominal_acceleration"], row["mask"], row["condition"]) == ("v0", 4.0, "", "")
    assert {len(row["slices"][key]) for key in ("slice_num", "ssim", "squared_error")} == {2}
    assert set(ALL_SCORES) <= row.keys()
    assert set(ALL_SCORES) <= found.keys()
    assert found["made_by"]["model"] == "zero_filled"
    assert set(found["made_by"]["versions"]) == {"mrirecon", "torch", "lightning", "fastmri", "numpy", "python"}
    assert all(isinstance(value, str) for value in found["conventions"].values())


def test_the_golden_mask_has_its_digest() -> None:
    mask, _ = volume_mask(MASK, (640, 368), "file1000000.h5")
    assert mask_digest(mask).startswith("80fbeb695053")


def test_the_fingerprint_of_data_changes_with_a_volume_and_not_with_its_place(tmp_path: Path, volume: Volume) -> None:
    def digest(root: Path, **changes: Any) -> str:
        for number in range(2):
            volume(root / "singlecoil_val" / f"v{number}.h5", **{"seed": number, **changes})
        return report_of(tmp_path, data_of(root))["made_by"]["data_sha256"]

    first, second = digest(tmp_path / "a"), digest(tmp_path / "b")
    assert first == second
    others = [{"seed": 7}, {"num_slices": 3}, {"size": (40, 38)}]
    different = {digest(tmp_path / f"c{number}", **changes) for number, changes in enumerate(others)}
    assert len({first, *different}) == 4


def test_a_robustness_run_has_the_fingerprint_of_a_plain_one_and_can_be_compared_with_it(
    tmp_path: Path, volume: Volume, folder: Path
) -> None:
    volume(tmp_path / "other" / "singlecoil_val" / "o.h5", seed=3)
    conditions = conditions_of({"noise": [0.1], "missing_coils": [], "shifts": []})
    data, other = data_of(folder, conditions=conditions), data_of(tmp_path / "other")
    module = ReconModule(ZeroFilled())
    passes = run_passes(trainer_of(tmp_path), module, data, others={"other anatomy": other})
    robust = metrics_of(passes, origin_of(trainer_of(tmp_path), module, None))
    plain, alone = report_of(tmp_path, data_of(folder)), report_of(tmp_path, data_of(tmp_path / "other"))
    assert robust["made_by"]["data_sha256"] == plain["made_by"]["data_sha256"]
    assert robust["made_by"]["other_data_sha256"] == {"other anatomy": alone["made_by"]["data_sha256"]}
    assert plain["made_by"]["other_data_sha256"] == {}
    comparison = compare({"plain": plain, "robust": robust})
    assert comparison.left_out == ("noise 0.1", "other anatomy")
    assert comparison.overall.differences["ssim"][0].interval.mean == 0


def test_simulated_data_is_called_so_wherever_its_scores_are(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_of(tmp_path, data_of(folder))["conventions"]["simulated"] == "no"
    with h5py.File(folder / "singlecoil_val" / "v0.h5", "a") as f:
        f.attrs["simulated"] = True
    found = report_of(tmp_path, data_of(folder))
    assert found["conventions"]["simulated"].startswith("yes: 1 of 2 volumes are simulated")
    print_scores("t", {"m": found})
    assert "simulated" in capsys.readouterr().out


def test_half_precision_of_a_prepared_store_is_stated(tmp_path: Path, folder: Path) -> None:
    said = {}
    for precision in ("single", "half"):
        Preparation(folder, tmp_path / precision, "all", precision, 0, lambda *_: None).run()
        found = report_of(tmp_path, data_of(folder, prepared=str(tmp_path / precision)))
        said[precision] = found["conventions"]["precision"]
        assert [row["patient"] for row in found["volumes"]] == ["v0", "v1"]  # of the scans it was prepared from
    assert said["single"] == report_of(tmp_path, data_of(folder))["conventions"]["precision"] == "single"
    assert said["half"].startswith("half: ")


def test_several_masks_give_a_grid_of_masks_and_acquisitions(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(folder / "singlecoil_val" / "v0.h5", "a") as f:
        f.attrs["acquisition"] = "OTHER"
    both = RandomMaskFunc([0.08, 0.08], [3, 6])
    data = data_of(folder, scored_masks=named({"random_4x": MASK, "both": both}))
    found = report_of(tmp_path, data)
    assert [(cell["mask"], cell["acquisition"], cell["nominal_acceleration"]) for cell in found["grid"]] == [
        (mask, acquisition, nominal)
        for mask, nominal in (("random_4x", 4), ("both 3x", 3), ("both 6x", 6))
        for acquisition in ("OTHER", "TEST", "all")
    ]
    alone = report_of(tmp_path, data_of(folder))
    cells = [cell for cell in found["grid"] if cell["mask"] == "random_4x"]
    assert [cell["ssim"] for cell in cells] == [cell["ssim"] for cell in alone["grid"]]
    assert found["ssim"] == pytest.approx(np.mean([row["ssim"] for row in found["volumes"]]))
    print_scores("t", {"zero-filled": found, "m": found})
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("random_4x", "both 6x", "OTHER"))


def test_the_baseline_beside_a_model_is_the_baseline_alone(tmp_path: Path, folder: Path) -> None:
    trainer, module = trainer_of(tmp_path), ReconModule(small_unet())
    passes = run_passes(trainer, module, data_of(folder, batch_size=2), baseline=True)
    origin = origin_of(trainer, module, None)
    beside, alone = metrics_of(passes, baseline_origin(origin), baseline=True), report_of(tmp_path, data_of(folder))
    assert beside == alone
    assert metrics_of(passes, origin)["ssim"] != alone["ssim"]


def test_a_scan_s_own_mask_has_no_nominal_acceleration(tmp_path: Path, volume: Volume) -> None:
    own = np.arange(36) % 2 == 0
    volume(tmp_path / "singlecoil_val" / "v0.h5", mask=own)
    volume(tmp_path / "singlecoil_val" / "v1.h5")
    found = report_of(tmp_path, data_of(tmp_path))
    assert [row["nominal_acceleration"] for row in found["volumes"]] == [None, 4.0]
    assert [row["acceleration"] == 2 for row in found["volumes"]] == [True, False]
    assert "1 of 2 scans have their own" in found["conventions"]["mask"]


def test_a_checkpoint_has_its_scores_and_their_conventions(tmp_path: Path, folder: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(tmp_path / "c", "best", save_on_train_epoch_end=True)
    trainer = trainer_of(tmp_path, keep, Record({"seed": 0}, "seed: 0"), enable_checkpointing=True, max_epochs=1)
    module = ReconModule(small_unet(), L1Loss(), partial(torch.optim.Adam, lr=1e-3))
    data = data_of(folder)
    trainer.fit(module, data)
    checkpoint = read_checkpoint(tmp_path / "c" / "best.ckpt")
    after = evaluate(trainer, module, data, None)
    # Validation takes whole batches, the test slice by slice: the rounding of float32 convolutions.
    for score in ("ssim", "psnr", "nmse"):
        assert checkpoint["scores"][score] == pytest.approx(after[score], rel=1e-5)
    assert checkpoint["scores"]["conventions"] == after["conventions"]


def test_a_checkpoint_of_an_epoch_that_was_not_validated_has_no_scores(tmp_path: Path, folder: Path) -> None:
    keep = pl.callbacks.ModelCheckpoint(
        tmp_path / "c", "{epoch}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=True
    )
    settings: dict[str, Any] = {"enable_checkpointing": True, "max_epochs": 3, "check_val_every_n_epoch": 2}
    trainer = trainer_of(tmp_path, keep, Record({"seed": 0}, "seed: 0"), num_sanity_val_steps=1, **settings)
    module = ReconModule(small_unet(), L1Loss(), partial(torch.optim.Adam, lr=1e-3))
    trainer.fit(module, data_of(folder))
    has = ["scores" in read_checkpoint(tmp_path / "c" / f"epoch={epoch}.ckpt") for epoch in range(3)]
    assert has == [False, True, False]


SIZES = {"uneven": [(3, 40, 36), (2, 40, 36), (1, 48, 45), (4, 48, 45), (1, 40, 36)], "few": [(1, 40, 36), (1, 48, 45)]}


def scored(folder: Path, batch_size: int, world_size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    ranks: dict[str, Any] = {"strategy": "ddp", "devices": world_size} if world_size > 1 else {}
    trainer = trainer_of(folder, **ranks)
    data = data_of(folder, batch_size=batch_size)
    return {**evaluate(trainer, ReconModule(small_unet()), data, None), "made_by": None}


def _rank(rank: int, root: Path, ports: list[int]) -> None:
    """Scores as one of three processes, then, if it is among them, as one of two."""
    torch.set_num_threads(1)
    for world_size, port in zip((3, 2), ports, strict=True):
        if rank >= world_size:
            return
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        os.environ["WORLD_SIZE"] = str(world_size)
        for name in SIZES:
            for batch_size in (1, 3):
                content = scored(root / name, batch_size, world_size)
                write_json(root / f"{name} {batch_size} {world_size} {rank}.json", content)
        torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_any_number_of_ranks_and_any_batch_size_give_the_same_digits(tmp_path: Path, volume: Volume) -> None:
    for name, sizes in SIZES.items():
        for number, (num_slices, *size) in enumerate(sizes):
            volume(tmp_path / name / "singlecoil_val" / f"v{number}.h5", num_slices, size=tuple(size), seed=number)
    multiprocessing.set_forkserver_preload([__name__])  # one slow import for all ranks
    start_processes(_rank, (tmp_path, [free_port(), free_port()]), nprocs=3, start_method="forkserver")
    for name, sizes in SIZES.items():
        one = json.loads(json.dumps(scored(tmp_path / name, 1, 1)))
        assert [row["num_slices"] for row in one["volumes"]] == [num_slices for num_slices, *_ in sizes]
        assert json.loads(json.dumps(scored(tmp_path / name, 2, 1))) == one
        for world_size in (2, 3):
            for batch_size in (1, 3):
                for rank in range(world_size):
                    path = tmp_path / f"{name} {batch_size} {world_size} {rank}.json"
                    assert json.loads(path.read_text()) == one, path.name


def test_a_config_with_infinite_numbers_can_be_written(tmp_path: Path) -> None:
    config = {"optimizer": {"growth_rate": math.inf, "betas": [0.9, -math.inf]}}
    write_json(tmp_path / "x.json", json_config(config))
    expected = {"optimizer": {"growth_rate": "inf", "betas": [0.9, "-inf"]}}
    assert json.loads((tmp_path / "x.json").read_text()) == expected
