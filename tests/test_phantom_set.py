"""The phantom data set: fastMRI's layout, whole or resumed, and never over anybody's data."""

import hashlib
import json
import re
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from defusedxml import ElementTree
from fastmri.data.subsample import RandomMaskFunc

from mrirecon.errors import ConfigError
from mrirecon.physics.coils import rss
from mrirecon.physics.crop import center_crop
from mrirecon.physics.fft import ifft2c
from mrirecon.synthetic.phantom_set import COILS, SPLITS, PhantomSet


def small(**changes):
    parameters = dict(  # noqa: C408 -- reads as the call it stands for
        num_train=4,
        num_val=2,
        num_test=2,
        num_slices=2,
        num_coils=3,
        snr=30.0,
        acceleration=4,
        center_fraction=0.08,
        matrix_sizes=((32, 32), (36, 40)),
    )
    return PhantomSet(**(parameters | changes))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    small().write(folder)
    return folder


def files(root: Path, folders: str = "*") -> list[Path]:
    return sorted(root.glob(f"{folders}/*.h5"))


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): digest(path) for path in files(root)}


def digest(path: Path) -> str:
    """Of the arrays: HDF5 keeps no promise about its own bytes."""
    with h5py.File(path) as h5file:
        return hashlib.sha256(
            b"".join(h5file[name][()].tobytes() for name in ("kspace", "reconstruction_rss"))
        ).hexdigest()


def tensor(h5file: h5py.File, name: str) -> torch.Tensor:
    return torch.from_numpy(h5file[name][()])


def test_layout(root):
    assert small().is_complete(root)
    assert [len(files(root, f"{coils}_{split}")) for coils in COILS for split in SPLITS] == [4, 2, 2] * 2
    assert {path.name for path in files(root, "multi*")} == {path.name for path in files(root, "single*")}


def test_kspace_target_and_attributes(root):
    for path in files(root):
        multi = path.parent.name.startswith("multi")
        with h5py.File(path) as h5file:
            target = h5file["reconstruction_rss" if multi else "reconstruction_esc"]
            assert h5file["kspace"].dtype == np.complex64
            assert h5file["kspace"].shape[:-2] == ((2, 3) if multi else (2,))
            assert target.dtype == np.float32
            assert h5file["kspace"].shape[-2] == 2 * target.shape[-1]
            assert h5file.attrs["max"] == pytest.approx(target[()].max())
            assert h5file.attrs["norm"] == pytest.approx(np.linalg.norm(target[()]))


def test_header_tells_the_matrix_sizes(root):
    with h5py.File(files(root)[0]) as h5file:
        header, (h, w) = ElementTree.fromstring(h5file["ismrmrd_header"][()]), h5file["kspace"].shape[-2:]
        size = h5file["reconstruction_rss"].shape[-1]
    numbers = [int(tag.text) for tag in header.iter() if (tag.text or "").isdigit()]
    encoded, recon, limits = [h, w, 1], [size, size, 1], [0, w - 1, w // 2]
    assert numbers == encoded + recon + limits


def test_single_coil_files_carry_both_targets(root):
    for path in files(root, "single*"):
        with (
            h5py.File(path) as single,
            h5py.File(root / path.parent.name.replace("single", "multi") / path.name) as multi,
        ):
            assert np.array_equal(single["reconstruction_rss"], multi["reconstruction_rss"])
            assert single["reconstruction_esc"].shape == single["reconstruction_rss"].shape
            assert single.attrs["patient_id"] == multi.attrs["patient_id"]


def test_targets_are_the_images_of_the_kspace(root):
    for path in [*files(root, "*_train"), *files(root, "*_val")]:
        with h5py.File(path) as h5file:
            kspace, multi = tensor(h5file, "kspace"), "reconstruction_esc" not in h5file
            target = tensor(h5file, "reconstruction_rss" if multi else "reconstruction_esc")
            images = center_crop(ifft2c(kspace), target.shape[-2:])
            # One rounding more or less, depending on the order of the additions.
            torch.testing.assert_close(rss(images) if multi else images.abs(), target, rtol=1e-4, atol=1e-9)


def test_test_files_are_undersampled_with_the_mask_of_their_name(root):
    for path in files(root, "*_test"):
        with h5py.File(path) as h5file:
            mask, kspace = h5file["mask"][()].astype(bool), h5file["kspace"][()]
            expected, num_low = RandomMaskFunc([0.08], [4])((1, len(mask), 2), seed=tuple(map(ord, path.name)))
            assert np.array_equal(mask, expected.numpy().reshape(-1) > 0)
            assert h5file.attrs["num_low_frequency"] == num_low
            assert h5file.attrs["acceleration"] == 4
            assert (kspace[..., ~mask] == 0).all()
            assert not np.signbit(kspace[..., ~mask].real).any()
            assert (np.abs(kspace[..., mask]) > 0).all()
    for path in [*files(root, "*_train"), *files(root, "*_val")]:
        with h5py.File(path) as h5file:
            assert "mask" not in h5file


def test_patients_differ_between_all_volumes(root):
    patients = []
    for path in files(root, "multi*"):
        with h5py.File(path) as h5file:
            patients.append(h5file.attrs["patient_id"])
    assert len(set(patients)) == len(patients) == 8
    assert len({digest(path) for path in files(root, "multi*")}) == 8


def test_contrasts_and_matrix_sizes_are_mixed():
    pairs = {
        (volume.acquisition, volume.recon_size) for volume in small(num_train=8).volumes if volume.split == "train"
    }
    assert len(pairs) == 8
    assert len({volume.recon_size for volume in small().volumes if volume.split == "val"}) == 2


def test_same_parameters_give_the_same_set(root, tmp_path):
    small().write(tmp_path)
    assert contents(tmp_path) == contents(root)


def test_another_seed_gives_another_set(root, tmp_path):
    small(seed=1).write(tmp_path)
    assert not set(contents(tmp_path).values()) & set(contents(root).values())


def test_more_volumes_leave_the_others_as_they_are(root, tmp_path):
    small(num_train=5).write(tmp_path)
    assert contents(root).items() <= contents(tmp_path).items()


def test_progress_counts_volumes(tmp_path):
    seen = []
    small().write(tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(9)]


def test_a_complete_set_is_not_touched(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    small().write(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_interrupted_writing_is_resumed(root, tmp_path):
    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small().write(tmp_path, interrupt)
    assert not small().is_complete(tmp_path)
    finished = {path: path.stat().st_mtime_ns for path in files(tmp_path)}
    assert 6 <= len(finished) < 16
    leftover = tmp_path / "multicoil_train" / ".0123.tmp"
    leftover.write_bytes(b"half a file")

    small().write(tmp_path)
    assert small().is_complete(tmp_path)
    assert contents(tmp_path) == contents(root)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not leftover.exists()


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_damaged_file_is_written_anew(root, tmp_path, damage):
    small().write(tmp_path)
    victim = files(tmp_path)[2]
    victim.write_bytes(victim.read_bytes()[:1000]) if damage == "cut" else victim.unlink()
    assert not small().is_complete(tmp_path)
    small().write(tmp_path)
    assert small().is_complete(tmp_path)
    assert contents(tmp_path) == contents(root)


def test_other_parameters_are_refused(root):
    before = contents(root)
    other = small(num_coils=2, snr=31.0)
    assert not other.is_complete(root)
    with pytest.raises(ConfigError, match=re.escape("num_coils=3 (now 2), snr=30.0 (now 31.0)")):
        other.write(root)
    assert contents(root) == before
    assert small().is_complete(root)


def test_other_parameters_are_refused_while_the_set_is_unfinished(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small().write(tmp_path, interrupt)
    with pytest.raises(ConfigError, match=r"data\.root.*seed=0 \(now 7\)"):
        small(seed=7).write(tmp_path)


def test_foreign_files_are_refused_and_kept(tmp_path):
    foreign = tmp_path / "multicoil_val" / "file_brain_AXT2_200.h5"
    foreign.parent.mkdir()
    foreign.write_bytes(b"somebody's data")
    with pytest.raises(ConfigError, match=re.escape("file_brain_AXT2_200.h5")):
        small().write(tmp_path)
    assert files(tmp_path) == [foreign]
    assert foreign.read_bytes() == b"somebody's data"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"parameters": 3}', '{"parameters": {}}', '{"parameters": {}, "files": {}}']
)
def test_a_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / "phantom.json").write_text(text)
    with pytest.raises(ConfigError, match=r"phantom\.json|data\.root"):
        small().write(tmp_path)


def test_a_root_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data\.root"):
        small().write(tmp_path / "file" / "root")


def test_of_two_writers_the_second_waits_and_finds_the_set_complete(root, tmp_path):
    counts = [[], []]
    threads = [
        threading.Thread(target=small().write, args=(tmp_path, lambda done, total, seen=seen: seen.append(done)))
        for seen in counts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, counts)) == [0, 9]
    assert contents(tmp_path) == contents(root)


def test_parameters_that_are_lists_and_tuples_are_the_same(root):
    assert small(matrix_sizes=[[32, 32], [36, 40]]).is_complete(root)


def test_manifest_is_the_whole_record(root):
    manifest = json.loads((root / "phantom.json").read_text())
    assert len(manifest["files"]) == 16
    assert manifest["parameters"]["matrix_sizes"] == [[32, 32], [36, 40]]
    assert not (root / "phantom.partial.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"num_train": -1},
        {"num_slices": 0},
        {"num_coils": 0},
        {"snr": 0.0},
        {"snr": float("nan")},
        {"acceleration": 0},
        {"center_fraction": 0.3},
        {"center_fraction": 0.0},
        {"matrix_sizes": ()},
        {"matrix_sizes": ((40, 32),)},
        {"matrix_sizes": ((8, 8),)},
    ],
    ids=str,
)
def test_parameters_that_cannot_work_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        small(**changes)
