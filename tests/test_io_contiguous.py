"""Slices read without HDF5: the same values, the same refusals, and never those of a file that was changed."""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_io_faults import edit, replace

from mrirecon.errors import InputError
from mrirecon.io.hdf5 import contiguous
from mrirecon.io.hdf5 import open as hdf5
from mrirecon.io.raw import fastmri, fastmri_writer
from mrirecon.io.scan import ScanInfo

SHAPES = {"singlecoil": (3, 24, 20), "multicoil": (3, 2, 24, 20)}


def write(path: Path, shape: tuple[int, ...] = SHAPES["multicoil"], seed: int = 0) -> Path:
    """A volume that was written long ago, as far as its time tells."""
    rng = np.random.default_rng(seed)
    kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    targets = {"reconstruction_rss" if len(shape) == 4 else "reconstruction_esc": rng.random((3, 16, 15))}
    fastmri_writer.write_volume(path, kspace, targets, acquisition="T1", patient_id="p", recon_size=(16, 15))
    return age(path)


def age(path: Path, seconds: float = 1e9) -> Path:
    os.utime(path, (seconds, seconds))
    return path


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are opened by HDF5, as it happens; nothing is remembered from other tests."""
    seen: list[Path] = []
    original = hdf5.open_untrusted

    def counted(path: Path) -> object:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(contiguous, "_places", {})
    monkeypatch.setattr(hdf5, "open_untrusted", counted)
    return seen


@pytest.fixture
def info(tmp_path: Path, openings: list[Path]) -> ScanInfo:
    """A volume of which a slice was read, so that the next one needs no HDF5."""
    info = fastmri.inspect(write(tmp_path / "scan.h5"))
    fastmri.read_slice(info, 0)
    openings.clear()
    return info


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("has_target", [True, False])
def test_slices_are_those_that_hdf5_reads(
    tmp_path: Path, shape: tuple[int, ...], has_target: bool, openings: list[Path]
) -> None:
    path = write(tmp_path / "scan.h5", shape)
    if not has_target:
        edit(path, lambda file: [file.pop(name) for name in list(file) if name.startswith("reconstruction")])
        age(path)
    scan = fastmri.read(path)
    openings.clear()
    for i in (2, 0, 1):
        kspace, target = fastmri.read_slice(scan.info, i)
        np.testing.assert_array_equal(kspace, scan.kspace[i])
        assert (target is None) == (not has_target)
        if target is not None and scan.target is not None:
            np.testing.assert_array_equal(target, scan.target[i])
    assert openings == [path]


def test_a_block_before_hdf5_is_counted(tmp_path: Path, openings: list[Path]) -> None:
    values = np.arange(3 * 24 * 20).reshape(3, 24, 20).astype(np.complex64)
    with h5py.File(tmp_path / "scan.h5", "w", userblock_size=1024) as file:
        file["kspace"] = values
    info = fastmri.inspect(age(tmp_path / "scan.h5"))
    for i in (0, 1, 2):
        np.testing.assert_array_equal(fastmri.read_slice(info, i)[0][0], values[i])
    assert len(openings) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": np.complex128},
        {"dtype": ">c8"},
        {"dtype": np.complex64, "chunks": (1, 24, 20)},
        {"dtype": np.complex64, "chunks": (1, 24, 20), "compression": "gzip"},
    ],
)
def test_what_lies_otherwise_is_read_by_hdf5(tmp_path: Path, settings: dict, openings: list[Path]) -> None:
    values = np.arange(3 * 24 * 20).reshape(3, 24, 20).astype(np.complex64)
    path = write(tmp_path / "scan.h5", (3, 24, 20))
    replace(path, "kspace", values, **settings)
    info = fastmri.inspect(age(path))
    for i in (0, 1, 2):
        kspace = fastmri.read_slice(info, i)[0]
        np.testing.assert_array_equal(kspace[0], values[i])
        assert kspace.dtype == np.dtype("<c8")
    assert len(openings) == 4


def test_values_can_be_changed_without_changing_the_file(info: ScanInfo, openings: list[Path]) -> None:
    kspace, _ = fastmri.read_slice(info, 1)
    kspace *= 0
    assert fastmri.read_slice(info, 1)[0].any()
    assert openings == []


@pytest.mark.parametrize("name", ["kspace", "reconstruction_rss"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_file_and_slice(info: ScanInfo, name: str, value: float) -> None:
    edit(info.path, lambda file: file[name].__setitem__((1, ..., 5, 5), value))
    age(info.path, 1.1e9)
    for _ in range(2):  # through HDF5, and without it
        assert np.isfinite(fastmri.read_slice(info, 0)[0]).all()
        with pytest.raises(InputError, match=rf"scan\.h5: slice 1 of `{name}`"):
            fastmri.read_slice(info, 1)


CHANGES: dict[str, Callable[[Path], object]] = {
    "replaced": lambda path: write(path.with_name("new"), seed=1).replace(path),
    "written over": lambda path: path.write_bytes(write(path.with_name("new"), seed=1).read_bytes()),
    "written over, with the old time": lambda path: (
        path.write_bytes(write(path.with_name("new"), seed=1).read_bytes()),
        age(path),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_opened_anew(info: ScanInfo, change: str, openings: list[Path]) -> None:
    time.sleep(0.02)  # longer than the tick of a kernel's clock
    CHANGES[change](info.path)
    expected = fastmri.read(info.path).kspace
    openings.clear()
    np.testing.assert_array_equal(fastmri.read_slice(info, 1)[0], expected[1])
    assert openings == [info.path]


def test_another_shape_is_told(info: ScanInfo) -> None:
    write(info.path, (3, 3, 24, 20))
    with pytest.raises(InputError, match=r"scan\.h5: `kspace` had shape .* and now has shape .*changed"):
        fastmri.read_slice(info, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cut short"),
        (lambda path: path.unlink(), "nothing is there"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no file"),
        (lambda path: (path.unlink(), path.mkdir()), "a folder"),
    ],
)
def test_a_file_that_went_bad_is_refused_at_once(
    info: ScanInfo, change: Callable[[Path], object], message: str
) -> None:
    change(info.path)
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"scan\.h5.*{message}"):
        fastmri.read_slice(info, 1)
    assert time.monotonic() - start < 2


def test_a_file_just_written_is_opened_every_time(info: ScanInfo, openings: list[Path]) -> None:
    os.utime(info.path)
    for _ in range(3):
        fastmri.read_slice(info, 1)
    assert len(openings) == 3


def test_others_can_write_the_file_between_two_slices(info: ScanInfo) -> None:
    fastmri.read_slice(info, 1)
    edit(info.path, lambda file: file["kspace"].__setitem__((1, 0, 0, 0), 7))
    assert fastmri.read_slice(info, 1)[0][0, 0, 0] == 7


def test_a_forked_process_reads_the_same(info: ScanInfo) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        there = pool.submit(fastmri.read_slice, info, 1)
        np.testing.assert_array_equal(there.result(timeout=60)[0], fastmri.read_slice(info, 1)[0])


def test_many_reads_keep_neither_files_open_nor_much_in_mind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openings: list[Path]
) -> None:
    monkeypatch.setattr(contiguous, "_MOST", 4)
    infos = [fastmri.inspect(write(tmp_path / f"{n}.h5", seed=n)) for n in range(10)]
    descriptors = len(list(Path("/dev/fd").iterdir()))
    for n in range(100):
        assert fastmri.read_slice(infos[n % 10], n % 3)[0].shape == (2, 24, 20)
        assert len(contiguous._places) <= 4
    assert len(list(Path("/dev/fd").iterdir())) == descriptors
