"""Runs a study from the command line to its page: grids as multiruns, remaining seeds of the best, the page."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mrirecon.apps.study import progress
from mrirecon.apps.study.cell import check_settings, is_finished, run_cell
from mrirecon.apps.study.page import write_page
from mrirecon.apps.study.parse import read_study
from mrirecon.apps.study.plan import LR_FACTOR, Cell, Grid, Part, Study, grids, more_seeds, optimizers_of
from mrirecon.apps.study.results import best_settings, read_part
from mrirecon.config.compose import compose
from mrirecon.config.overrides import explain
from mrirecon.errors import ConfigError, InputError
from mrirecon.system.atomic import alone_in, output_folder
from mrirecon.system.invocation import command_line

Multirun = Callable[[list[str]], None]
"""Runs train.py's config once for each combination of the overrides."""


def train_cell(cfg: DictConfig) -> None:
    """One training of a study; a refused one is reported, and the others continue."""
    folder = Path(cfg.run_dir)
    output = folder.parent.parent
    try:
        if run_cell(cfg):
            print(progress.line(output, folder), flush=True)
    except (ConfigError, InputError) as error:
        # A failure of the first cell would concern all; a folder with a training of other settings is an error too.
        if is_finished(folder) or not any(output.glob("*/*/cell.json")):
            raise
        print(f"error: {folder.relative_to(output)}: {error}", file=sys.stderr, flush=True)


def run_study(typed: list[str], multirun: Multirun) -> int | None:
    """Runs the typed study and writes its page. Returns 4 where a training is missing.  Raises ConfigError."""
    study = read_study(typed)
    planned = [grid for part in study.parts for grid in grids(part, _default_lr(part))]
    for grid in planned:
        check_settings(_composed(grid.first()))
    with alone_in(output_folder(study.output)):
        cells = _run(study, planned, multirun)
        further = [
            grid
            for part in study.parts
            for grid in more_seeds(part, best_settings(read_part(study.output, part, cells, study.reach)))
        ]
        cells += _run(study, further, multirun) if further else []
        page, summary = write_page(study, cells, command_line())
    print(f"\n{summary}\n\n-> {page}\n   tensorboard --logdir {shlex.quote(str(study.output))}")
    return None if all(is_finished(study.output / cell.folder) for cell in cells) else 4


def _default_lr(part: Part) -> dict[str, float]:
    """Default learning rate of each optimizer, where multiples of it are tried."""
    if LR_FACTOR not in part.axes:
        return {}
    settings = [setting for setting in Grid(part, {}, ()).settings if not setting.startswith("optimizer")]
    return {name: float(_composed([*settings, f"optimizer={name}"]).optimizer.lr) for name in optimizers_of(part)}


def _composed(overrides: list[str]) -> DictConfig:
    try:
        return compose("train", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, overrides, "train")) from error


def _run(study: Study, planned: Sequence[Grid], multirun: Multirun) -> list[Cell]:
    """Runs the cells of some grids, each grid as a multirun of Hydra; finished cells are only checked."""
    cells = [cell for grid in planned for cell in grid.cells()]
    done = progress.start(study, cells, command_line())
    print(f"{study.title}: {len(cells)} trainings in {study.output}" + (f", {done} of them finished" if done else ""))
    try:
        for grid in planned:
            multirun([*grid.overrides(study.output), *study.launch])
    except SystemExit as ended:
        if ended.code == 130:
            print("Finished trainings are kept: the same command goes on with the others.")
        raise
    return cells
