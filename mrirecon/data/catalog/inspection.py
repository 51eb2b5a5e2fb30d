"""Summarises a data set: sizes, coils and contrasts of each folder, and the files that cannot be used."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from rich import filesize
from rich.console import Console
from rich.table import Table

from mrirecon.data.catalog.index import Index, usable
from mrirecon.data.catalog.index_file import FILE_NAME, Entry
from mrirecon.errors import InputError
from mrirecon.io.raw import fastmri
from mrirecon.io.scan import ScanInfo

Progress = Callable[[str, int, int], None]
CHALLENGES = ("singlecoil", "multicoil")
_SHOWN = 4


class Folder(NamedTuple):
    """A folder of volumes, and what they should be."""

    path: Path
    challenge: fastmri.Challenge | None  # None: any
    needs_target: bool


class FolderSummary(NamedTuple):
    """What one folder holds."""

    folder: Folder
    volumes: list[ScanInfo]  # those that can be used
    num_bytes: int  # of these
    bad: list[str]  # one message per file that cannot be used, with its remedy
    num_ignored: int  # entries that are no volumes


def find_folders(root: Path, challenge: str) -> list[Folder]:
    """The split folders below a root, `root/{singlecoil,multicoil}_*`, and the root itself where it holds volumes.

    challenge: singlecoil, multicoil or all. Raises InputError where there are none.
    """
    kinds = CHALLENGES if challenge == "all" else (challenge,)
    folders = [folder for kind in kinds for folder in _split_folders(root, cast(fastmri.Challenge, kind))]
    if any(root.glob("[!.]*.h5")):
        folders.append(Folder(root, None if challenge == "all" else cast(fastmri.Challenge, challenge), False))
    if not folders:
        fastmri.list_volumes(root)  # which says what is there instead
    return folders


def _split_folders(root: Path, kind: fastmri.Challenge) -> list[Folder]:
    """The folders of one kind: of the usual names, and of others (`multicoil_test_v2`) if they hold volumes."""
    folders = []
    for path in sorted(root.glob(f"{kind}_*")):
        split = path.name.removeprefix(f"{kind}_")
        if path.is_dir() and (split in ("train", "val", "test") or any(path.glob("[!.]*.h5"))):
            folders.append(Folder(path, kind, needs_target=split in ("train", "val")))
    return folders


def inspect_folder(index: Index, folder: Folder, full: bool, progress: Progress) -> FolderSummary:
    """Looks every volume of a folder up.  full: every value too"""
    try:
        paths, num_ignored = fastmri.list_volumes(folder.path)
    except InputError as error:
        return FolderSummary(folder, [], 0, [str(error)], 0)
    num_ignored -= (folder.path / FILE_NAME).exists()
    what = f"{'Checking' if full else 'Reading headers of'} {folder.path.name}"
    entries = index.look_up(paths, full=full, progress=lambda done, total: progress(what, done, total))
    good: list[tuple[ScanInfo, Entry]] = []
    bad: list[str] = []
    for path, entry in zip(paths, entries, strict=True):
        try:
            good.append((usable(path, entry, folder.challenge, folder.needs_target), entry))
        except InputError as error:
            bad.append(str(error))
    return FolderSummary(folder, [info for info, _ in good], sum(entry.size for _, entry in good), bad, num_ignored)


def notes(reports: Sequence[FolderSummary]) -> list[str]:
    """One line per assumption that readers made: the number of volumes, the first of them, and the assumption."""
    about: dict[str, list[ScanInfo]] = {}
    for report in reports:
        for info in report.volumes:
            for note in info.notes:
                about.setdefault(note, []).append(info)
    return [f"{len(infos)} volumes, {infos[0].path} first: {note}" for note, infos in about.items()]


def print_summary(reports: Sequence[FolderSummary]) -> None:
    """One table: a row for each folder, and one for all."""
    table = Table(title="Volumes that can be used", title_justify="left")
    for column in ("folder", "volumes", "slices", "k-space", "image", "coils", "contrasts", "size", "bad"):
        table.add_column(column, justify="right" if column in ("volumes", "slices", "size", "bad") else "left")
    for report in reports:
        table.add_row(*_row(report.folder.path.name, [report]))
    if len(reports) > 1:
        table.add_section()
        table.add_row(*_row("all", reports))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140).print(table)
    num_ignored = sum(report.num_ignored for report in reports)
    if num_ignored:
        print(f"{num_ignored} other files and folders ignored")


def _row(name: str, reports: Sequence[FolderSummary]) -> list[str]:
    infos = [info for report in reports for info in report.volumes]
    return [
        name,
        str(len(infos)),
        str(sum(info.num_slices for info in infos)),
        _counted("{}x{}".format(*info.kspace_size) for info in infos),
        _counted("{}x{}".format(*info.recon_size) for info in infos),
        _counted(info.num_coils for info in infos),
        _counted(info.acquisition for info in infos),
        filesize.decimal(sum(report.num_bytes for report in reports)),
        str(sum(len(report.bad) for report in reports)),
    ]


def _counted(values: Iterable[Any]) -> str:
    """The commonest values, a line each, with how many volumes have them."""
    counts = Counter(values).most_common()
    lines = [f"{value} ({count})" for value, count in counts[:_SHOWN]]
    return "\n".join([*lines, *([f"and {len(counts) - _SHOWN} more"] if len(counts) > _SHOWN else [])])
