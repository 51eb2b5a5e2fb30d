"""The index of a data folder: read once, kept as JSON, read again where files changed, never believed blindly."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Volume
from test_io_faults import edit, replace, unopened

from mrirecon.data.catalog import index as index_module
from mrirecon.data.catalog.index import Entry, Index, look, usable
from mrirecon.data.catalog.inspection import find_folders, inspect_folder, notes
from mrirecon.errors import ConfigError, InputError
from mrirecon.io.raw import fastmri


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path, volume: Volume) -> Path:
    """Three volumes of two coils that were written long ago."""
    for number in range(3):
        volume(tmp_path / "set" / "multicoil_train" / f"{number}.h5", num_coils=2, seed=number)
    age(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened, as it happens: header, values or maximum."""
    names: list[str] = []

    def counted(kind: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(what: Any) -> Any:
            names.append(f"{kind} {what.name}")
            return function(what)

        return call

    for kind, name in (("header", "inspect"), ("values", "check_values"), ("maximum", "target_maximum")):
        monkeypatch.setattr(fastmri, name, counted(kind, getattr(fastmri, name)))
    return names


def age(folder: Path) -> None:
    """Makes the files old: a file that was just written can still change within a tick of the clock."""
    for path in folder.rglob("*.h5"):
        os.utime(path, (1e9, 1e9))


def volumes(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.h5"))


def kept(root: Path) -> dict[str, Any]:
    return json.loads((root / "index.json").read_text())


# --- reading once --------------------------------------------------------------------------------------------------


def test_a_second_look_reads_nothing(root: Path, reads: list[str]) -> None:
    first = Index(root).look_up(volumes(root), full=True)
    assert sorted(reads) == sorted([f"{kind} {n}.h5" for kind in ("header", "values") for n in range(3)])
    reads.clear()
    again = Index(root).look_up(volumes(root), full=True, exact=True)
    assert reads == []
    for a, b in zip(first, again, strict=True):
        assert a.info is not None
        assert b.info is not None
        assert {k: str(v) for k, v in vars(a.info).items()} == {k: str(v) for k, v in vars(b.info).items()}
        assert a._replace(info=None) == b._replace(info=None)


def test_a_description_with_a_mask_is_kept_exactly(tmp_path: Path, volume: Volume) -> None:
    mask = np.arange(36) % 3 == 0
    path = volume(tmp_path / "set" / "a.h5", mask=mask)
    edit(path, lambda file: file.attrs.update(num_low_frequency=3, max=2.5))
    age(tmp_path)
    Index(path.parent).look_up([path])
    info = Index(path.parent).look_up([path])[0].info
    assert info is not None
    expected = fastmri.inspect(path)
    assert np.array_equal(info.mask, mask)  # type: ignore[arg-type]
    assert vars(info).keys() == vars(expected).keys()
    assert all(vars(info)[key] == value for key, value in vars(expected).items() if key != "mask")


def test_only_what_is_asked_for_is_read(root: Path, reads: list[str]) -> None:
    index, path = Index(root), volumes(root)[0]
    for ask, expected in (
        ({}, ["header 0.h5"]), ({}, []), ({"exact": True}, ["maximum 0.h5"]), ({"exact": True}, []),
        ({"full": True}, ["values 0.h5"]), ({"full": True, "exact": True}, []),
    ):  # fmt: skip
        reads.clear()
        index.look_up([path], **ask)
        assert reads == expected


def test_without_a_stated_maximum_it_is_measured_and_remembered(root: Path, reads: list[str]) -> None:
    path = volumes(root)[0]
    edit(path, lambda file: file.attrs.pop("max"))
    age(root)
    assert Index(root).look_up([path])[0].maximum == pytest.approx(h5py.File(path)["reconstruction_rss"][()].max())
    reads.clear()
    assert Index(root).look_up([path])[0].maximum is not None
    assert reads == []


def test_added_changed_and_touched_files_are_read_and_only_they(root: Path, volume: Volume, reads: list[str]) -> None:
    Index(root).look_up(volumes(root))
    volume(root / "multicoil_train" / "9.h5", num_coils=3)
    volume(root / "multicoil_train" / "1.h5", num_coils=5)
    os.utime(root / "multicoil_train" / "2.h5", (2e9, 1.1e9))
    reads.clear()
    entries = Index(root).look_up(volumes(root))
    assert sorted(reads) == ["header 1.h5", "header 2.h5", "header 9.h5"]
    assert [entry.info.num_coils for entry in entries if entry.info] == [2, 5, 2, 3]


def test_files_that_are_gone_leave_the_index(root: Path) -> None:
    Index(root).look_up(volumes(root))
    volumes(root)[0].unlink()
    os.utime(volumes(root)[0], (2e9, 1.1e9))
    Index(root).look_up(volumes(root))
    assert list(kept(root)["files"]) == ["multicoil_train/1.h5", "multicoil_train/2.h5"]


def test_a_file_just_written_is_read_again_as_a_change_could_not_be_seen(root: Path, reads: list[str]) -> None:
    path = volumes(root)[0]
    os.utime(path)
    Index(root).look_up(volumes(root))
    assert list(kept(root)["files"]) == ["multicoil_train/1.h5", "multicoil_train/2.h5"]
    edit(path, lambda file: file["kspace"].__setitem__((0, 0, 0, 0), 5))
    reads.clear()
    Index(root).look_up(volumes(root))
    assert reads == ["header 0.h5"]


def test_two_writers_keep_what_each_found(root: Path) -> None:
    first, second = Index(root), Index(root)
    first.look_up(volumes(root)[:1])
    second.look_up(volumes(root)[1:])
    assert len(kept(root)["files"]) == 3
    assert not list(root.glob(".*"))


def test_an_interrupted_look_keeps_what_was_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def progress(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Index(root).look_up(volumes(root), progress=progress)
    assert len(kept(root)["files"]) == 2


def test_processes_find_what_one_finds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(volumes(root)[1], "a") as file:
        file["kspace"][1, 0, 2, 2] = np.nan
    alone = Index(root, 0).look_up(volumes(root), full=True)
    (root / "index.json").unlink()
    monkeypatch.setattr(index_module, "_MIN_SECONDS", 0.0)
    seen: list[tuple[int, int]] = []
    together = Index(root, 2).look_up(volumes(root), full=True, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [entry._replace(info=None) for entry in alone] == [entry._replace(info=None) for entry in together]
    assert "slice 1" in str(together[1].verdict)


def test_processes_are_started_where_the_pace_says_that_one_takes_long(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_MIN_SECONDS", 0.1)
    monkeypatch.setattr(index_module, "look", _look_slowly)
    readers = {entry.verdict for entry in Index(root, 2).look_up(volumes(root))}
    assert len(readers) > 1
    assert str(os.getpid()) in readers
    monkeypatch.setattr(index_module, "_MIN_SECONDS", 60.0)
    assert {entry.verdict for entry in Index(root, 2).look_up(volumes(root))} == {str(os.getpid())}


def _look_slowly(job: tuple[Path, object, bool, bool]) -> tuple[Path, Entry]:
    time.sleep(0.1)
    return job[0], Entry(1, 1, None, str(os.getpid()), False, None)


def test_a_killed_process_is_one_message(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_MIN_SECONDS", 0.0)
    monkeypatch.setattr(index_module, "look", _die)
    with pytest.raises(InputError, match=r"was killed.*num_workers=0"):
        Index(root, 2).look_up(volumes(root))


def _die(job: object) -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("value", [-1, 1.5, "two", True])
def test_a_senseless_number_of_processes_is_refused(root: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match="num_workers"):
        Index(root, value)


# --- where it is kept ----------------------------------------------------------------------------------------------


def test_it_is_in_the_cache_where_the_data_cannot_be_written(root: Path, cache: Path, reads: list[str]) -> None:
    root.chmod(0o555)  # which stops root, too, though the system would not
    Index(root).look_up(volumes(root))
    assert len(list(cache.glob("mrirecon/*.json"))) == 1
    reads.clear()
    index = Index(root)
    index.look_up(volumes(root))
    assert reads == []
    assert index.kept is not None
    assert index.kept.is_relative_to(cache)


def test_where_nothing_can_be_written_it_works_and_says_so(
    root: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root.chmod(0o555)
    cache.write_text("no folder")
    with caplog.at_level(logging.INFO):
        assert len(Index(root).look_up(volumes(root))) == 3
    assert len([r for r in caplog.records if "cannot be kept" in r.getMessage()]) == 1


def test_a_foreign_file_of_its_name_is_left_alone(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content in ('{"other": "program"}', "", "\0" * 50):
        caplog.clear()
        (root / "index.json").write_text(content)
        Index(root).look_up(volumes(root))
        assert (root / "index.json").read_text() == content
        assert len([r for r in caplog.records if "left alone" in r.getMessage()]) == 1


# --- what is kept is not believed ----------------------------------------------------------------------------------


def set_in(*keys: str) -> Callable[[Any, Any], Any]:
    def change(content: dict[str, Any], value: Any) -> dict[str, Any]:
        node = content
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        return content

    return change


FILE = ("files", "multicoil_train/0.h5")
GEOMETRY: dict[str, Any] = {
    "field_of_view": [240, 150.5], "slice_thickness": None, "affine": None, "slice_order": [1, 0],
}  # fmt: skip
DAMAGE: list[tuple[tuple[str, ...], Any]] = [
    (("version",), 0), (("version",), "1"), (("files",), []), (("files",), None),
    (("files", "../x.h5"), {}), (("files", "/etc/x.h5"), {}), (FILE, None), (FILE, {"size": 1}),
    ((*FILE, "size"), -1), ((*FILE, "size"), 1e3), ((*FILE, "size"), True), ((*FILE, "modified"), "now"),
    ((*FILE, "checked"), 1), ((*FILE, "maximum"), float("nan")), ((*FILE, "maximum"), "7"), ((*FILE, "verdict"), "bad"),
    ((*FILE, "info"), []), ((*FILE, "info"), None), ((*FILE, "info", "path"), "/etc/passwd"),
    ((*FILE, "info", "num_slices"), 0), ((*FILE, "info", "num_slices"), 10**12), ((*FILE, "info", "num_slices"), 2.0),
    ((*FILE, "info", "num_coils"), -2), ((*FILE, "info", "num_coils"), 10**400), ((*FILE, "maximum"), 10**400),
    ((*FILE, "info", "fastmri_challenge"), "singlecoil"), ((*FILE, "info", "fastmri_challenge"), None),
    ((*FILE, "info", "kspace_size"), [40]), ((*FILE, "info", "kspace_size"), [40, 6]),
    ((*FILE, "info", "target"), "/other"), ((*FILE, "info", "target"), {}),
    ((*FILE, "info", "target", "size"), [9, 9]), ((*FILE, "info", "target", "more"), 1),
    ((*FILE, "info", "recon_size"), None),
    ((*FILE, "info", "acquired"), [0, 37]), ((*FILE, "info", "acquired"), [5, 5]),
    ((*FILE, "info", "mask"), "01"), ((*FILE, "info", "mask"), "0" * 36), ((*FILE, "info", "mask"), [1] * 36),
    ((*FILE, "info", "mask"), ["1" * 36] * 39), ((*FILE, "info", "mask"), ["1" * 36] * 39 + ["1"]),
    ((*FILE, "info", "mask"), []),
    ((*FILE, "info", "num_low_frequency"), -1), ((*FILE, "info", "acquisition"), ""),
    ((*FILE, "info", "target", "maximum"), -1.0), ((*FILE, "info", "target", "maximum"), float("inf")),
    ((*FILE, "info", "notes"), [3]),
    ((*FILE, "info", "system"), None), ((*FILE, "info", "system", "vendor"), 3),
    ((*FILE, "info", "system", "field_strength"), -1.5), ((*FILE, "info", "geometry"), []),
    ((*FILE, "info", "geometry"), {}), *(((*FILE, "info", "geometry"), GEOMETRY | changed) for changed in (
        {"field_of_view": [0, 9]}, {"field_of_view": [9]}, {"field_of_view": ["9", 9]}, {"slice_thickness": -1},
        {"affine": [[1, 0, 0, 0]]}, {"affine": [[0] * 4] * 4}, {"affine": [[float("nan")] * 4] * 4},
        {"slice_order": [0, 0]}, {"slice_order": [0, 1, 2]}, {"slice_order": [0.0, 1.0]}, {"more": 1},
    )),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value"), DAMAGE)
def test_a_damaged_index_is_made_again_with_one_message(
    root: Path, keys: tuple[str, ...], value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Index(root).look_up(volumes(root))
    sound = kept(root)
    (root / "index.json").write_text(json.dumps(set_in(*keys)(kept(root), value)))
    entries = Index(root).look_up(volumes(root))
    assert [entry._replace(info=None) for entry in entries] == [entry._replace(info=None) for entry in expected]
    assert len(caplog.records) == 1
    assert "made again" in caplog.text
    assert kept(root) == sound


@pytest.mark.parametrize("cut", [30, 200, -3])
def test_a_truncated_index_is_made_again(root: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    Index(root).look_up(volumes(root))
    raw = (root / "index.json").read_bytes()
    for damaged in (raw[:cut], raw[:-3] + b"[" * 100_000, raw.replace(b"multicoil_train", b"\xff\xfe", 1)):
        (root / "index.json").write_bytes(damaged)
        Index(root).look_up(volumes(root))
        assert (root / "index.json").read_bytes() == raw
    assert len(caplog.records) == 3


def test_a_forged_shape_that_the_file_cannot_hold_is_not_used(root: Path) -> None:
    Index(root).look_up(volumes(root))
    content = kept(root)
    content["files"][FILE[1]]["info"]["kspace_size"] = [1 << 20, 1 << 20]
    (root / "index.json").write_text(json.dumps(content))
    info = Index(root).look_up(volumes(root))[0].info
    assert info is not None
    assert info.kspace_size == (40, 36)


def test_a_bad_file_is_looked_at_again_as_its_cure_need_not_show(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise InputError(f"{path}: cannot be opened (Permission denied)")

    with monkeypatch.context() as patch:
        patch.setattr(fastmri, "inspect", broken)
        index = Index(root)
        assert all(entry.verdict == "cannot be opened (Permission denied)" for entry in index.look_up(volumes(root)))
    assert kept(root)["files"][FILE[1]]["verdict"] == "cannot be opened (Permission denied)"
    assert all(entry.verdict for entry in index.look_up(volumes(root)))
    assert all(entry.info for entry in Index(root).look_up(volumes(root)))


# --- faults, through the index -------------------------------------------------------------------------------------


def forged(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (1000, 20, 20000, 20000), np.complex64, chunks=(1, 1, 100, 100))


def not_finite(path: Path, name: str) -> None:
    edit(path, lambda file: file[name].__setitem__((1, ..., 5, 5), np.nan))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "cut short"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_bytes(b"text" * 100), "no HDF5 signature"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "a folder"),
    "dangling": (lambda path: (path.unlink(), path.symlink_to("nowhere")), "nothing is there"),
    "no kspace": (lambda path: replace(path, "kspace", None), "reconstruction_rss"),
    "rank": (lambda path: replace(path, "kspace", np.ones((24, 20), np.complex64)), r"\(24, 20\)"),
    "type": (lambda path: replace(path, "kspace", np.ones((2, 2, 24, 20), np.float32)), "complex64"),
    "entities": (
        lambda path: replace(path, "ismrmrd_header", "<!DOCTYPE h [<!ENTITY e 'x'>]><h>&e;</h>"), "entities",
    ),
    "huge header": (lambda path: replace(path, "ismrmrd_header", "<a>" + " " * (2 << 20) + "</a>"), "1048576 bytes"),
    "no target": (lambda path: replace(path, "reconstruction_rss", None), "has no target"),
    "single-coil": (lambda path: replace(path, "kspace", np.ones((2, 40, 36), np.complex64)), "is singlecoil"),
    "NaN in k-space": (lambda path: not_finite(path, "kspace"), "slice 1 of `kspace`"),
    "NaN in target": (lambda path: not_finite(path, "reconstruction_rss"), "slice 1 of `reconstruction_rss`"),
    "tiny": (lambda path: replace(path, "kspace", np.ones((2, 2, 24, 2), np.complex64)), "7x7"),
    "terabytes": (forged, "20000"),
    "huge attribute": (
        lambda path: edit(path, lambda file: file.attrs.__setitem__("acquisition", np.ones(3000))), "acquisition",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_gets_its_verdict_and_leaves_the_others_alone(root: Path, fault: str) -> None:
    cause, message = FAULTS[fault]
    path = volumes(root)[1]
    cause(path)
    start = time.monotonic()
    entries = Index(root).look_up(volumes(root), full=True)
    assert time.monotonic() - start < 2
    with pytest.raises(InputError, match=rf"1\.h5: .*{message}"):
        usable(path, entries[1], "multicoil", needs_target=True)
    for other in (0, 2):
        assert usable(volumes(root)[other], entries[other], "multicoil", needs_target=True).num_coils == 2


@pytest.mark.parametrize("kind", ["link", "raw", "virtual"])
def test_what_leads_out_of_the_file_is_refused_unread(root: Path, tmp_path: Path, kind: str) -> None:
    path, shape = volumes(root)[1], (2, 2, 40, 36)
    foreign = tmp_path / "foreign"
    with h5py.File(foreign, "w") as file:
        file["kspace"] = np.ones(shape, np.complex64)
    replace(path, "kspace", None)
    layout = h5py.VirtualLayout(shape, np.complex64)
    layout[:] = h5py.VirtualSource(foreign, "kspace", shape, np.complex64)
    outside = [(str(foreign), 0, h5py.h5f.UNLIMITED)]
    make: dict[str, Callable[[h5py.File], object]] = {
        "link": lambda file: file.__setitem__("kspace", h5py.ExternalLink(foreign, "/kspace")),
        "raw": lambda file: file.create_dataset("kspace", shape, np.complex64, external=outside),
        "virtual": lambda file: file.create_virtual_dataset("kspace", layout),
    }
    edit(path, make[kind])
    with unopened(foreign):
        assert Index(root).look_up(volumes(root), full=True)[1].verdict


def test_all_zero_volumes_and_missing_headers_pass(root: Path) -> None:
    path = volumes(root)[0]
    replace(path, "kspace", np.zeros((2, 2, 40, 36), np.complex64))
    replace(path, "reconstruction_rss", np.zeros((2, 40, 36), np.float32))
    replace(path, "ismrmrd_header", None)
    edit(path, lambda file: file.attrs.pop("max"))
    age(root)
    for _ in range(2):
        entry = Index(root).look_up([path], full=True)[0]
        assert (entry.verdict, entry.maximum) == (None, 0.0)
        assert entry.info is not None
        assert any("ismrmrd_header" in note for note in entry.info.notes)


def test_a_worker_s_answer_is_an_entry_that_can_be_sent(root: Path) -> None:
    path, entry = look((volumes(root)[0], None, True, True))
    assert isinstance(entry, Entry)
    assert (path, entry.checked) == (volumes(root)[0], True)


# --- inspection ----------------------------------------------------------------------------------------------------


@pytest.fixture
def many(root: Path, volume: Volume) -> Iterator[Path]:
    """Split folders of both kinds, a test split without targets, an extra one, and other things."""
    replace(volume(root / "multicoil_test_v2" / "a.h5", num_coils=2), "reconstruction_rss", None)
    volume(root / "singlecoil_val" / "b.h5")
    (root / "singlecoil_other").mkdir()
    (root / "multicoil_train" / ".DS_Store").write_text("x")
    return root


def test_all_split_folders_are_found_and_told_apart(many: Path) -> None:
    assert [(f.path.name, f.needs_target) for f in find_folders(many, "all")] == [
        ("singlecoil_val", True), ("multicoil_test_v2", False), ("multicoil_train", True),
    ]  # fmt: skip
    assert [f.path.name for f in find_folders(many, "singlecoil")] == ["singlecoil_val"]
    assert [f.path for f in find_folders(many / "multicoil_train", "all")] == [many / "multicoil_train"]
    (many / "nothing").mkdir()
    for path in (many / "nothing", many / "missing"):
        with pytest.raises(InputError, match=path.name):
            find_folders(path, "all")


def test_a_folder_is_counted_and_its_bad_files_told(many: Path) -> None:
    (many / "multicoil_train" / "bad.h5").write_bytes(b"bad")
    replace(volumes(many)[1], "ismrmrd_header", None)
    index = Index(many)
    reports = [inspect_folder(index, folder, True, lambda *_: None) for folder in find_folders(many, "all")]
    assert [len(report.volumes) for report in reports] == [1, 1, 3]
    assert [len(report.bad) for report in reports] == [0, 0, 1]
    assert reports[2].num_ignored == 1
    assert reports[2].num_bytes == sum((many / "multicoil_train" / f"{n}.h5").stat().st_size for n in range(3))
    assert sum("ismrmrd_header" in note for note in notes(reports)) == 1
    (many / "singlecoil_train").mkdir()
    empty = find_folders(many, "singlecoil")[0]
    assert "found none" in inspect_folder(index, empty, False, lambda *_: None).bad[0]
