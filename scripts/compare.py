"""Compares evaluations of the same volumes: mrirecon compare RUN RUN [RUN ...] [--output DIR]"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from mrirecon.command import ending_well
from mrirecon.errors import ConfigError
from mrirecon.system.interrupts import end_on_ctrl_c, raise_ctrl_c
from mrirecon.system.invocation import arguments, typed_as


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


def main() -> None:
    end_on_ctrl_c()
    with ending_well():
        _compare(arguments())


def _compare(typed: list[str]) -> None:
    from mrirecon.reports.comparison import compare
    from mrirecon.reports.html import write_report
    from mrirecon.reports.inputs import EVENTS
    from mrirecon.reports.runs import read_run
    from mrirecon.reports.text import print_comparison
    from mrirecon.system.atomic import output_folder

    raise_ctrl_c()
    args = _arguments(typed)
    output = output_folder(args.output, "--output ") if args.output else None
    folders = dict(zip(_names(args.runs), map(_folder, args.runs), strict=True))
    runs = {name: read_run(path) for name, path in zip(folders, args.runs, strict=True)}

    print_comparison(compare(runs))

    if output:
        galleries = {name: found.parent for name, path in folders.items() if (found := _gallery(path))}
        curves = {name: path for name, path in folders.items() if any(path.rglob(EVENTS))}
        print(f"\nReport: {write_report(output, runs, galleries, curves)}")


def _arguments(typed: list[str]) -> argparse.Namespace:

    parser = _Parser(prog=typed_as("compare"), description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of an evaluation, or a metrics.json")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write DIR/report.html as well")
    args = parser.parse_args(typed)
    if len(args.runs) < 2:
        raise ConfigError(f"expected two runs or more, but {args.runs[0]} is the only one: add another")
    return args


def _names(paths: list[Path]) -> list[str]:
    """The shortest endings of the folders' paths that tell them apart."""
    folders = [_folder(path).resolve() for path in paths]
    if len(set(folders)) < len(folders):
        raise ConfigError("a run is given twice: a run compared with itself says nothing")
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return names


def _folder(path: Path) -> Path:
    return path.parent if path.name == "metrics.json" else path.with_suffix("") if path.suffix == ".json" else path


def _gallery(path: Path) -> Path | None:
    """The list of the pictures of a run, where it has some."""
    found = (path / "gallery" / "gallery.json", path / "gallery.json")
    return next((file for file in found if file.is_file()), None)


if __name__ == "__main__":
    main()
