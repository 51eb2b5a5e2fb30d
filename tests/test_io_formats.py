"""The table of formats: what a path is, is decided by its content, and looking costs little."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import pytest
from conftest import Volume

from mrirecon.errors import InputError
from mrirecon.io import formats
from mrirecon.io.formats import Format
from mrirecon.io.hdf5 import open as hdf5
from mrirecon.io.probe import MAX_START, Probe, probe
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import Scan, ScanInfo

MAGIC = b"made-up format\0"


@pytest.fixture
def scan(tmp_path: Path, volume: Volume) -> Scan:
    return fastmri.read(volume(tmp_path / "sound.h5", num_coils=2))


@pytest.fixture
def made_up(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a row to the table: made_up(recognise, read=None, extra=None); every file of it is the same scan."""

    def add(recognise: Callable[[Probe], bool], read: Any = None, extra: str | None = None) -> None:
        row = Format("made-up", recognise, read or (lambda _: scan.info), read or (lambda _: scan), extra)
        monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, row))

    return add


@pytest.fixture
def no_hdf5(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where HDF5 looks at a file."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise AssertionError("HDF5 was asked to open a file")

    for module, name in ((h5py, "File"), (h5py, "is_hdf5"), (h5py.h5f, "open"), (h5py.h5f, "is_hdf5")):
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr(hdf5, "open_untrusted", fail)


# Recognising


@pytest.mark.parametrize("name", ["scan.dat", "scan.h5", "scan", "scan.nii.gz", "ünï cödé.x"])
def test_a_file_is_recognised_by_its_first_bytes(
    tmp_path: Path, name: str, scan: Scan, made_up: Callable[..., None], no_hdf5: None
) -> None:
    (tmp_path / name).write_bytes(MAGIC + bytes(100))
    made_up(lambda probe: probe.start.startswith(MAGIC))
    assert formats.inspect(tmp_path / name) is scan.info
    assert formats.read(tmp_path / name) is scan


@pytest.mark.parametrize("name", ["scan", "scan.h5"])
def test_a_folder_is_recognised_by_what_is_in_it(
    tmp_path: Path, name: str, scan: Scan, made_up: Callable[..., None], no_hdf5: None
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "fid").write_bytes(b"")
    made_up(lambda probe: probe.is_folder and (probe.path / "fid").is_file())
    assert formats.read(tmp_path / name) is scan
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"other: .*folder"):
        formats.read(tmp_path / "other")


def test_hdf5_is_recognised_behind_a_block_of_its_own(tmp_path: Path, scan: Scan, made_up: Callable[..., None]) -> None:
    """As MATLAB's files of version 7.3 begin."""
    with h5py.File(tmp_path / "scan.mat", "w", userblock_size=512) as file:
        file["data"] = np.ones(3)
    made_up(lambda probe: probe.hdf5 is not None and probe.hdf5.id.links.exists(b"data"))
    assert formats.read(tmp_path / "scan.mat") is scan
    assert formats.read(tmp_path / "sound.h5").kspace.shape == (2, 2, 40, 36)


def test_the_ending_of_a_name_does_not_make_a_format(tmp_path: Path, scan: Scan) -> None:
    for name in ("scan.dat", "scan.nii", "scan"):
        (tmp_path / name).write_bytes((tmp_path / "sound.h5").read_bytes())
        np.testing.assert_array_equal(formats.read(tmp_path / name).kspace, scan.kspace)


# Looking


def test_a_probe_reads_the_beginning_only(tmp_path: Path, no_hdf5: None) -> None:
    path = tmp_path / "large"
    path.write_bytes(MAGIC)
    os.truncate(path, 1 << 40)
    tracemalloc.start()
    with probe(path) as found:
        assert (found.start[: len(MAGIC)], len(found.start), found.num_bytes) == (MAGIC, MAX_START, 1 << 40)
        assert (found.is_folder, found.is_hdf5, found.hdf5) == (False, False, None)
    assert tracemalloc.get_traced_memory()[1] < 1 << 18
    tracemalloc.stop()


def test_hdf5_is_opened_when_a_row_asks_once_and_closed_whatever_happens(
    tmp_path: Path, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    original = hdf5.open_untrusted
    monkeypatch.setattr(hdf5, "open_untrusted", lambda path: (opened.append(path), original(path))[1])
    with probe(scan.info.path) as found:
        assert (found.is_hdf5, opened) == (True, [])
        h5file = found.hdf5
        assert found.hdf5 is h5file
    assert opened == [scan.info.path]
    assert h5file is not None
    assert not h5file.id.valid


def test_a_row_that_fails_leaves_no_file_open(scan: Scan, made_up: Callable[..., None]) -> None:
    seen: list[Any] = []

    def fails(probe: Probe) -> bool:
        seen.append(probe.hdf5)
        raise InputError("of no use")

    replaced = scan.info.path.with_name("other.h5")
    with h5py.File(replaced, "w") as file:
        file["other"] = 1
    made_up(fails)
    with pytest.raises(InputError, match="of no use"):
        formats.read(replaced)
    assert not seen[0].id.valid
    with h5py.File(replaced, "r+"):
        pass


def test_a_damaged_hdf5_file_is_called_so(tmp_path: Path, scan: Scan) -> None:
    raw = scan.info.path.read_bytes()
    (tmp_path / "cut").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match=r"cut: expected a whole HDF5 file"):
        formats.read(tmp_path / "cut")


# Refusing


def test_what_is_of_no_format_is_told_as_what_it_looks_like(tmp_path: Path) -> None:
    (tmp_path / "text.dat").write_bytes(b"some text that is long enough")
    (tmp_path / "text.h5").write_bytes(b"some text")
    (tmp_path / "text.HDF5").write_bytes(b"some text")
    (tmp_path / "empty.dat").write_bytes(b"")
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.dat")
    with h5py.File(tmp_path / "other.dat", "w") as file:
        file["something"] = 1
    for name, words in {
        "text.dat": "no HDF5 file and begins with b'some text th'", "text.h5": "no HDF5 signature",
        "text.HDF5": "no HDF5 signature", "empty.dat": "it is empty", "empty.h5": "it is empty",
        "folder": "this is a folder", "pipe.dat": "this is no file", "missing.dat": "nothing is there",
        "text.dat/below": "nothing is there", "other.dat": "HDF5 of an unknown kind; it has ['something']",
    }.items():  # fmt: skip
        for call in (formats.inspect, formats.read):
            with pytest.raises(InputError) as error:
                call(tmp_path / name)
            message = str(error.value)
            assert message.startswith(f"{tmp_path / name}: ")
            assert words in message
            assert ("signature" in message) == (words == "no HDF5 signature")
            if name in ("text.dat", "empty.dat", "folder", "other.dat"):
                assert "formats that are read: fastMRI)" in message


def test_a_missing_package_names_the_extra_that_brings_it(tmp_path: Path, made_up: Callable[..., None]) -> None:
    def needs_package(_: Path) -> NoReturn:
        import package_that_nobody_has  # type: ignore[import-not-found] # noqa: F401

        raise AssertionError

    (tmp_path / "scan.dat").write_bytes(MAGIC)
    made_up(lambda probe: probe.start.startswith(MAGIC), needs_package, "vendor")
    for call in (formats.inspect, formats.read):
        with pytest.raises(
            InputError, match=r"scan\.dat: made-up needs the package package_that_nobody_has.*"
        ) as error:
            call(tmp_path / "scan.dat")
        assert "pip install 'mrirecon-lightning[vendor]'" in str(error.value)


def test_a_missing_package_of_no_extra_is_no_fault_of_the_file(tmp_path: Path, made_up: Callable[..., None]) -> None:
    def broken(_: Path) -> NoReturn:
        raise ModuleNotFoundError("ours")

    (tmp_path / "scan.dat").write_bytes(MAGIC)
    made_up(lambda probe: probe.start.startswith(MAGIC), broken)
    with pytest.raises(ModuleNotFoundError, match="ours"):
        formats.read(tmp_path / "scan.dat")


def test_a_scan_whose_parts_do_not_fit_is_a_reader_s_mistake(scan: Scan) -> None:
    wrong: list[dict[str, Any]] = [
        {"kspace": scan.kspace[:1]}, {"target": None}, {"noise_covariance": np.eye(3, dtype=np.complex64)},
    ]  # fmt: skip
    parts: dict[str, Any] = {"info": scan.info, "kspace": scan.kspace, "target": scan.target}
    assert Scan(**parts, noise_covariance=np.eye(2, dtype=np.complex64)).noise_covariance is not None
    for change in wrong:
        with pytest.raises(AssertionError):
            Scan(**{**parts, **change})
    assert isinstance(scan.info, ScanInfo)
