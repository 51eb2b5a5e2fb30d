"""Selects volumes and slices: by a list of files, contrast, width, or a random fraction."""

from collections.abc import Sequence, Set
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from mrirecon.errors import ConfigError
from mrirecon.io.scan import ScanInfo

SPLITS = ("train", "val", "test")


class Selection:
    """files: a text file that lists volumes, one per line, by name with as much of their folder as tells them apart.
    acquisitions, num_cols: contrasts, and numbers of phase encoding columns, that take part; None is all.
    volume_sample_rate, sample_rate: the fraction of the training volumes, or of the training slices; None is all.
    train_splits: the folders to train on. seed: of the fractions.

    Raises ConfigError naming the key that cannot work, or that leaves nothing.
    """

    def __init__(
        self,
        *,
        files: str | None = None,
        acquisitions: Sequence[str] | None = None,
        num_cols: Sequence[int] | None = None,
        volume_sample_rate: float | None = 1.0,
        sample_rate: float | None = 1.0,
        train_splits: Sequence[str] = ("train",),
        seed: int = 0,
    ) -> None:
        self.train_splits = _train_splits(train_splits)
        self.acquisitions = _list_of("data.acquisitions", acquisitions, str, "names")
        self.num_cols = _list_of("data.num_cols", num_cols, int, "whole numbers")
        self.volume_sample_rate = _rate("data.volume_sample_rate", volume_sample_rate)
        self.sample_rate = _rate("data.sample_rate", sample_rate)
        if self.volume_sample_rate < 1 and self.sample_rate < 1:
            raise ConfigError(
                f"data.volume_sample_rate={volume_sample_rate} and data.sample_rate={sample_rate}: expected one of "
                "them at most; leave the other at 1.0"
            )
        self.files, self.seed = files, seed
        self._lines: dict[str, list[PurePath]] = {}  # by the name of the volume
        for line in () if files is None else _read_lines(files):
            self._lines.setdefault(line.name, []).append(line)

    def check_files(self, there: Sequence[Path]) -> None:
        """Raises ConfigError where the list names what is not among the volumes that are there."""
        found = {line for path in there for line in self._naming(path)}
        unknown = [str(line) for lines in self._lines.values() for line in lines if line not in found]
        if unknown:
            raise ConfigError(
                f"data.files={self.files}: lists {len(unknown)} volumes that are not there: {unknown[:5]}. Correct or "
                "remove these lines"
            )

    def listed(self, paths: Sequence[Path], where: str) -> list[Path]:
        """The files that `files` lists."""
        kept = [path for path in paths if self.files is None or self._naming(path)]
        return _need_some(kept, f"data.files={self.files}", where, f"it lists none of its {len(paths)} volumes")

    def check_acquisitions(self, there: Set[str]) -> None:
        """Raises ConfigError where a chosen contrast is not among those that are there."""
        unknown = [name for name in self.acquisitions or () if name not in there]
        if unknown:
            raise ConfigError(
                f"data.acquisitions={self.acquisitions}: no volume has {', '.join(unknown)}; there are "
                f"{', '.join(sorted(there))}. Choose among these"
            )

    def of_kind(self, infos: Sequence[ScanInfo], where: str) -> list[ScanInfo]:
        """The volumes of the chosen contrasts and widths."""
        kept = list(infos)
        if self.acquisitions is not None:
            there = sorted({info.acquisition for info in infos})
            kept = [info for info in kept if info.acquisition in self.acquisitions]
            _need_some(kept, f"data.acquisitions={self.acquisitions}", where, f"there are {', '.join(there)}")
        if self.num_cols is not None:
            widths = sorted({info.kspace_size[1] for info in kept})
            kept = [info for info in kept if info.kspace_size[1] in self.num_cols]
            _need_some(kept, f"data.num_cols={self.num_cols}", where, f"there are {', '.join(map(str, widths))}")
        return kept

    def some_volumes(self, infos: Sequence[ScanInfo], where: str) -> list[ScanInfo]:
        """The fraction of the volumes that trains, in their order."""
        chosen = self._some(len(infos), self.volume_sample_rate)
        came = f"that is none of its {len(infos)} volumes"
        return _need_some([infos[i] for i in chosen], f"data.volume_sample_rate={self.volume_sample_rate}", where, came)

    def some_slices(self, num_slices: int, where: str) -> list[int] | None:
        """The numbers of the slices that train, in their order; None is all."""
        if self.sample_rate == 1:
            return None
        chosen, came = self._some(num_slices, self.sample_rate), f"that is none of its {num_slices} slices"
        return _need_some(chosen.tolist(), f"data.sample_rate={self.sample_rate}", where, came)

    def _naming(self, path: Path) -> list[PurePath]:
        """The lines that mean that file: its name, or its name after some of its folders."""
        lines = self._lines.get(path.name, [])
        return [line for line in lines if path.absolute().parts[-len(line.parts) :] == line.parts]

    def _some(self, total: int, rate: float) -> np.ndarray:
        if rate == 1:
            return np.arange(total)
        return np.sort(np.random.default_rng(self.seed).permutation(total)[: round(total * rate)])


def _need_some(kept: list[Any], key: str, where: str, came: str) -> list[Any]:
    if not kept:
        raise ConfigError(f"{key}: leaves nothing of {where}; {came}. Choose what is there, or more of it")
    return kept


def _read_lines(files: str) -> list[PurePath]:
    try:
        text = Path(files).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"data.files={files}: expected a text file with the name of a volume per line; it cannot be read "
            f"({error.strerror if isinstance(error, OSError) else 'it is no text'}). Correct the path"
        ) from error
    lines = [PurePath(line.strip()) for line in text.splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"data.files={files}: expected the name of a volume per line, but it is empty. Fill it")
    return list(dict.fromkeys(lines))


def _rate(key: str, value: Any) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(f"{key}={value!r}: expected a fraction, above 0 and at most 1; 1.0 takes all")
    return float(value)


def _list_of(key: str, value: Any, kind: type, what: str) -> list[Any] | None:
    if value is None:
        return None
    values = [value] if isinstance(value, kind) else value
    if not isinstance(values, list | tuple) or not values or any(type(item) is not kind for item in values):
        raise ConfigError(f"{key}={value!r}: expected a list of {what}, as in {key}=[A,B], or null for all")
    return list(values)


def _train_splits(splits: object) -> tuple[str, ...]:
    given = splits if isinstance(splits, list | tuple) else ()
    if not given or not set(given) <= set(SPLITS) or len(set(given)) < len(given):
        raise ConfigError(f"data.train_splits={splits!r}: expected a list of some of {', '.join(SPLITS)}, each once")
    return tuple(given)
