"""Plan of a study: parts, each a grid of settings of train.py, run as multiruns of Hydra."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from mrirecon.config.grammar import DIGITS
from mrirecon.config.options import CONF, is_group
from mrirecon.config.overrides import without_null

Value = str | int | float | bool | None
Axes = dict[str, Sequence[Value]]

LR, LR_FACTOR, REG_WEIGHT = "lr", "lr_factor", "model.reg_weight"
LR_KEY = "optimizer.lr"

# Overrides of every training: nothing is kept but its curves.
_QUIET = (
    "callbacks=study", "trainer.enable_checkpointing=false", "trainer.enable_progress_bar=false",
    "trainer.num_sanity_val_steps=0", "trainer.log_every_n_steps=1", "hydra/hydra_logging=disabled",
    "hydra.job_logging.root.level=WARNING", "hydra.job.name=study",
)  # fmt: skip


class Part(NamedTuple):
    """A grid of trainings and the question it answers.

    question: key of `findings.FINDERS`. settings: overrides of train.py for every cell. axes: values to vary, in all
    combinations; `lr` stands for optimizer.lr, `lr_factor` for multiples of each optimizer's own. seeds: runs of each
    combination, seed 0, 1, ... lr_seeds: seeds run at every learning rate; the remaining ones only at the best.
    budget: passes over the training data. baselines: axes of models without training, scored once.
    """

    name: str
    title: str
    question: str
    about: str
    settings: tuple[str, ...]
    axes: Axes
    seeds: int
    lr_seeds: int
    budget: int
    baselines: Axes


class Cell(NamedTuple):
    """One training: values of the axes and a seed. folder: relative to that of the study."""

    part: str
    axes: dict[str, Value]
    seed: int
    folder: str


class Study(NamedTuple):
    """A named set of parts."""

    title: str
    about: str
    output: Path
    reach: float | None
    parts: tuple[Part, ...]
    launch: tuple[str, ...]  # overrides of Hydra itself


def axis_key(axis: str) -> str:
    """Key of train.py for an axis."""
    return LR_KEY if axis in (LR, LR_FACTOR) else axis


class Grid(NamedTuple):
    """One multirun: all combinations of its axes. is_baseline: leaves out the part's settings of the model."""

    part: Part
    axes: Axes  # lr_factor is already resolved to lr
    seeds: Sequence[int]
    is_baseline: bool = False

    def cells(self) -> Iterator[Cell]:
        """Cells in running order: all combinations with the first seed, then with the next."""
        for seed in self.seeds:
            for values in itertools.product(*self.axes.values()):
                axes = dict(zip(self.axes, values, strict=True))
                name = ",".join([*(f"{key}={value}" for key, value in axes.items()), f"seed={seed}"])
                yield Cell(self.part.name, axes, seed, f"{self.part.name}/{name}")

    @property
    def settings(self) -> list[str]:
        """Settings of its part, in Hydra's syntax."""
        kept = [s for s in self.part.settings if not (self.is_baseline and re.match(r"\+*model[.=]", s))]
        return [without_null(setting) for setting in kept]

    def overrides(self, output: Path) -> list[str]:
        """Overrides of the multirun: cells and their folders."""
        swept = [f"{axis_key(axis)}={','.join(map(_text, values))}" for axis, values in self.axes.items()]
        names = [
            f"{axis}=${{hydra:runtime.choices.{axis}}}"
            if is_group(axis)
            else f"{axis}=${{{axis_key(axis).lstrip('+')}}}"
            for axis in self.axes
        ]
        folder = (output / self.part.name).as_posix().replace("'", r"\'")
        return [
            *self.shared,
            f"seed={','.join(map(str, self.seeds))}",
            *swept,
            f"hydra.sweep.dir='{folder}'",
            f"hydra.sweep.subdir='{','.join([*names, 'seed=${seed}'])}'",
        ]

    @property
    def shared(self) -> list[str]:
        """Overrides common to all its cells."""
        return [*_QUIET, *self.settings, f"trainer.max_epochs={self.part.budget}"]

    def first(self) -> list[str]:
        """Overrides of its first cell, for a check that it can be composed."""
        return [*self.shared, *(f"{axis_key(axis)}={_text(values[0])}" for axis, values in self.axes.items())]


def _text(value: Value) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def grids(part: Part, default_lr: Mapping[str, float]) -> list[Grid]:
    """First multiruns of a part: one, or with `lr_factor` one per optimizer.

    default_lr: default learning rate of each optimizer used with `lr_factor`.
    """
    found = [Grid(part, part.baselines, range(1), is_baseline=True)] if part.baselines else []
    if LR_FACTOR not in part.axes:
        return [*found, Grid(part, part.axes, range(part.lr_seeds))]
    for name, lr in default_lr.items():
        rates = [float(f"{lr * float(factor or 0):.{DIGITS}g}") for factor in part.axes[LR_FACTOR]]
        rest = {key: values for key, values in part.axes.items() if key not in (LR_FACTOR, "optimizer")}
        found.append(Grid(part, {"optimizer": [name], **rest, LR: rates}, range(part.lr_seeds)))
    return found


def more_seeds(part: Part, best: Sequence[Mapping[str, Value]]) -> list[Grid]:
    """Second multiruns of a part: remaining seeds of the best settings, given by their axes."""
    seeds = range(part.lr_seeds, part.seeds)
    return [Grid(part, {key: [value] for key, value in axes.items()}, seeds) for axes in best] if seeds else []


def optimizers_of(part: Part) -> list[str]:
    """Optimizers that a part uses; the default of train.py where it names none."""
    if "optimizer" in part.axes:
        return [str(name) for name in part.axes["optimizer"]]
    chosen = [setting.partition("=")[2] for setting in part.settings if setting.startswith("optimizer=")]
    if chosen:
        return chosen[-1:]
    defaults = OmegaConf.load(CONF / "train.yaml").defaults
    return [str(entry.optimizer) for entry in defaults if isinstance(entry, DictConfig) and "optimizer" in entry]
