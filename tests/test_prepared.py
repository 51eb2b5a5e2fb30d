"""The prepared store and the resident source: the same numbers as from the scans' own files, and what they refuse."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Volume
from fastmri.data.subsample import RandomMaskFunc
from samples import Needing
from test_module import Losses, small_unet, trainer_of

from mrirecon.data import resident
from mrirecon.data.datamodule import ReconDataModule, recon_datamodule
from mrirecon.data.prepared.prepare import Preparation, PrepareSummary
from mrirecon.data.prepared.store import FILE_NAME, read_manifest
from mrirecon.data.resident import ResidentLoader
from mrirecon.errors import ConfigError, InputError
from mrirecon.models.image_domain import ZeroFilled
from mrirecon.physics.sample import FULL_READOUT, HybridSlice, Sample, Slice
from mrirecon.sampling.patterns import Gaussian2d
from mrirecon.training.losses import L1Loss
from mrirecon.training.module import ReconModule

MASK = RandomMaskFunc([0.1], [4])


def silent(what: str, done: int, total: int) -> None:
    pass


def prepare(root: Path, output: Path, precision: str = "single", num_processes: int = 0) -> PrepareSummary:
    return Preparation(root, output, "all", precision, num_processes, silent).run()


def datamodule(root: Path | None, **changes: Any) -> ReconDataModule:
    options = {"challenge": "singlecoil", "mask": MASK, "batch_size": 2, "num_workers": 0, "check": "full"}
    options |= {"split": "val", "seed": 0, **changes}
    return recon_datamodule(root=None if root is None else str(root), **options)


def samples(data: ReconDataModule) -> dict[tuple[int, int], Sample]:
    """Every training and validation slice as an image model gets it."""
    data.setup("fit")
    data.serve(Needing())
    found = {}
    for part, loader in enumerate((data.train_dataloader(), data.val_dataloader())):
        for batch in loader:
            sample = data.on_after_batch_transfer(batch, 0)
            keys = zip(batch.volume.tolist(), batch.slice_num.tolist(), strict=True)
            for row, (number, slice_num) in enumerate(keys):
                found[part * 1000 + number, slice_num] = sample.rows(slice(row, row + 1))
    return found


def need_same(found: dict[Any, Sample], expected: dict[Any, Sample], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for key, sample in expected.items():
        ours, theirs = found[key].measurement, sample.measurement
        assert torch.equal(ours.mask, theirs.mask)
        assert torch.equal(ours.acs_mask, theirs.acs_mask)
        torch.testing.assert_close(ours.zero_filled, theirs.zero_filled, atol=tolerance, rtol=tolerance)
        for name in ("target", "data_range", "mean"):
            values, wanted = getattr(found[key], name), getattr(sample, name)
            torch.testing.assert_close(values, wanted, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(found[key].scale, sample.scale, atol=0, rtol=tolerance)


@pytest.fixture
def folder(tmp_path: Path, volume: Volume) -> Path:
    """Mixed sizes: a crop in both directions, none, and a k-space narrower than the header's image."""
    root = tmp_path / "set"
    volume(root / "singlecoil_train" / "t0.h5", 3, size=(64, 48), target=(40, 40), scale=1e-4)
    volume(root / "singlecoil_train" / "t1.h5", 2, size=(41, 37), target=(33, 31), seed=1, scale=1e4)
    volume(root / "singlecoil_val" / "v0.h5", 2, size=(40, 36), seed=2)
    return root


SOURCES = ("prepared", "resident", "both", "workers")


def options(root: Path, output: Path, source: str) -> dict[str, Any]:
    return {
        "prepared": {"root": None, "prepared": str(output)},
        "resident": {"root": root, "resident": True},
        "both": {"root": None, "prepared": str(output), "resident": True},
        "workers": {"root": None, "prepared": str(output), "num_workers": 2},
    }[source]


@pytest.mark.parametrize("source", SOURCES)
def test_inputs_and_targets_are_those_of_the_scans(folder: Path, tmp_path: Path, source: str) -> None:
    prepare(folder, tmp_path / "out")
    need_same(samples(datamodule(**options(folder, tmp_path / "out", source))), samples(datamodule(folder)))


@pytest.mark.parametrize("source", SOURCES[:3])
def test_several_coils_and_accelerations(tmp_path: Path, volume: Volume, source: str) -> None:
    for split in ("train", "val"):
        volume(tmp_path / f"multicoil_{split}" / f"{split}.h5", 2, 3, size=(64, 48), target=(40, 40))
    prepare(tmp_path, tmp_path / "out")
    changes = {"challenge": "multicoil", "mask": RandomMaskFunc([0.1, 0.06], [4, 8])}
    expected = samples(datamodule(tmp_path, **changes))
    assert len(expected) == 2 + 2 * 2
    need_same(samples(datamodule(**options(tmp_path, tmp_path / "out", source), **changes)), expected)


def test_a_resident_set_of_scans_is_kept_in_the_short_form_where_that_is_exact(folder: Path) -> None:
    def first(*needs: str, mask: Any = MASK) -> Slice:
        data = datamodule(folder, resident=True, mask=mask)
        data.setup("validate")
        data.serve(Needing(*needs))
        loader = data.val_dataloader()
        assert isinstance(loader, ResidentLoader)
        return next(iter(loader))

    assert isinstance(first(), HybridSlice)
    assert isinstance(first("kspace"), HybridSlice)
    whole = first(FULL_READOUT)
    assert not isinstance(whole, HybridSlice)
    assert whole.kspace.shape[-2:] == (40, 36)
    pattern = first(mask=Gaussian2d([0.1], [4], 0.2))
    assert not isinstance(pattern, HybridSlice)
    assert pattern.mask.shape == (2, 1, 40, 36)


def losses_of(tmp_path: Path, data: ReconDataModule) -> list[float]:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=1e-2)
    module, losses = ReconModule(small_unet(chans=8, num_pool_layers=3), L1Loss(), optimizer), Losses()
    trainer_of(tmp_path, losses, max_epochs=-1, max_steps=20, limit_val_batches=0).fit(module, data)
    return losses.values


def test_real_scans_train_the_same_from_every_source(tmp_path: Path, realdata: Path) -> None:
    root, output = realdata / "lowfield", tmp_path / "out"
    prepare(root, output)
    expected = samples(datamodule(root))
    assert len(expected) == 88
    losses = losses_of(tmp_path, datamodule(root))
    for source in SOURCES[:3]:
        need_same(samples(datamodule(**options(root, output, source))), expected)
        # Smooth steps: see test_module.py for what RMSprop makes of the last bit.
        found = losses_of(tmp_path, datamodule(**options(root, output, source)))
        assert found == pytest.approx(losses, rel=1e-3)


def test_half_precision_states_its_error_and_keeps_it(folder: Path, tmp_path: Path) -> None:
    report = prepare(folder, tmp_path / "half", "half")
    stated = max(volume.error for volume in report.manifest.volumes.values())
    assert 0 < stated < 1e-3
    full = prepare(folder, tmp_path / "full")
    assert sum(v.size for v in report.manifest.volumes.values()) < 0.8 * sum(
        v.size for v in full.manifest.volumes.values()
    )
    found, expected = samples(datamodule(None, prepared=str(tmp_path / "half"))), samples(datamodule(folder))
    for key, sample in expected.items():
        image = sample.measurement.zero_filled * sample.scale
        error = (found[key].measurement.zero_filled * found[key].scale - image).norm() / image.norm()
        # Of undersampled images: the same noise on less signal.
        assert error < 4 * stated
        torch.testing.assert_close(
            found[key].target * found[key].scale, sample.target * sample.scale, rtol=1e-5, atol=0
        )


def test_a_store_is_resumed_and_made_again_where_its_source_changed(folder: Path, tmp_path: Path) -> None:
    first, again = prepare(folder, tmp_path / "out", num_processes=2), prepare(folder, tmp_path / "out")
    assert (first.num_written, first.num_kept) == (3, 0)
    assert (again.num_written, again.num_kept) == (0, 3)
    (tmp_path / "out" / "singlecoil_train" / "t0.h5.npy").unlink()
    os.utime(folder / "singlecoil_val" / "v0.h5", (1e9, 1e9))
    third = prepare(folder, tmp_path / "out")
    assert (third.num_written, third.num_kept) == (2, 1)
    assert not list((tmp_path / "out").rglob("*.tmp"))
    with pytest.raises(ConfigError, match="single precision, not of half"):
        prepare(folder, tmp_path / "out", "half")
    with pytest.raises(ConfigError, match="is the data itself"):
        prepare(folder, folder)


def test_a_store_holds_what_its_source_holds_and_nothing_of_another(
    folder: Path, tmp_path: Path, volume: Volume
) -> None:
    output = tmp_path / "out"
    prepare(folder, output)
    (folder / "singlecoil_train" / "t1.h5").unlink()
    report = prepare(folder, output)
    assert (report.num_written, report.num_kept, report.num_dropped) == (0, 2, 1)
    assert set(read_manifest(output).volumes) == {"singlecoil_train/t0.h5", "singlecoil_val/v0.h5"}
    assert not (output / "singlecoil_train" / "t1.h5.npy").exists()
    volume(tmp_path / "other" / "singlecoil_train" / "t9.h5")
    with pytest.raises(ConfigError, match=r"holds a store made of .*set, not of .*other"):
        prepare(tmp_path / "other", output)


def test_a_pattern_and_a_scan_with_its_own_mask_make_batches_of_their_own(tmp_path: Path, volume: Volume) -> None:
    own = np.arange(36) % 2 == 0
    for number, mask in enumerate((own, None)):
        volume(tmp_path / "singlecoil_val" / f"v{number}.h5", 2, mask=mask)
    for changes in ({}, {"resident": True}):
        data = datamodule(tmp_path, mask=Gaussian2d([0.1], [4], 0.2), batch_size=4, **changes)
        data.setup("validate")
        data.serve(Needing())
        sizes = sorted(data.on_after_batch_transfer(b, 0).measurement.mask.shape for b in data.val_dataloader())
        assert sizes == [(2, 1, 1, 36), (2, 1, 40, 36)]


def test_the_file_is_one_that_numpy_maps(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "out")
    mapped = np.load(tmp_path / "out" / "singlecoil_train" / "t0.h5.npy", mmap_mode="r")
    assert mapped["kspace"].shape == (3, 1, 40, 48)
    assert mapped["target"].shape == (3, 40, 40)


def test_bad_and_untargeted_volumes_are_told(folder: Path, tmp_path: Path, volume: Volume) -> None:
    (folder / "singlecoil_train" / "bad.h5").write_bytes(b"no")
    import h5py

    path = volume(folder / "singlecoil_test" / "x.h5")
    with h5py.File(path, "a") as f:
        del f["reconstruction_esc"]
    report = prepare(folder, tmp_path / "out")
    assert (report.num_written, report.without_target) == (3, 1)
    assert len(report.bad) == 1
    assert "bad.h5" in report.bad[0]


def test_models_of_k_space_and_patterns_in_both_directions_are_refused(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "out")
    data = datamodule(None, prepared=str(tmp_path / "out"))
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"data\.prepared.*whole readout.*data\.root"):
        data.serve(Needing(FULL_READOUT))
    with pytest.raises(ConfigError, match=r"data\.prepared.*both directions"):
        datamodule(None, prepared=str(tmp_path / "out"), mask=Gaussian2d([0.1], [4], 0.2)).setup("fit")


def test_damage_is_found(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    prepare(folder, output)
    path = output / "singlecoil_train" / "t0.h5.npy"
    raw = path.read_bytes()
    path.write_bytes(raw[:-8])
    with pytest.raises(InputError, match=r"t0\.h5\.npy: expected a file of \d+ bytes, but it has"):
        datamodule(None, prepared=str(output)).setup("fit")
    path.write_bytes(raw[:2000] + bytes([raw[2000] ^ 1]) + raw[2001:])
    with pytest.raises(InputError, match="checksum"):
        datamodule(None, prepared=str(output)).setup("fit")
    data = datamodule(None, prepared=str(output), check="headers")
    data.setup("fit")
    path.write_bytes(raw[:-8])
    with pytest.raises(InputError, match=r"t0\.h5\.npy: ends within slice 2"):
        list(data.train_dataloader())
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        list(data.train_dataloader())


def test_a_folder_that_is_no_store_is_refused(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(
        ConfigError, match=r"data\.prepared.*prepare_data data\.root=|data\.prepared.*prepare_data\.py data\.root="
    ):
        datamodule(None, prepared=str(folder))
    with pytest.raises(ConfigError, match=r"data\.root: give the folder"):
        datamodule(None)
    prepare(folder, output)
    with pytest.raises(InputError, match=r"multicoil_train.*singlecoil_train"):
        datamodule(None, prepared=str(output), challenge="multicoil").setup("fit")
    good = json.loads((output / FILE_NAME).read_text())
    name = "singlecoil_train/t0.h5"
    for change in (
        {"version": 99},
        {"precision": "double"},
        {"volumes": {"../t0.h5": good["volumes"][name]}},
        {"volumes": {name: good["volumes"][name] | {"size": 10**15}}},
        {"volumes": {name: good["volumes"][name] | {"info": {}}}},
        {"volumes": [1]},
    ):
        (output / FILE_NAME).write_text(json.dumps(good | change))
        with pytest.raises(InputError, match="no sound manifest"):
            read_manifest(output)
    (output / FILE_NAME).write_text("{")
    with pytest.raises(InputError, match="no sound manifest"):
        read_manifest(output)


def test_what_does_not_fit_into_memory_is_refused_with_the_sizes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "free_memory", lambda device: 10_000)
    data = datamodule(folder, resident=True)
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"data\.resident=true: the data needs \d+.*kB on cpu, which has 10\.0 kB"):
        data.train_dataloader()


def test_lightning_trains_and_scores_a_resident_set(folder: Path, tmp_path: Path) -> None:
    scores = []
    for changes in ({}, {"resident": True}):
        data = datamodule(folder, **changes)
        module = ReconModule(ZeroFilled())
        trainer_of(tmp_path).test(module, datamodule=data, verbose=False)
        scores.append(module.results["ssim"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_lightning_tells_a_resident_set_its_epochs(folder: Path, tmp_path: Path) -> None:
    draws = []
    for changes in ({}, {"resident": True}):
        losses, module = Losses(), ReconModule(small_unet(), L1Loss(), torch.optim.Adam)
        trainer_of(tmp_path, losses, max_epochs=2, limit_val_batches=0).fit(module, datamodule(folder, **changes))
        draws.append(losses.draws)
    assert draws[0] == draws[1]
    assert [draw[:2] for draw in draws[0] if draw[2] == 0] != [draw[:2] for draw in draws[0] if draw[2] == 1]


def test_a_resident_epoch_has_the_order_and_masks_of_its_number(folder: Path) -> None:
    def epochs(**changes: Any) -> list[list[Any]]:
        data = datamodule(folder, batch_size=1, **changes)
        data.setup("fit")
        data.serve(Needing())
        loader = data.train_dataloader()
        found = []
        for epoch in (0, 1):
            loader.batch_sampler.sampler.set_epoch(epoch)
            found.append([(int(b.volume), int(b.slice_num), b.mask.flatten().tolist()) for b in loader])
        return found

    free, held = epochs(), epochs(resident=True)
    assert free == held
    assert held[0] != held[1]


HOLD = """
import os, sys, time
from pathlib import Path
from mrirecon.system.atomic import alone_in
with alone_in(Path(sys.argv[1])):
    if os.fork() == 0:  # as a process that looks files up
        print(os.getpid(), flush=True)  # once it runs: it has let go of the lock by then
    time.sleep(60)
"""


def test_a_second_run_into_one_store_is_refused_and_a_killed_one_leaves_no_lock(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(ConfigError, match=r"output=.*out: another run is writing there"):
                prepare(folder, output)
            assert [path.name for path in output.iterdir()] == [".lock"]
            holder.kill()
            holder.wait()
            assert prepare(folder, output).num_written == 3  # though a child of the killed one is still there
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)
    assert prepare(folder, output).num_kept == 3
