"""Compares settings on a grid: python scripts/study.py study=lecture, or optimizer=[sgd,adam] lr=log(1e-4,1e1,6)"""

import mrirecon.starting  # noqa: F401

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from mrirecon.build import compose
from mrirecon.command import command, guarded
from mrirecon.option_lists import CONF
from mrirecon.study import progress
from mrirecon.study.cell import is_finished, run_cell
from mrirecon.study.page import write_page
from mrirecon.study.plan import (
    LR_FACTOR,
    Cell,
    Grid,
    Part,
    Study,
    grids,
    more_seeds,
    optimizers_of,
    presets,
    read_study,
)
from mrirecon.study.results import best_settings, read_part


@command("train")
def train_cell(cfg: DictConfig) -> None:
    folder = Path(cfg.run_dir)
    if run_cell(cfg):
        print(progress.line(folder.parent.parent, folder), flush=True)


def main(typed: list[str]) -> None:
    study = read_study(typed)
    command_line = shlex.join(["python", *sys.orig_argv[1:]])
    planned = [grid for part in study.parts for grid in grids(part, _default_lr(part))]
    cells = _run(study, planned, command_line)
    further = [
        grid
        for part in study.parts
        for grid in more_seeds(part, best_settings(read_part(study.output, part, cells, study.reach)))
    ]
    if further:
        cells += _run(study, further, command_line)
    page, summary = write_page(study, cells, command_line)
    print(f"\n{summary}\n\n-> {page}\n   tensorboard --logdir {shlex.quote(str(study.output))}")


def _default_lr(part: Part) -> dict[str, float]:
    """Of each optimizer, where its multiples are to be tried."""
    if LR_FACTOR not in part.axes:
        return {}
    settings = [setting for setting in part.settings if not setting.startswith(("optimizer=", "optimizer.lr="))]
    return {
        name: float(compose("train", [*settings, f"optimizer={name}"]).optimizer.lr) for name in optimizers_of(part)
    }


def _run(study: Study, planned: Sequence[Grid], command_line: str) -> list[Cell]:
    """Runs the cells of some grids that are not finished yet, each grid as a multirun of Hydra."""
    cells = [cell for grid in planned for cell in grid.cells()]
    done = progress.start(study, cells, command_line)
    print(f"{study.title}: {len(cells)} trainings in {study.output}" + (f", {done} of them finished" if done else ""))
    for grid in planned:
        if not all(is_finished(study.output / cell.folder) for cell in grid.cells()):
            typed = sys.argv
            sys.argv = [typed[0], "--multirun", *grid.overrides(study.output), *study.launch]
            try:
                train_cell()
            except SystemExit as ended:
                if ended.code == 130:
                    print("Finished trainings are kept: the same command goes on with the others.")
                raise
            finally:
                sys.argv = typed
    return cells


if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(f"{__doc__}\n\n{(CONF / 'study.yaml').read_text()}\nPresets: {', '.join(presets())}")
    else:
        guarded(lambda: main(sys.argv[1:]))
