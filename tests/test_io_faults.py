"""Files that are broken or hostile: each is refused with one message that names it, and nothing outside it is read."""

import contextlib
import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrirecon.errors import InputError
from mrirecon.io import formats
from mrirecon.io.raw import fastmri, fastmri_writer

IN_OPEN, IN_NONBLOCK = 0x20, 0o4000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound volume: 3 slices, 2 coils, 24x20, target 16x15."""
    rng = np.random.default_rng(0)
    kspace = rng.normal(size=(3, 2, 24, 20)) + 1j * rng.normal(size=(3, 2, 24, 20))
    targets = {"reconstruction_rss": rng.random((3, 16, 15))}
    path = tmp_path / "scan.h5"
    fastmri_writer.write_volume(path, kspace, targets, acquisition="T1", patient_id="p", recon_size=(16, 15))
    return path


def replace(path: Path, name: str, value: object, **settings: object) -> None:
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if value is not None:
            file.create_dataset(name, data=value, **settings)


def edit(path: Path, change: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def refused(path: Path, *words: str) -> str:
    """The message with which a file is refused, quickly, whichever way it is opened."""
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        fastmri.read(path)
    assert time.monotonic() - start < 1
    for word in (str(path), *words):
        assert word in str(error.value)
    return str(error.value)


@contextmanager
def unopened(path: Path) -> Iterator[None]:
    """Fails where anything opens the file, C libraries included; proves at the end that an opening would be seen."""
    if sys.platform != "linux":
        pytest.skip("needs inotify to see which files a C library opens")
    libc = ctypes.CDLL(None)
    descriptor = libc.inotify_init1(IN_NONBLOCK)
    assert libc.inotify_add_watch(descriptor, os.fsencode(path), IN_OPEN) >= 0
    yield
    with pytest.raises(BlockingIOError):
        os.read(descriptor, 4096)
    path.read_bytes()
    assert os.read(descriptor, 4096)
    os.close(descriptor)


# 1 cut short, 2 no HDF5


@pytest.mark.parametrize("fraction", [0.001, 0.02, 0.1, 0.5, 0.9, 1.0])
def test_a_truncated_file_is_refused_on_inspection(path: Path, fraction: float) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: min(int(len(raw) * fraction), len(raw) - 1)])
    with pytest.raises(InputError, match=r"scan\.h5"):
        fastmri.inspect(path)


def test_a_file_cut_after_inspection_names_file_and_slice(path: Path) -> None:
    replace(path, "kspace", np.ones((3, 2, 24, 20), np.complex64), chunks=(1, 2, 24, 20), compression="gzip")
    info = fastmri.inspect(path)
    with h5py.File(path) as file:
        where = file["kspace"].id.get_chunk_info(2).byte_offset
    raw = bytearray(path.read_bytes())
    raw[where : where + 8] = b"\xff" * 8
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"scan\.h5: slice 2"):
        fastmri.read_slice(info, 2)


def test_a_file_replaced_after_inspection_is_noticed(path: Path) -> None:
    info = fastmri.inspect(path)
    replace(path, "kspace", np.ones((3, 1, 24, 20), np.complex64))
    with pytest.raises(InputError, match="changed"):
        fastmri.read_slice(info, 0)


def test_what_is_no_hdf5_is_refused(tmp_path: Path) -> None:
    cases = {"empty.h5": b"", "text.h5": b"no HDF5 at all", "zeros.h5": bytes(4096)}
    for name, raw in cases.items():
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "folder.h5").mkdir()
    os.mkfifo(tmp_path / "pipe.h5")
    words = {"empty.h5": "empty", "text.h5": "signature", "zeros.h5": "signature", "folder.h5": "folder"}
    for name, word in {**words, "pipe.h5": "no file", "missing.h5": "nothing"}.items():
        refused(tmp_path / name, word)
        with pytest.raises(InputError, match=word):
            formats.inspect(tmp_path / name)


# 3 other contents, 5 mixed up, 8 not finite, 10 too small


def test_without_kspace_the_keys_are_listed(path: Path) -> None:
    replace(path, "kspace", None)
    refused(path, "reconstruction_rss", "(slice, h, w)")
    with pytest.raises(InputError, match=r"unknown kind.*reconstruction_rss"):
        formats.inspect(path)


@pytest.mark.parametrize("shape", [(24, 20), (1, 3, 2, 24, 20), ()])
def test_a_wrong_rank_is_refused(path: Path, shape: tuple[int, ...]) -> None:
    replace(path, "kspace", np.ones(shape, np.complex64))
    refused(path, str(shape), "(slice, coil, h, w)")


def test_a_wrong_type_is_refused(path: Path) -> None:
    pairs = np.ones((3, 2, 24, 20), [("real", "f4"), ("imag", "f4")])
    for value in (np.ones((3, 2, 24, 20), np.float32), pairs, np.full((3, 24, 20), b"text")):
        replace(path, "kspace", value)
        refused(path, "complex64", "it holds")
    edit(path, lambda file: (file.pop("kspace"), file.create_group("kspace")))
    refused(path, "Group")


def test_a_complex_target_is_refused(path: Path) -> None:
    replace(path, "reconstruction_rss", np.ones((3, 16, 15), np.complex64))
    refused(path, "reconstruction_rss", "float32")


def test_single_and_multi_coil_are_not_mixed_up(path: Path) -> None:
    with pytest.raises(InputError, match=r"scan\.h5.*singlecoil.*\(3, 2, 24, 20\) is multicoil"):
        fastmri.inspect(path, "singlecoil")
    replace(path, "kspace", np.ones((3, 24, 20), np.complex64))
    with pytest.raises(InputError, match="is singlecoil"):
        fastmri.inspect(path, "multicoil")


@pytest.mark.parametrize("shape", [(2, 16, 15), (16, 15), (3, 25, 15), (3, 16, 21), (3, 6, 15)])
def test_a_target_that_does_not_suit_is_refused(path: Path, shape: tuple[int, ...]) -> None:
    replace(path, "reconstruction_rss", np.ones(shape, np.float32))
    refused(path, "reconstruction_rss")


@pytest.mark.parametrize("size", [(24, 1), (24, 2), (6, 20), (24, 6)])
def test_a_tiny_scan_is_refused_with_the_minimum(path: Path, size: tuple[int, int]) -> None:
    replace(path, "kspace", np.ones((3, 2, *size), np.complex64))
    refused(path, "7x7", f"{size[0]}x{size[1]}")


def test_no_slices_are_refused(path: Path) -> None:
    replace(path, "kspace", np.ones((0, 2, 24, 20), np.complex64))
    refused(path, "kspace")


@pytest.mark.parametrize("name", ["kspace", "reconstruction_rss"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_file_and_slice(path: Path, name: str, value: float) -> None:
    edit(path, lambda file: file[name].__setitem__((1, ..., 5, 5), value))
    refused(path, f"slice 1 of `{name}`")
    info = fastmri.inspect(path)
    assert fastmri.read_slice(info, 0)[0].shape == (2, 24, 20)
    for call in (lambda: fastmri.read_slice(info, 1), lambda: fastmri.check_values(info)):
        with pytest.raises(InputError, match=rf"scan\.h5: slice 1 of `{name}`"):
            call()


def test_a_double_beyond_single_precision_is_refused(path: Path) -> None:
    replace(path, "kspace", np.full((3, 2, 24, 20), 1e300 + 0j))
    refused(path, "slice 0")


@pytest.mark.parametrize("mask", [np.ones(19), np.ones((1, 20)), np.zeros(20), np.full(20, np.nan), np.full(20, 2)])
def test_a_senseless_mask_is_refused(path: Path, mask: np.ndarray) -> None:
    replace(path, "mask", mask)
    refused(path, "mask", "20 columns")


# 4 headers


@pytest.mark.parametrize(
    "header",
    [None, "", "not XML", "<a><b></a>", "<a/>", 3.0, b"\xff\xfe\x01", '<?xml version="1.0" encoding="none"?><a/>'],
)
def test_without_a_readable_header_the_scan_keeps_its_size_and_says_so(path: Path, header: object) -> None:
    replace(path, "ismrmrd_header", header)
    info = fastmri.inspect(path)
    assert (info.recon_size, info.acquired) == ((16, 15), (0, 20))
    assert "ismrmrd_header" in " ".join(info.notes)
    replace(path, "reconstruction_rss", None)
    info = fastmri.inspect(path)
    assert info.recon_size == (24, 20)
    assert "24x20" in " ".join(info.notes)


def test_senseless_sizes_in_a_header_are_not_used(path: Path) -> None:
    replace(path, "reconstruction_rss", None)
    for x in ("0", "-3", "2", "nan", "9" * 5000):
        space = f"<reconSpace><matrixSize><x>{x}</x><y>16</y></matrixSize></reconSpace>"
        replace(path, "ismrmrd_header", f"<h><encoding>{space}</encoding></h>")
        info = fastmri.inspect(path)
        assert info.recon_size == (24, 20)
        assert "24x20" in " ".join(info.notes)


def test_entity_bombs_and_foreign_entities_are_refused(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("320")
    bomb = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    for declared in (f'<!ENTITY e0 "x">{bomb}', f'<!ENTITY e9 SYSTEM "{secret}">'):
        replace(path, "ismrmrd_header", f"<?xml version='1.0'?><!DOCTYPE h [{declared}]><h>&e9;</h>")
        with unopened(secret):
            refused(path, "ismrmrd_header", "entities")


@pytest.mark.parametrize("kind", ["variable", "fixed"])
def test_a_huge_header_is_refused(path: Path, kind: str) -> None:
    raw = b"<a>" + b" " * (3 << 20) + b"</a>"
    replace(path, "ismrmrd_header", raw.decode() if kind == "variable" else np.bytes_(raw))
    refused(path, "1048576 bytes")


# 7 attributes


@pytest.mark.parametrize("value", [np.nan, -1.0, "large"])
def test_a_senseless_maximum_is_noted_and_not_used(path: Path, value: object) -> None:
    edit(path, lambda file: file.attrs.__setitem__("max", value))
    info = fastmri.inspect(path)
    assert info.target is not None
    assert info.target.maximum is None
    assert "`max`" in " ".join(info.notes)


def test_huge_attributes_are_refused(tmp_path: Path) -> None:
    for value in (np.bytes_(b"x" * (2 << 20)), "x" * (2 << 20), np.ones(1 << 18), np.ones(3)):
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w", libver="latest") as file:
            file["kspace"] = np.ones((3, 24, 20), np.complex64)
            file.attrs["acquisition"] = value
        refused(path, "attribute", "1048576 bytes")


# 12 what leads out of the file


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones((3, 2, 24, 20), np.complex64)
        file["text"] = "<a/>"
    return path


@pytest.mark.parametrize("name", ["kspace", "reconstruction_rss", "reconstruction_esc", "mask", "ismrmrd_header"])
def test_an_external_link_is_refused_and_not_followed(path: Path, foreign: Path, name: str) -> None:
    replace(path, name, None)
    edit(path, lambda file: file.__setitem__(name, h5py.ExternalLink(foreign, "/kspace")))
    if name == "reconstruction_esc":
        replace(path, "reconstruction_rss", None)
    with unopened(foreign):
        refused(path, name, "link")
        with pytest.raises(InputError, match="link"):
            formats.inspect(path)


@pytest.mark.parametrize("target", ["/nowhere", "/reconstruction_rss", "/out/kspace"])
def test_a_soft_link_is_refused(path: Path, foreign: Path, target: str) -> None:
    replace(path, "kspace", None)
    edit(path, lambda file: file.__setitem__("out", h5py.ExternalLink(foreign, "/")))
    edit(path, lambda file: file.__setitem__("kspace", h5py.SoftLink(target)))
    with unopened(foreign):
        refused(path, "kspace", "link")


def test_an_ismrmrd_group_elsewhere_is_not_followed(path: Path, foreign: Path) -> None:
    replace(path, "kspace", None)
    edit(path, lambda file: file.__setitem__("dataset", h5py.ExternalLink(foreign, "/")))
    with unopened(foreign), pytest.raises(InputError, match="link"):
        formats.inspect(path)


def test_external_raw_storage_is_refused_and_not_read(path: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(3 * 2 * 24 * 20 * 8))
    replace(path, "kspace", None)
    settings = {"shape": (3, 2, 24, 20), "dtype": np.complex64, "external": [(str(raw), 0, h5py.h5f.UNLIMITED)]}
    edit(path, lambda file: file.create_dataset("kspace", **settings))
    with unopened(raw):
        refused(path, "kspace", "external raw")


@pytest.mark.parametrize("unlimited", [False, True])
def test_a_virtual_data_set_is_refused_and_not_read(path: Path, foreign: Path, unlimited: bool) -> None:
    replace(path, "kspace", None)
    with h5py.File(foreign, "r+") as file:
        del file["kspace"]
        file.create_dataset("kspace", data=np.ones((3, 2, 24, 20), np.complex64), maxshape=(None, 2, 24, 20))
    maxshape = (None, 2, 24, 20) if unlimited else (3, 2, 24, 20)
    layout = h5py.VirtualLayout((3, 2, 24, 20), np.complex64, maxshape=maxshape)
    source = h5py.VirtualSource(foreign, "kspace", (3, 2, 24, 20), np.complex64, maxshape=maxshape)
    length = h5py.h5s.UNLIMITED if unlimited else 3
    layout[0:length] = source[0:length]
    edit(path, lambda file: file.create_virtual_dataset("kspace", layout))
    with unopened(foreign):
        refused(path, "kspace", "virtual")


# 13 more than the file can hold


def test_a_small_file_that_declares_terabytes_is_refused(tmp_path: Path) -> None:
    path, shape = tmp_path / "scan.h5", (1000, 20, 20000, 20000)
    for settings in ({}, {"chunks": (1, 1, 100, 100)}, {"chunks": (1, 1, 100, 100), "compression": "gzip"}):
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset("kspace", shape, np.complex64, **settings)
            if settings:
                dataset[0, 0, :100, :100] = 1
        assert path.stat().st_size < 200_000
        refused(path, "kspace", str(shape))


def test_a_forged_shape_is_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_dataset("other", data=np.zeros(5))
    old, raw = struct.pack("<4Q", 3, 2, 24, 20), path.read_bytes()
    assert raw.count(old) > 0
    path.write_bytes(raw.replace(old, struct.pack("<4Q", 3, 2, 1 << 20, 1 << 20)))
    refused(path)


def test_an_unfinished_volume_is_not_read_as_zeros(path: Path) -> None:
    replace(path, "kspace", None)
    with h5py.File(path, "r+") as file:
        dataset = file.create_dataset("kspace", (3, 2, 24, 20), np.complex64, chunks=(1, 2, 24, 20), compression="gzip")
        dataset[:2] = 1
    refused(path, "3 chunks", "2")


def test_an_unknown_compression_is_refused(path: Path) -> None:
    replace(path, "kspace", None)
    with h5py.File(path, "r+") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 2, 24, 20))
        plist.set_filter(31999, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((3, 2, 24, 20))
        h5py.h5d.create(file.id, b"kspace", h5py.h5t.py_create(np.dtype(np.complex64)), space, plist)
    refused(path, "31999")


def test_a_text_that_claims_gigabytes_is_refused(path: Path) -> None:
    with h5py.File(path) as file:
        where = file["ismrmrd_header"].id.get_offset()
    raw = bytearray(path.read_bytes())
    raw[where : where + 4] = b"\xff" * 4
    path.write_bytes(raw)
    refused(path, "ismrmrd_header", "1048576 bytes")


def test_a_heap_that_hangs_hdf5_is_refused(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    size = struct.unpack_from("<Q", raw, heap + 24)[0]
    free = heap + 32 + -(-size // 8) * 8
    raw[free : free + 16] = bytes(16)
    path.write_bytes(raw)
    refused(path)


def test_other_formats_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["dataset/xml"] = "<a/>"
    for call in (formats.inspect, formats.read):
        with pytest.raises(InputError, match=r"scan\.h5: ISMRMRD.*not read yet"):
            call(tmp_path / "scan.h5")


def test_random_damage_gives_a_volume_or_a_refusal(path: Path) -> None:
    """Never another exception: a hundred files with three bytes changed where the structure lies."""
    raw, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(raw)
        for at in rng.integers(0, 6200, 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            assert fastmri.read(path).kspace.dtype == np.complex64


# Writing


def test_a_write_killed_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        fastmri_writer.write_reconstruction(tmp_path / "a.h5", np.ones((2, 8, 8)), {})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(TypeError):
        fastmri_writer.write_volume(
            path,
            np.ones((2, 8, 8)),
            {},
            acquisition="T1",
            patient_id="p",
            recon_size=(8, 8),
            extra_attrs={"x": object()},
        )
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["scan.h5"]


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"not enough space: \d+ bytes are needed, 1000 are free"):
        fastmri_writer.write_reconstruction(tmp_path / "a.h5", np.ones((2, 8, 8)), {})
    assert list(tmp_path.iterdir()) == []
