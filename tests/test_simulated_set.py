"""K-space made from images: what is kept of them, what is added, who shares a split, and what is said about it."""

import hashlib
import json
import logging
import re
import threading
from dataclasses import fields
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from fastmri.data.subsample import RandomMaskFunc
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mrirecon.data.catalog.index import Index
from mrirecon.data.datamodule import recon_datamodule
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.images import nifti
from mrirecon.io.raw import fastmri
from mrirecon.physics.coils import rss
from mrirecon.physics.fft import fft2c, ifft2c
from mrirecon.synthetic.random_fields import volume_generator
from mrirecon.synthetic.simulated_set import SimulatedSet, choose_slices
from mrirecon.synthetic.simulation import image_phase, object_level, sample, simulate_from_images
from mrirecon.synthetic.subjects import file_names, split_subjects

SIZE = (24, 28, 12)  # x y z; odd sizes have tests of their own


def settings(**changes) -> SimulatedSet:
    plain = {
        "output": None, "num_coils": 3, "snr": 30.0, "seed": 0, "slice_axis": "axial", "num_slices": 4, "matrix": None,
        "acquisition": None, "val_fraction": 0.2, "test_fraction": 0.2, "on_bad_image": "error",
    }  # fmt: skip
    return SimulatedSet(**(plain | changes))


def ball(seed: int = 0, size: tuple[int, ...] = SIZE) -> np.ndarray:
    """A bright ball with texture in dark noise, none of it negative; the outermost slices are air."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.7
    return (np.abs(rng.normal(0, 1, size)) + inside * (80 + 20 * rng.random(size))).astype(np.float32)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    """Five subjects, of whom one has two images."""
    folder = tmp_path_factory.mktemp("images") / "heads"
    for number in range(4):
        save(folder / f"head{number}.nii.gz", ball(number))
    save(folder / "sub-07" / "anat" / "sub-07_T1w.nii", ball(7))
    save(folder / "sub-07" / "anat" / "sub-07_T2w.nii", ball(8, (25, 27, 11)))
    return folder


@pytest.fixture(scope="module")
def written(heads, tmp_path_factory) -> Path:
    return settings(output=str(tmp_path_factory.mktemp("set"))).write(heads)


@pytest.fixture
def one(tmp_path) -> Path:
    return save(tmp_path / "one.nii", ball())


def contents(root: Path) -> dict[str, str]:
    """Of the arrays: HDF5 keeps no promise about its own bytes."""
    return {path.relative_to(root).as_posix(): digest(path) for path in sorted(root.glob("*/*.h5"))}


def digest(path: Path) -> str:
    with h5py.File(path) as h5file:
        return hashlib.sha256(h5file["kspace"][()].tobytes()).hexdigest()


def manifest(root: Path) -> dict:
    return json.loads((root / "simulated.json").read_text())


def simulate(images: torch.Tensor, num_coils: int = 4, snr: float = 20.0, matrix=None, seed: int = 0):
    z = torch.linspace(0, 0.4, len(images))
    return simulate_from_images(
        images, z, object_level(images), matrix=matrix, num_coils=num_coils, snr=snr, generator=volume_generator(seed)
    )


# Physics


@pytest.mark.parametrize("num_coils", [1, 2, 5])
@pytest.mark.parametrize("size", [(24, 28), (25, 27), (7, 16)])
def test_without_noise_the_target_is_the_image(size, num_coils):
    images = torch.from_numpy(ball(size=(3, *size)) + 5)
    result = simulate(images, num_coils, snr=1e9)
    assert result.kspace.shape == (3, num_coils, *size)
    assert result.kspace.dtype == torch.complex64
    # Single-precision transforms of a few hundred points.
    torch.testing.assert_close(result.target, images, rtol=1e-4, atol=1e-3)


def test_target_is_rss_of_the_noisy_images():
    result = simulate(torch.from_numpy(ball(size=(2, 24, 28))))
    torch.testing.assert_close(rss(ifft2c(result.kspace)), result.target)


@pytest.mark.parametrize("snr", [5.0, 40.0])
def test_noise_is_as_stated(snr):
    images = torch.zeros(4, 64, 64)
    images[:, 24:40, 24:40] = 50.0
    result = simulate(images, snr=snr)
    assert result.noise_std == pytest.approx(50 / snr)
    background = ifft2c(result.kspace)[..., :20, :]
    # 20,480 samples each: the standard error is half a per cent.
    for part in (background.real, background.imag):
        assert float(part.std()) == pytest.approx(result.noise_std, rel=0.03)


def test_the_object_is_what_is_far_brighter_than_the_background():
    values = torch.from_numpy(ball())
    assert 5 < object_level(values) < 60
    assert object_level(torch.zeros(2, 8, 8)) == float("inf")


def test_phase_is_smooth_not_zero_and_another_for_another_volume():
    one, two = (image_phase((64, 60), torch.zeros(1), volume_generator(seed)) for seed in range(2))
    assert float(one.diff(dim=-1).abs().max()) < 0.5
    assert float(one.diff(dim=-2).abs().max()) < 0.5
    assert float(one.std()) > 0.1
    assert not torch.allclose(one, two)


def test_coils_see_different_sides():
    images = ifft2c(simulate(torch.full((1, 32, 32), 9.0), num_coils=4, snr=1e9).kspace)[0]
    brightest = {tuple(np.unravel_index(int(image.abs().argmax()), (32, 32))) for image in images}
    assert len(brightest) == 4


@pytest.mark.parametrize(("size", "kept"), [((24, 28), (13, 14)), ((25, 27), (12, 13)), ((24, 28), (24, 28))])
def test_a_smaller_matrix_keeps_the_middle_of_kspace_and_the_brightness(size, kept):
    flat = torch.full((1, *size), 3.0, dtype=torch.complex64)
    torch.testing.assert_close(sample(flat, kept), fft2c(torch.full((1, *kept), 3.0, dtype=torch.complex64)))
    row = torch.arange(size[0])[:, None] - size[0] // 2
    wave = torch.exp(2j * torch.pi * 3 * row / size[0]).expand(1, *size)
    peak = int(sample(wave, kept)[0].abs().sum(-1).argmax())
    assert peak == kept[0] // 2 + 3


# The set


def test_what_is_written_is_fastmri_layout_and_says_that_it_is_simulated(written):
    paths = sorted(written.glob("*/*.h5"))
    assert len(paths) == 6
    for path in paths:
        info = fastmri.inspect(path, "multicoil")
        assert info.simulated
        assert not info.notes
        assert info.kspace_size == info.recon_size
        assert (info.num_slices, info.num_coils, info.acquisition) == (4, 3, "SIM")
        with h5py.File(path) as h5file:
            attrs = dict(h5file.attrs)
        assert attrs["simulated"]
        assert path.stem.split("_")[-1] in attrs["simulated_from"]
        assert (attrs["snr"], attrs["num_coils"], attrs["seed"]) == (30.0, 3, 0)


def test_the_image_is_the_slice_of_the_source(heads, written):
    names = manifest(written)["slices"]
    path = next(written.glob("*/head2.h5"))
    source = nifti.read(heads / "head2.nii.gz", "axial").values[names["head2.nii.gz"]]
    with h5py.File(path) as h5file:
        target = h5file["reconstruction_rss"][()]
    assert target.shape == source.shape == (4, 28, 24)
    # Noise of three coils at an SNR of 30: the mean of |target - source| is about 1/30 of the signal.
    assert np.abs(target - source)[source > 50].mean() < 0.06 * source[source > 50].mean()


def test_no_subject_is_in_two_splits(written):
    splits = manifest(written)["splits"]
    assert [len({name.split("/")[0] for name in splits[split]}) for split in ("train", "val", "test")] == [3, 1, 1]
    assert sum(map(len, splits.values())) == 6
    together = {split for split, names in splits.items() for name in names if name.startswith("sub-07")}
    assert len(together) == 1
    for split, names in splits.items():
        assert len(list((written / f"multicoil_{split}").glob("*.h5"))) == len(names)


@pytest.mark.parametrize("num_subjects", range(3, 12))
@pytest.mark.parametrize("fractions", [(0.15, 0.15), (0.45, 0.45), (0.0, 0.3), (0.01, 0.0)])
def test_subjects_are_dealt_once(num_subjects, fractions):
    subjects = [f"s{number}" for number in range(num_subjects)]
    splits = split_subjects(subjects, *fractions, seed=3)
    assert sorted(name for names in splits.values() for name in names) == sorted(subjects)
    assert splits["train"]
    assert [bool(splits["val"]), bool(splits["test"])] == [fraction > 0 for fraction in fractions]


def test_one_subject_serves_all_splits_and_that_is_said_every_time(one, tmp_path, caplog):
    simulated = settings(output=str(tmp_path / "set"))
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            root = simulated.write(one)
        assert "scores are of the images that are trained on" in caplog.text
    assert len(set(contents(root).values())) == 1
    assert len(contents(root)) == 3
    assert "one subject only" in manifest(root)["warnings"][0]


def test_slices_of_air_are_left_out_and_counted(one, tmp_path):
    root = settings(output=str(tmp_path / "set"), num_slices=None).write(one)
    record = manifest(root)
    taken = record["slices"]["one.nii"]
    assert record["empty_slices"]["one.nii"] == 12 - len(taken) > 0
    assert min(taken) > 0
    assert max(taken) < 11


@pytest.mark.parametrize(
    ("num", "expected"), [(None, range(10, 20)), (1, [15]), (3, [12, 15, 17]), (20, range(10, 20)), (9, range(11, 20))]
)
def test_slices_spread_over_the_middle(num, expected):
    assert choose_slices(np.arange(10, 20), num) == tuple(expected)


def test_a_single_coil_makes_single_coil_files_as_well(one, tmp_path):
    root = settings(output=str(tmp_path / "set"), num_coils=1, acquisition="AXT1").write(one)
    single = fastmri.read(root / "singlecoil_train" / "one.h5", "singlecoil")
    multi = fastmri.read(root / "multicoil_train" / "one.h5", "multicoil")
    assert np.array_equal(single.kspace, multi.kspace)
    assert np.array_equal(single.target, multi.target)
    assert single.info.acquisition == "AXT1"


def test_matrix_and_plane(one, tmp_path):
    root = settings(output=str(tmp_path / "set"), matrix=[8, 20], slice_axis="coronal").write(one)
    assert fastmri.inspect(root / "multicoil_val" / "one.h5").kspace_size == (8, 20)
    with pytest.raises(InputError, match=re.escape("matrix=[13, 20], but they are [12, 24]")):
        settings(output=str(tmp_path / "other"), matrix=[13, 20], slice_axis="coronal").write(one)


def test_the_same_settings_give_the_same_set_and_a_complete_one_is_not_touched(heads, written, tmp_path):
    again = settings(output=str(tmp_path)).write(heads)
    assert contents(again) == contents(written)
    before = {path: path.stat().st_mtime_ns for path in again.rglob("*")}
    settings(output=str(tmp_path)).write(heads)
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*")} == before


def test_a_volume_does_not_depend_on_the_others(heads, written, tmp_path):
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "head1.nii.gz").write_bytes((heads / "head1.nii.gz").read_bytes())
    root = settings(output=str(tmp_path / "set")).write(tmp_path / "heads")
    assert digest(root / "multicoil_val" / "head1.h5") == digest(next(written.glob("*/head1.h5")))


def test_the_default_folder_is_named_by_images_and_settings(one, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = settings().write(one)
    assert re.fullmatch(r"data/simulated/one\.nii-[0-9a-f]{12}", first.as_posix())
    assert settings().write(one) == settings().folder(one) == first
    assert settings(snr=31.0).write(one) != first
    save(one, ball(5))
    assert settings().write(one) != first


def test_files_of_ours_below_the_images_change_nothing(one, tmp_path):
    """The set, and the index of it, may lie in the folder of the images."""
    simulated = settings(output=str(tmp_path / "set"))
    root = simulated.write(tmp_path)
    Index(root, num_processes=0).look_up(sorted(root.glob("*/*.h5")))
    (tmp_path / "notes.txt").write_text("more")
    before = contents(root)
    assert contents(simulated.write(tmp_path)) == before


def test_other_settings_and_foreign_files_are_refused_in_a_folder_that_was_named(one, tmp_path):
    root = settings(output=str(tmp_path / "set")).write(one)
    with pytest.raises(ConfigError, match=r"data\.writer\.output=.*snr=30\.0 \(now 9\.0\)"):
        settings(output=str(root), snr=9.0).write(one)
    foreign = tmp_path / "foreign" / "multicoil_train" / "mine.h5"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"somebody's data")
    with pytest.raises(ConfigError, match=re.escape("mine.h5")):
        settings(output=str(tmp_path / "foreign")).write(one)


def test_interrupted_writing_is_resumed_and_progress_counts_to_the_end(heads, written, tmp_path):
    seen = []

    def interrupt(done, total):
        seen.append((done, total))
        if done == 7:  # one of six is written; the others that are under way may still end
            raise KeyboardInterrupt

    simulated = settings(output=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        simulated.write(heads, interrupt)
    assert seen == [(done, 12) for done in range(8)]
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.h5")}
    assert 1 <= len(finished) < 6
    simulated.write(heads)
    assert contents(tmp_path) == contents(written)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_of_two_writers_the_second_waits_and_finds_the_set_complete(heads, written, tmp_path):
    counts = [[], []]
    threads = [
        threading.Thread(
            target=settings(output=str(tmp_path)).write,
            args=(heads, lambda done, total, seen=seen: seen.append(done)),
        )
        for seen in counts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, counts)) == [0, 13]
    assert contents(tmp_path) == contents(written)


@pytest.mark.parametrize("bad", ["cut", "air"])
def test_a_bad_image_stops_everything_before_it_begins_or_is_left_out(bad, heads, tmp_path, caplog):
    folder = tmp_path / "images"
    for number in range(3):
        save(folder / f"{number}.nii", ball(number))
    victim = folder / "1.nii"
    if bad == "cut":
        victim.write_bytes(victim.read_bytes()[:500])
    else:
        values = np.zeros(SIZE, np.float32)
        values[12, 12, 6] = 9
        save(victim, values)
    with pytest.raises(InputError, match=r"1\.nii.*on_bad_image=skip"):
        settings(output=str(tmp_path / "set")).write(folder)
    assert not list(tmp_path.rglob("*.h5"))
    with caplog.at_level(logging.WARNING):
        root = settings(output=str(tmp_path / "set"), on_bad_image="skip").write(folder)
    assert list(manifest(root)["left_out"]) == ["1.nii"]
    assert "left out" in caplog.text
    assert "two subjects only" in caplog.text
    assert len(contents(root)) == 6


def test_a_folder_of_bad_images_only_is_refused_though_they_are_skipped(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.nii: expected"):
        settings(output=str(tmp_path / "set"), on_bad_image="skip").write(tmp_path / "images")


def test_file_names_are_plain_and_differ():
    names = file_names(
        ["a b/T1.nii.gz", "a_b/T1.nii", "A_B/t1.nii", ".x.dcm", "/".join(["long"] * 99) + ".nii", "köpf.nii"]
    )
    assert len({name.lower() for name in names}) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,140}\.h5", name) for name in names)
    assert names[3] == "x.h5"


def test_it_trains_validates_and_tests_as_fastmri_data_does(written):
    data = recon_datamodule(
        root=str(written),
        challenge="multicoil",
        mask=RandomMaskFunc([0.2], [2]),
        batch_size=2,
        num_workers=0,
        check="full",
        split="test",
        seed=0,
    )
    data.setup("fit")
    assert sorted(data.sets) == ["test", "train", "val"]
    batch = next(iter(data.train_dataloader()))
    assert batch.kspace.shape[1] == 3


def test_what_is_simulated_survives_the_index(written, volume, tmp_path):
    for path in (*written.glob("*/head0.h5"), volume(tmp_path / "source.h5", num_coils=2)):
        copy = tmp_path / "set" / "multicoil_train" / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    paths = sorted((tmp_path / "set").glob("*/*.h5"))
    index = Index(tmp_path / "set", num_processes=0)
    index.look_up(paths)
    index.write(tmp_path / "set" / "index.json")
    again = Index(tmp_path / "set", num_processes=0).entries
    assert {name: entry.info.simulated for name, entry in again.items()} == {
        "multicoil_train/head0.h5": True,
        "multicoil_train/source.h5": False,
    }


def test_a_claim_of_simulation_that_is_neither_true_nor_false_counts_and_is_noted(volume, tmp_path):
    path = volume(tmp_path / "a.h5")
    with h5py.File(path, "a") as h5file:
        h5file.attrs["simulated"] = "maybe"
    info = fastmri.inspect(path)
    assert info.simulated
    assert "maybe" in info.notes[-1]


@pytest.mark.parametrize(
    "changes",
    [{"num_coils": 0}, {"snr": 0.0}, {"snr": float("nan")}, {"snr": float("inf")}, {"seed": -1},
     {"slice_axis": "oblique"}, {"num_slices": 0}, {"matrix": (64,)}, {"matrix": (6, 64)}, {"acquisition": ""},
     {"val_fraction": 1.0}, {"test_fraction": -0.1}, {"val_fraction": 0.5, "test_fraction": 0.5},
     {"on_bad_image": "ignore"}],
    ids=str,
)  # fmt: skip
def test_parameters_that_cannot_work_are_refused(changes):
    with pytest.raises(ConfigError, match=rf"data\.writer\.{next(iter(changes))}="):
        settings(**changes)


def test_the_yaml_has_every_knob_and_makes_the_set():
    text = OmegaConf.load(Path(__file__).parents[1] / "conf" / "data" / "simulated.yaml")
    assert set(text.writer) == {"_target_", *(field.name for field in fields(SimulatedSet))}
    text.writer.matrix = [64, 48]
    assert instantiate(text.writer).matrix == (64, 48)


def test_a_real_head_becomes_a_scan(realdata, tmp_path):
    source = realdata / "anatomy" / "brain_t1.nii.gz"
    root = settings(output=str(tmp_path), num_slices=1, num_coils=4).write(source)
    (name,) = manifest(root)["slices"]
    scan = fastmri.read(root / "multicoil_train" / "brain_t1.h5")
    assert scan.kspace.shape == (1, 4, 384, 274)
    image = nifti.read(source, "axial").values[manifest(root)["slices"][name][0]]
    bright = image > 50
    assert np.corrcoef(scan.target[0][bright], image[bright])[0, 1] > 0.95
