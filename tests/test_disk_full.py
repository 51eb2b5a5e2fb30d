"""A disk that takes no more: one message with the bytes needed, and nothing half-written under a final name."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Volume
from made_up_runs import made_up_run, write_run
from test_commands import assert_refused, run
from test_prepared import prepare

from mrirecon.data.prepared import slices_file
from mrirecon.data.prepared.store import read_manifest
from mrirecon.system.atomic import disk_message, replacing, write_whole

# More than the config and the log of a run have, less than a report or a prepared volume.
LIMIT = 30_000


@pytest.fixture
def scans(tmp_path: Path, volume: Volume) -> Path:
    for number in range(2):
        volume(tmp_path / "set" / "singlecoil_val" / f"v{number}.h5", 3, size=(64, 48), seed=number)
    return tmp_path / "set"


def left_behind(folder: Path) -> list[str]:
    """The hidden files of writing, which a command that ends itself removes."""
    return [path.name for path in folder.rglob("*.tmp")]


def test_compare_on_a_full_disk_is_one_message(tmp_path: Path) -> None:
    for name, gain in (("a", 0.0), ("b", 0.1)):
        write_run(tmp_path / name, made_up_run(gain, num_scans=3))
    done = run(tmp_path, "compare", "a", "b", "--output", "out", file_size=LIMIT)
    assert_refused(done, 1, "out/report.html", "bytes are needed", "make room")
    assert list((tmp_path / "out").iterdir()) == []


def test_evaluate_on_a_full_disk_is_one_message_and_what_it_wrote_is_whole(scans: Path, tmp_path: Path) -> None:
    typed = ["model=zero_filled", "data=fastmri_singlecoil", f"data.root={scans}", "data.num_workers=0", "output=out"]
    done = run(tmp_path, "evaluate", *typed, "gallery=1", file_size=LIMIT)
    assert_refused(done, 1, "out/", "bytes are needed", "make room")
    assert left_behind(tmp_path) == []
    for path in (tmp_path / "out").rglob("*.json"):
        json.loads(path.read_text())
    assert not (tmp_path / "out" / "report.html").exists()


def test_prepare_data_on_a_full_disk_is_one_message_and_goes_on_later(scans: Path, tmp_path: Path) -> None:
    typed = [f"data.root={scans}", f"output={tmp_path / 'out'}", "num_workers=0"]
    done = run(tmp_path, "prepare_data", *typed, file_size=LIMIT)
    assert_refused(done, 1, "v0.h5.npy", "bytes are needed", "make room")
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "out").rglob("*.npy")) == []
    assert read_manifest(tmp_path / "out").volumes == {}
    assert prepare(scans, tmp_path / "out").num_written == 2


def test_a_volume_that_was_done_before_the_disk_was_full_is_kept(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = slices_file.write, []

    def write(path: Path, *args: object) -> str:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "no room", str(path))
        return whole(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(slices_file, "write", write)
    with pytest.raises(OSError, match="no room"):
        prepare(scans, tmp_path / "out")
    monkeypatch.undo()
    assert prepare(scans, tmp_path / "out").num_kept == 1


def test_what_will_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    write_whole(tmp_path / "small", "short")
    with pytest.raises(OSError, match="6 bytes are needed, 5 are free") as full:
        write_whole(tmp_path / "large", b"longer")
    assert disk_message(full.value).startswith(f"{tmp_path / 'large'}: not enough space: 6 bytes")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_disk_that_fails_midway_leaves_what_was_there_and_names_the_file(tmp_path: Path, code: int) -> None:
    path = tmp_path / "f"
    path.write_text("before")

    def write() -> None:
        with replacing(path, 7) as temporary:
            temporary.write_text("half")
            raise OSError(code, "write failed")  # a write, other than opening, names no file

    with pytest.raises(OSError, match=os.strerror(code)) as full:
        write()
    assert disk_message(full.value).startswith(f"{path}: {os.strerror(code)}: 7 bytes are needed: make room")
    assert (path.read_text(), [p.name for p in tmp_path.iterdir()]) == ("before", ["f"])


def test_other_faults_of_a_file_are_not_called_a_full_disk() -> None:
    assert disk_message(PermissionError(errno.EACCES, "denied")) == ""
