"""Compares settings on a grid: mrirecon study study=lecture, or optimizer=[sgd,adam] lr=log(1e-4,1e1,6)"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mrirecon.command import command, guarded
from mrirecon.system.interrupts import end_on_ctrl_c
from mrirecon.system.invocation import arguments, with_arguments

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("train")
def train_cell(cfg: DictConfig) -> None:
    from mrirecon.apps.study.run import train_cell

    train_cell(cfg)


def _multirun(overrides: list[str]) -> None:
    typed = sys.argv
    try:
        sys.argv = with_arguments(["--multirun", *overrides])
        train_cell()
    finally:
        sys.argv = typed


def main() -> None:
    end_on_ctrl_c()
    if {"-h", "--help"} & {*arguments()}:
        _print_help()
    else:
        guarded(_study)


def _study() -> int | None:
    from mrirecon.apps.study.run import run_study

    return run_study(arguments(), _multirun)


def _print_help() -> None:
    from mrirecon.config.options import command_file, options_of

    print(f"{__doc__}\n\n{command_file('study').read_text()}\nPresets: {', '.join(sorted(options_of('study')))}")


if __name__ == "__main__":
    main()
