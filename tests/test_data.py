"""The way of a batch: what is read, which mask is drawn, which slices go together, what is refused before it starts."""

import logging
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from conftest import Volume
from fastmri.data import transforms
from fastmri.data.subsample import RandomMaskFunc
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.trainer.states import TrainerFn
from samples import Needing, slices

from mrirecon.data.batches import ShapeBatches
from mrirecon.data.datamodule import ReconDataModule, recon_datamodule
from mrirecon.data.sources import Draw, MaskedSlices, Source
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.raw import fastmri
from mrirecon.physics.sample import FULL_READOUT, Slice, collate, undersample
from mrirecon.physics.zero_filled import zero_filled
from mrirecon.sampling.masks import draw_mask, volume_seed

MASK = RandomMaskFunc([0.08], [4])


def datamodule(place: Path, **changes: object) -> ReconDataModule:
    settings = {
        "root": str(place), "challenge": "singlecoil", "mask": MASK, "batch_size": 2, "num_workers": 0, "check": "full",
        "split": "val", "seed": 0,
    }  # fmt: skip
    return recon_datamodule(**{**settings, **changes})  # type: ignore[arg-type]


def ready(place: Path, stage: str = "fit", **changes: object) -> ReconDataModule:
    module = datamodule(place, **changes)
    module.setup(stage)
    return module


# --- undersample ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_coils", [None, 3])
def test_the_normalised_image_and_target_equal_fastmri_s_transform(
    tmp_path: Path, volume: Volume, num_coils: int | None
) -> None:
    challenge = "singlecoil" if num_coils is None else "multicoil"
    path = volume(tmp_path / f"{challenge}_val" / "v.h5", 1, num_coils, size=(64, 48), target=(40, 40), scale=1e-4)
    data = ready(tmp_path, "validate", challenge=challenge, batch_size=1)
    batch = next(iter(data.val_dataloader()))
    sample = undersample(batch)

    theirs = transforms.UnetDataTransform(challenge, MASK, use_seed=True)
    with h5py.File(path) as f:
        kspace = f["kspace"][0]
        target = f[f"reconstruction_{'esc' if num_coils is None else 'rss'}"][0]
        expected = theirs(kspace, None, target, dict(f.attrs), path.name, 0)
    measurement = undersample(batch, [FULL_READOUT]).measurement
    image = sample.measurement.zero_filled[0] - sample.mean[0]
    again = zero_filled(measurement.kspace, measurement.mask, (40, 40))
    torch.testing.assert_close(again, sample.measurement.zero_filled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(image.clamp(-6, 6), expected.image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((sample.target[0] - sample.mean[0]).clamp(-6, 6), expected.target, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sample.scale[0], expected.std + 1e-11, atol=0, rtol=1e-5)
    assert float(sample.data_range[0] * sample.scale[0]) == pytest.approx(target.max(), rel=1e-6)


def test_the_mask_removes_columns_and_leaves_no_negative_zero(folder: Path) -> None:
    batch = next(iter(ready(folder).val_dataloader()))
    masked = undersample(batch, [FULL_READOUT]).measurement.kspace
    assert not masked[~batch.mask.expand_as(masked)].any()
    assert not torch.signbit(torch.view_as_real(masked[~batch.mask.expand_as(masked)])).any()


def test_an_all_zero_slice_stays_finite() -> None:
    zeros = torch.zeros(1, 2, 16, 16, dtype=torch.complex64)
    mask = torch.ones(1, 1, 1, 16, dtype=torch.bool)
    sample = undersample(slices(zeros, mask, (8, 8), target=torch.zeros(1, 8, 8)), ["kspace"])
    values = [sample.measurement.zero_filled, torch.view_as_real(sample.measurement.kspace), sample.target, sample.mean]
    assert all(torch.isfinite(x).all() for x in values)
    assert float(sample.scale) == 1


# --- masks of a source ---------------------------------------------------------------------------------------------


def test_evaluation_masks_are_fastmri_s_for_the_volume_and_training_masks_follow_the_counter(folder: Path) -> None:
    data = ready(folder)
    expected, _ = draw_mask(MASK, (40, 36), volume_seed("v0.h5"))
    val = data.sets["val"]
    for epoch in (0, 3):
        assert np.array_equal(val[Draw(1, epoch)].mask.numpy()[0], expected)
    train = data.sets["train"]
    masks = {tuple(train[Draw(i, epoch)].mask.squeeze().tolist()) for i in (0, 1) for epoch in (0, 1, 2)}
    assert len(masks) == 6
    assert torch.equal(train[Draw(1, 2)].mask, train[Draw(1, 2)].mask)


def test_training_masks_do_not_depend_on_workers_or_batch_size(folder: Path) -> None:
    def masks(**changes: object) -> dict[tuple[int, int], list[bool]]:
        loader = ready(folder, **changes).train_dataloader()
        found = {}
        for batch in loader:
            drawn = batch.mask if isinstance(batch, Slice) else batch.measurement.mask
            for v, s, m in zip(batch.volume.tolist(), batch.slice_num.tolist(), drawn, strict=True):
                found[v, s] = m.squeeze().tolist()
        return found

    one = masks(batch_size=1)
    assert len(one) == 9
    assert one == masks(batch_size=3, num_workers=2)


def test_evaluation_scores_every_volume_at_each_acceleration(folder: Path) -> None:
    data = ready(folder, mask=RandomMaskFunc([0.08, 0.04], [4, 8]), batch_size=3)
    val, train = data.sets["val"], data.sets["train"]
    assert (list(val.masks), list(train.masks)) == (["4x", "8x"], [""])
    found = {}
    for batch in data.val_dataloader():
        for number, slice_num, mask in zip(batch.volume.tolist(), batch.slice_num.tolist(), batch.mask, strict=True):
            found[number, slice_num] = int(mask.sum())
    assert len(found) == len(val) == 8
    for (number, _), num_sampled in found.items():
        info, name = val.volume(number)
        assert num_sampled == draw_mask(val.masks[name], info.kspace_size, volume_seed(info.name))[0].sum()
    assert {val.volume(number)[1] for number, _ in found} == {"4x", "8x"}


def test_fixed_masks_are_those_of_the_first_epoch_in_every_epoch(folder: Path) -> None:
    free, fixed = (ready(folder, fixed_masks=value).sets["train"] for value in (False, True))
    for item in range(len(fixed)):
        masks = [fixed[Draw(item, epoch)].mask for epoch in range(3)]
        assert all(torch.equal(mask, free[Draw(item, 0)].mask) for mask in masks)
    assert not torch.equal(fixed[Draw(0, 0)].mask, fixed[Draw(1, 0)].mask)


def test_a_scan_s_own_mask_is_kept(tmp_path: Path, volume: Volume) -> None:
    own = np.zeros(36, dtype=bool)
    own[[2, 9, 16, 17, 18, 19, 30]] = True
    info = fastmri.inspect(volume(tmp_path / "a.h5", mask=own))
    mask, acs_mask, _ = MaskedSlices(Source([info], [1.0]), {"": MASK}, None).volume_sampling(info, "")
    assert np.array_equal(mask[0], own)
    assert np.flatnonzero(acs_mask[0]).tolist() == [16, 17, 18, 19]


def test_columns_outside_the_padding_are_in_no_mask(tmp_path: Path, volume: Volume) -> None:
    path = volume(tmp_path / "a.h5")
    with h5py.File(path, "a") as f:
        header = f["ismrmrd_header"][()].decode()
        del f["ismrmrd_header"]
        # 36 columns; of 24 acquired ones the 12th is the centre: padding_left = 18 - 12, padding_right = 6 + 23 + 1
        header = header.replace("<maximum>35</maximum>", "<maximum>23</maximum>").replace(
            "<center>18</center>", "<center>12</center>"
        )
        f["ismrmrd_header"] = header
    info = fastmri.inspect(path)
    assert info.acquired == (6, 30)
    dataset = MaskedSlices(Source([info], [1.0]), {"": RandomMaskFunc([0.08], [2])}, seed=0)
    samplings = [dataset.sampling("", 0, epoch) for epoch in range(20)]
    drawn = np.array([sampling.mask[0] for sampling in samplings])
    assert drawn[:, :6].sum() == drawn[:, 30:].sum() == 0
    assert drawn[:, 6:30].any(axis=0).all()
    assert samplings[0].acceleration == pytest.approx(24 / drawn[0].sum())


# --- batches -------------------------------------------------------------------------------------------------------


@given(
    shapes=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    batch_size=st.integers(1, 7),
    num_replicas=st.integers(1, 4),
    seed=st.none() | st.integers(0, 9),
)
def test_batches_hold_one_shape_and_every_slice_once(
    shapes: list[int], batch_size: int, num_replicas: int, seed: int | None
) -> None:
    ranks = [ShapeBatches(shapes, batch_size, seed, num_replicas, rank) for rank in range(num_replicas)]
    dealt = [list(rank) for rank in ranks]
    assert {len(batches) for batches in dealt} == {len(ranks[0])}
    everything = [batch for batches in dealt for batch in batches]
    assert all(len({shapes[draw.item] for draw in batch}) == 1 and len(batch) <= batch_size for batch in everything)
    counts = np.bincount([draw.item for batch in everything for draw in batch], minlength=len(shapes))
    assert counts.min() >= 1
    repeats = len(everything) - len({tuple(batch) for batch in everything})
    assert repeats < num_replicas
    assert counts.max() == 1 or repeats


def test_epochs_differ_repeat_and_reach_the_masks() -> None:
    batches = ShapeBatches([0] * 30, 4, seed=0)
    first = list(batches)
    batches.sampler.set_epoch(1)
    second = list(batches)
    batches.set_epoch(0)
    assert list(batches) == first
    assert [d.item for b in first for d in b] != [d.item for b in second for d in b]
    assert {d.epoch for b in second for d in b} == {1}


def test_lightning_sets_the_epoch_on_the_batches(folder: Path, tmp_path: Path) -> None:
    """It does so on `batch_sampler.sampler` only: without that every epoch would have one order, silently."""
    from test_module import Losses, ReconModule, small_unet, trainer_of

    from mrirecon.training.losses import L1Loss

    losses = Losses()
    module = ReconModule(small_unet(), L1Loss(), torch.optim.Adam)
    trainer_of(tmp_path, losses, max_epochs=2, limit_val_batches=0).fit(module, datamodule(folder, batch_size=1))
    orders = [[draw[:2] for draw in losses.draws if draw[2] == epoch] for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


# --- what is refused before the first step ---------------------------------------------------------------------------


def rewrite(path: Path, **datasets: np.ndarray | None) -> None:
    """Replaces, or with None removes, data sets of a file."""
    with h5py.File(path, "a") as f:
        for name, value in datasets.items():
            if name in f:
                del f[name]
            if value is not None:
                f[name] = value


def first(folder: Path) -> Path:
    return folder / "singlecoil_train" / "t0.h5"


def test_a_truncated_file_is_refused_by_name(folder: Path) -> None:
    path = first(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"t0\.h5"):
        ready(folder)


def test_a_training_volume_without_target_is_refused(folder: Path) -> None:
    rewrite(first(folder), reconstruction_esc=None)
    with pytest.raises(InputError, match=r"t0\.h5: has no target"):
        ready(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["kspace", "reconstruction_esc"])
def test_values_that_are_not_finite_are_refused_with_file_and_slice(folder: Path, name: str, value: float) -> None:
    with h5py.File(first(folder), "a") as f:
        f[name][1, 3, 4] = value
    with pytest.raises(InputError, match=r"t0\.h5.*slice 1"):
        ready(folder)
    with pytest.raises(InputError, match=r"t0\.h5.*slice 1"):
        list(ready(folder, check="headers").train_dataloader())


def test_a_missing_maximum_is_computed_with_one_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with h5py.File(first(folder), "a") as f:
        del f.attrs["max"]
        expected = float(f["reconstruction_esc"][()].max())
    for check in ("full", "headers"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = ready(folder, check=check)
        assert data.sets["train"].source.data_ranges[0] == pytest.approx(expected)
        assert len([r for r in caplog.records if "t0.h5" in r.getMessage()]) == 1


def test_a_wrong_maximum_is_told_and_not_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with h5py.File(folder / "singlecoil_val" / "v0.h5", "a") as f:
        f.attrs["max"] = 123.0
    with caplog.at_level(logging.WARNING):
        data = ready(folder)
    assert "123" in caplog.text
    assert data.sets["val"].source.data_ranges[0] < 20


def test_mixed_coil_numbers_are_refused_or_batched(tmp_path: Path, volume: Volume, folder: Path) -> None:
    volume(folder / "singlecoil_train" / "multi.h5", num_coils=3)
    with pytest.raises(InputError, match=r"multi\.h5"):
        ready(folder)
    root = tmp_path / "m"
    for split in ("train", "val"):
        for number, num_coils in enumerate((2, 5)):
            volume(root / f"multicoil_{split}" / f"{split}{number}.h5", num_coils=num_coils)
    loader = ready(root, challenge="multicoil", batch_size=3).train_dataloader()
    assert sorted(batch.kspace.shape[1] for batch in loader) == [2, 5]


def test_a_fully_sampled_scan_without_mask_names_the_option(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"mask=random_4x"):
        ready(folder, mask=None)


def test_a_mask_that_cannot_be_kept_is_refused_in_setup(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"mask\.center_fractions"):
        ready(folder, mask=RandomMaskFunc([0.3], [4]))


def test_images_too_small_for_the_model_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"40x36 is too small for the model, which needs at least 64x64"):
        ready(folder).serve(Needing(min_size=64))


def test_a_missing_or_empty_split_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="singlecoil_test"):
        ready(folder, "test", split="test")
    (folder / "singlecoil_test").mkdir()
    with pytest.raises(InputError, match="singlecoil_test"):
        ready(folder, "test", split="test")


def test_evaluation_needs_its_own_folder_only(folder: Path) -> None:
    first(folder).parent.rename(folder / "elsewhere")
    assert len(ready(folder, "test").scored()) == 4


def test_other_files_are_ignored_with_a_count(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "singlecoil_val" / ".DS_Store").write_text("x")
    with caplog.at_level(logging.INFO):
        ready(folder, "validate")
    assert "1 other" in caplog.text


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"challenge": "both"}, "data.challenge"),
        ({"check": "none"}, "data.check"),
        ({"split": "train"}, "split"),
        ({"batch_size": 0}, "data.batch_size"),
        ({"num_workers": -1}, "data.num_workers"),
        ({"on_bad_file": "ignore"}, "data.on_bad_file"),
        ({"volume_sample_rate": 0}, "data.volume_sample_rate"),
        ({"sample_rate": 1.5}, "data.sample_rate"),
        ({"sample_rate": "half"}, "data.sample_rate"),
        ({"sample_rate": 0.5, "volume_sample_rate": 0.5}, "one of them at most"),
        ({"acquisitions": []}, "data.acquisitions"),
        ({"acquisitions": [3]}, "data.acquisitions"),
        ({"num_cols": ["many"]}, "data.num_cols"),
        ({"num_cols": [True]}, "data.num_cols"),
        ({"files": "missing.txt"}, "data.files=missing.txt"),
        ({"train_splits": []}, "data.train_splits"),
        ({"train_splits": "train"}, "data.train_splits"),
        ({"train_splits": ["train", "all"]}, "data.train_splits"),
        ({"root": []}, "data.root"),
        ({"root": ["a", "./a"]}, "names a folder twice"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        datamodule(tmp_path, **changes)


def test_narrow_scans_train_at_a_square_of_their_width(tmp_path: Path, volume: Volume) -> None:
    path = tmp_path / "singlecoil_val" / "flair.h5"
    volume(path, size=(64, 27))
    rewrite(path, reconstruction_esc=np.ones((2, 40, 40), dtype=np.float32))
    batch = next(iter(ready(tmp_path, "validate", mask=RandomMaskFunc([0.1], [4])).val_dataloader()))
    assert batch.target.shape[1:] == (27, 27)


def test_slices_collate_to_the_table_of_shapes(folder: Path) -> None:
    data = ready(folder).sets["train"]
    batch = collate([data[Draw(0, 0)], data[Draw(1, 0)]])
    assert isinstance(batch, Slice)
    assert (batch.kspace.shape, batch.kspace.dtype) == ((2, 1, 40, 36), torch.complex64)
    assert (batch.mask.shape, batch.mask.dtype) == ((2, 1, 1, 36), torch.bool)
    assert (batch.target.shape, batch.target.dtype) == ((2, 40, 36), torch.float32)
    assert (batch.data_range.dtype, batch.volume.tolist(), batch.slice_num.tolist()) == (torch.float32, [0, 0], [0, 1])


# --- the index, bad files, and what is chosen ----------------------------------------------------------------------


def names(data: ReconDataModule, split: str = "train") -> list[str]:
    return [info.name for info in data.sets[split].source.volumes]


def age(root: Path) -> None:
    """Makes the files old: the index does not trust the time of one that was just written."""
    for path in root.rglob("*.h5"):
        os.utime(path, (1e9, 1e9))


def test_values_are_checked_once_per_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(folder)
    before = ready(folder)
    monkeypatch.setattr(fastmri, "inspect", None)
    monkeypatch.setattr(fastmri, "check_values", None)
    monkeypatch.setattr(fastmri, "target_maximum", None)
    for check in ("full", "headers"):
        again = ready(folder, check=check)
        for split in ("train", "val"):
            assert names(again, split) == names(before, split)
            assert again.sets[split].source.data_ranges == before.sets[split].source.data_ranges


def test_bad_files_are_left_out_counted_and_listed_when_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(first(folder), reconstruction_esc=None)
    with h5py.File(folder / "singlecoil_train" / "t1.h5", "a") as f:
        f["kspace"][2, 3, 4] = np.nan
    with pytest.raises(InputError, match=r"t0\.h5: has no target"):
        ready(folder)
    data = ready(folder, on_bad_file="skip")
    assert names(data) == ["t2.h5"]
    assert "1 of 3 volumes are left out" in caplog.text
    assert "1 of 2 volumes are left out" in caplog.text
    assert "t0.h5: has no target" in caplog.text
    assert "t1.h5: slice 2" in caplog.text
    assert len(list(data.train_dataloader())) == 2


def test_all_bad_is_refused_with_their_number(folder: Path) -> None:
    for path in (folder / "singlecoil_train").glob("*.h5"):
        path.write_bytes(b"bad")
    for on_bad_file in ("skip", "error"):
        with pytest.raises(InputError, match=r"t0\.h5.*and 2 more of 3"):
            ready(folder, on_bad_file=on_bad_file)


def test_several_ranks_look_the_files_up_once_and_all_raise_in_setup(folder: Path) -> None:
    age(folder)
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    data = datamodule(folder)
    data.trainer = SimpleNamespace(world_size=2, state=state)  # type: ignore[assignment]
    data.prepare_data()
    assert (folder / "index.json").exists()
    first(folder).write_bytes(b"bad")
    data = datamodule(folder)
    data.trainer = SimpleNamespace(world_size=2, state=state)  # type: ignore[assignment]
    data.prepare_data()
    with pytest.raises(InputError, match=r"t0\.h5"):
        data.setup("fit")


@pytest.mark.parametrize(("rate", "count"), [(1.0, 3), (None, 3), (0.67, 2), (0.34, 1)])
def test_a_fraction_of_the_training_volumes(folder: Path, rate: float | None, count: int) -> None:
    data = ready(folder, volume_sample_rate=rate)
    assert (len(names(data)), len(names(data, "val"))) == (count, 2)
    assert names(data) == names(ready(folder, volume_sample_rate=rate))
    assert len(data.sets["train"]) == 3 * count


def test_a_fraction_of_the_training_slices_follows_the_seed(folder: Path) -> None:
    def drawn(seed: int) -> set[tuple[int, int]]:
        data = ready(folder, sample_rate=0.5, seed=seed)
        assert len(data.sets["val"]) == 4
        batches = list(data.train_dataloader())
        return {pair for b in batches for pair in zip(b.volume.tolist(), b.slice_num.tolist(), strict=True)}

    assert len(drawn(0)) == 4  # round(4.5), to even
    assert drawn(0) == drawn(0)
    assert len({frozenset(drawn(seed)) for seed in range(4)}) > 1


def test_contrasts_and_widths_are_chosen_in_every_split(folder: Path) -> None:
    for name in ("singlecoil_train/t0.h5", "singlecoil_val/v0.h5"):
        with h5py.File(folder / name, "a") as f:
            f.attrs["acquisition"] = "AXT1"
    data = ready(folder, acquisitions=["AXT1"])
    assert (names(data), names(data, "val")) == (["t0.h5"], ["v0.h5"])
    data = ready(folder, num_cols=[45])
    assert (names(data), names(data, "val")) == (["t2.h5"], ["v1.h5"])
    with pytest.raises(ConfigError, match=r"data\.acquisitions.*AXT9.*AXT1, TEST"):
        ready(folder, acquisitions=["AXT1", "AXT9"])
    with pytest.raises(ConfigError, match=r"data\.num_cols.*36, 45"):
        ready(folder, num_cols=[44])
    with pytest.raises(ConfigError, match=r"data\.volume_sample_rate=0\.1.*singlecoil_train"):
        ready(folder, volume_sample_rate=0.1)
    with pytest.raises(ConfigError, match=r"data\.sample_rate=0\.01"):
        ready(folder, sample_rate=0.01)


def test_what_is_not_chosen_may_be_bad(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("t1.h5\n\nsinglecoil_train/t2.h5\nv0.h5\n")
    first(folder).write_bytes(b"bad")
    with h5py.File(folder / "singlecoil_val" / "v1.h5", "a") as f:
        f["kspace"][0, 3, 4] = np.nan
    data = ready(folder, files=str(listing))
    assert (names(data), names(data, "val")) == (["t1.h5", "t2.h5"], ["v0.h5"])


def test_a_list_that_does_not_suit_is_refused(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    for text, words in {
        "": "is empty",
        "t1.h5\n": r"leaves nothing of .*singlecoil_val",
        "t1.h5\nv0.h5\nt7.h5\nother/t2.h5": r"2 volumes that are not there: \['t7\.h5', 'other/t2\.h5'\]",
    }.items():
        listing.write_text(text)
        with pytest.raises(ConfigError, match=rf"data\.files.*{words}"):
            ready(folder, files=str(listing))
    listing.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is no text"):
        ready(folder, files=str(listing))


def test_training_on_two_splits_at_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ready(folder, train_splits=["train", "val"])
    assert names(data) == ["t0.h5", "t1.h5", "t2.h5", "v0.h5", "v1.h5"]
    assert names(data, "val") == ["v0.h5", "v1.h5"]
    assert "the validation scores are of volumes that are trained on" in caplog.text
    assert data.sets["train"].seed == 0
    assert data.sets["val"].seed is None


def test_two_files_of_one_name_in_two_roots_stay_two_volumes(folder: Path, tmp_path: Path, volume: Volume) -> None:
    other = tmp_path / "other"
    volume(other / "singlecoil_train" / "t0.h5", size=(40, 36), seed=77)
    volume(other / "singlecoil_val" / "v7.h5", size=(40, 36), seed=78)
    data = ready(folder, root=[str(folder), str(other)], batch_size=1)
    assert names(data) == ["t0.h5", "t1.h5", "t2.h5", "t0.h5"]
    assert (folder / "index.json").exists()
    assert (other / "index.json").exists()
    source = data.sets["train"].source
    batches = {(int(b.volume), int(b.slice_num)): b for b in data.train_dataloader()}
    assert len(batches) == 11
    assert not torch.equal(batches[0, 1].kspace, batches[3, 1].kspace)
    assert not torch.equal(batches[0, 1].mask, batches[3, 1].mask)
    assert source.folder(source.volumes[0]) == str(folder / "singlecoil_train")
    assert source.folder(source.volumes[1]) is None
    assert source.name(9) == f"{other / 'singlecoil_train' / 't0.h5'} slice 0"


def test_the_index_is_not_sent_to_workers(folder: Path) -> None:
    """What a worker is given is the dataset: it knows the descriptions, and no index."""
    data = ready(folder)
    assert b"mrirecon.data.catalog.index" not in pickle.dumps(data.sets["train"])
    assert b"mrirecon.data.catalog.index" in pickle.dumps(data.volumes._indexes)
