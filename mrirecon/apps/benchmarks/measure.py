"""Times two implementations alternately, and writes the results as a table."""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich import filesize

from mrirecon.system.atomic import write_json, write_whole


class Row(NamedTuple):
    """One row of a table. ratio: how many times better ours is. goal: required ratio, as text."""

    name: str
    ours: float
    reference: float | None
    unit: str
    ratio: float | None
    goal: str
    met: bool | None  # None: no goal
    spread: str = ""  # quartiles of both sides, in the unit


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds per round of each side; sides alternate, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            gc.collect()
            started = time.perf_counter()
            side()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def compared(
    name: str, ours: Sequence[float], reference: Sequence[float], goal: float, scale: float = 1e3, unit: str = "ms"
) -> Row:
    """Row of two sides timed alternately: medians, and the median of the ratios per round.

    scale: units per second, divided by the number of repetitions in a round.
    """
    ratio = statistics.median(theirs / own for own, theirs in zip(ours, reference, strict=True))
    medians = [statistics.median(side) * scale for side in (ours, reference)]
    spread = "; ".join(_quartiles([value * scale for value in side]) for side in (ours, reference))
    return Row(name, medians[0], medians[1], unit, ratio, f">= {goal:g}x", ratio >= goal, spread)


def _quartiles(values: Sequence[float]) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{low:.3g} to {high:.3g}"


def machine(device: str) -> str:
    """Description of the machine."""
    if device == "cuda":
        return f"one {torch.cuda.get_device_name()}, {len(os.sched_getaffinity(0))} CPU cores"
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.processor()}"
    return f"{cores}, {filesize.decimal(memory)}, no GPU"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that are timed."""
    packages = ("torch", "numpy", "h5py", "fastmri", "scikit-image", "pytorch-lightning")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def write_table(output: Path, name: str, rows: Sequence[Row], device: str, notes: Sequence[str]) -> Path:
    """Writes `name.md` and `name.json` (`rows`, `machine`, `versions`, `notes`).  -> path of `name.md`"""
    about: dict[str, Any] = {"machine": machine(device), "versions": versions(), "notes": list(notes)}
    write_json(output / f"{name}.json", {"rows": [row._asdict() for row in rows], **about})
    write_whole(output / f"{name}.md", _markdown(name, rows, about))
    return output / f"{name}.md"


def _markdown(name: str, rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    made = ", ".join(f"{package} {number}" for package, number in about["versions"].items())
    lines = [f"# Benchmark: {name}", "", f"`mrirecon benchmark {name}` on {about['machine']} ({made}).", ""]
    lines += [*about["notes"], ""] if about["notes"] else []
    lines += ["| what | ours | reference | unit | ratio | goal | met | quartiles (ours; reference) |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(" | ".join(["", *_cells(row), ""]).strip() for row in rows)]) + "\n"


def _cells(row: Row) -> list[str]:
    numbers = ["-" if value is None else f"{value:.4g}" for value in (row.ours, row.reference)]
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    met = {True: "yes", False: "no", None: "-"}[row.met]
    return [row.name, *numbers, row.unit, ratio, row.goal, met, row.spread or "-"]


def printed(row: Row) -> str:
    """A row as a line of text."""
    cells = _cells(row)
    return f"{cells[0]:62} {cells[1]:>9} {cells[2]:>9} {cells[3]:9} {cells[4]:>7} {cells[5]:>10}  met: {cells[6]}"
