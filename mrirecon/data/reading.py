"""Where a data set lies and how it is read: scans, or a prepared store; what is kept beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mrirecon.data.catalog.volumes import Progress, Volumes, Writer, folders
from mrirecon.data.prepared.store import PreparedVolumes
from mrirecon.data.sensitivities import FOLDER, Sensitivities
from mrirecon.errors import ConfigError
from mrirecon.io.raw import fastmri

CHALLENGES = ("singlecoil", "multicoil")
CHECKS = ("full", "headers")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """root: the folder above the splits, or a list of such folders, used as one; None where `prepared` is given.
    prepared: the folder, or folders, that scripts/prepare_data.py wrote, to be read in the place of `root`.
    challenge: singlecoil or multicoil.
    check: "full" looks for NaN and Inf in every value before the first step, once per file; "headers" only when a slice
    is read. on_bad_file: "error" stops at a file that cannot be used, "skip" leaves it out and says so.
    sensitivities: the folder where estimated coil sensitivities are kept; "auto" is beside a prepared store and beside
    data that a writer made, and in memory for other data; None is in memory.
    writer: what makes the data of `root`, where it is not there yet; None for data of your own.

    Raises ConfigError for settings that cannot work.
    """

    root: str | Sequence[str] | None = None
    challenge: str = "multicoil"
    check: str = "full"
    on_bad_file: str = "error"
    prepared: str | Sequence[str] | None = None
    sensitivities: str | None = "auto"
    writer: Writer | None = None

    def __post_init__(self) -> None:
        one_of("data.challenge", self.challenge, CHALLENGES)
        one_of("data.check", self.check, CHECKS)
        one_of("data.on_bad_file", self.on_bad_file, ("error", "skip"))

    def volumes(self, num_workers: int, progress: Progress) -> Volumes | PreparedVolumes:
        """The volumes there; nothing is read yet but the manifest of a store.  Raises ConfigError, InputError."""
        challenge = cast(fastmri.Challenge, self.challenge)
        if self.prepared is not None:
            return PreparedVolumes(folders("data.prepared", self.prepared), challenge, self.check, progress)
        if self.root is None:
            raise ConfigError("data.root: give the folder above the splits, data.root=DIR, or data.prepared=DIR")
        num_processes = 0 if num_workers == 0 else None
        roots = folders("data.root", self.root)
        if self.writer is not None and len(roots) > 1:
            raise ConfigError(f"data.root={self.root}: expected one folder to make the data of; give data.writer=null")
        return Volumes(roots, challenge, self.check, self.on_bad_file, num_processes, progress, self.writer)

    def kept_sensitivities(self, volumes: Volumes | PreparedVolumes) -> Sensitivities:
        """Where the coil sensitivities of these volumes are kept."""
        if self.sensitivities == "auto":
            return Sensitivities(None if volumes.beside is None else volumes.beside / FOLDER)
        return Sensitivities(None if self.sensitivities is None else Path(self.sensitivities))


def one_of(key: str, value: str, choices: Sequence[str]) -> None:
    """Raises ConfigError for a setting that is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{key}={value!r}: expected one of {', '.join(choices)}")
