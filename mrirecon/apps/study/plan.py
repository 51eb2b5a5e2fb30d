"""What a study runs: its parts, each a grid of settings of train.py, and every grid as a multirun of Hydra."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from mrirecon.config.grammar import DIGITS
from mrirecon.config.options import CONF, is_group

Value = str | int | float | bool | None
Axes = dict[str, Sequence[Value]]

LR, LR_FACTOR, REG_WEIGHT = "lr", "lr_factor", "model.reg_weight"
LR_KEY = "optimizer.lr"

# Of every training: nothing is kept but its curves.
_QUIET = (
    "callbacks=study", "trainer.enable_checkpointing=false", "trainer.enable_progress_bar=false",
    "trainer.num_sanity_val_steps=0", "trainer.log_every_n_steps=1", "hydra/hydra_logging=disabled",
    "hydra.job_logging.root.level=WARNING", "hydra.job.name=study",
)  # fmt: skip


class Part(NamedTuple):
    """A grid of trainings and what is asked of it.

    question: which of `findings.FINDERS` puts the answer into words. settings: overrides of train.py, the same in every
    cell. axes: what is varied, every combination of it; `lr` stands for optimizer.lr, `lr_factor` for multiples of each
    optimizer's own. seeds: runs of each combination, seed 0, 1, ... lr_seeds: as many of them are run of every learning
    rate, the others of the best one alone. budget: passes over the training data. baselines: axes of models
    that need no training, scored once.
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
    """One training: values of the axes and a seed. folder: below that of the study."""

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
    """What train.py calls an axis."""
    return LR_KEY if axis in (LR, LR_FACTOR) else axis


class Grid(NamedTuple):
    """One multirun: all combinations of its axes. is_baseline: of models that have no settings of the part's model."""

    part: Part
    axes: Axes  # without lr_factor: it is a learning rate by now
    seeds: Sequence[int]
    is_baseline: bool = False

    def cells(self) -> Iterator[Cell]:
        """In the order they are run: every combination with the first seed, then with the next."""
        for seed in self.seeds:
            for values in itertools.product(*self.axes.values()):
                axes = dict(zip(self.axes, values, strict=True))
                name = ",".join([*(f"{key}={value}" for key, value in axes.items()), f"seed={seed}"])
                yield Cell(self.part.name, axes, seed, f"{self.part.name}/{name}")

    @property
    def settings(self) -> list[str]:
        """Those of its part, as Hydra wants them."""
        kept = [s for s in self.part.settings if not (self.is_baseline and re.match(r"\+*model[.=]", s))]
        return [_without_null(setting) for setting in kept]

    def overrides(self, output: Path) -> list[str]:
        """What Hydra is told, for the cells and their folders."""
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
        """Overrides of all its cells."""
        return [*_QUIET, *self.settings, f"trainer.max_epochs={self.part.budget}"]

    def first(self) -> list[str]:
        """Overrides of its first cell, to see whether it can be composed."""
        return [*self.shared, *(f"{axis_key(axis)}={_text(values[0])}" for axis, values in self.axes.items())]


def _text(value: Value) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _without_null(setting: str) -> str:
    """`mask=null` as Hydra wants it."""
    group, _, value = setting.partition("=")
    return f"~{group}" if value == "null" and is_group(group) else setting


def grids(part: Part, default_lr: Mapping[str, float]) -> list[Grid]:
    """The first multiruns of a part: one, or one for each optimizer where learning rates are multiples of its own.

    default_lr: of each optimizer that the part uses with `lr_factor`.
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
    """The multiruns that follow: the remaining seeds of the best settings, given by the values of their axes."""
    seeds = range(part.lr_seeds, part.seeds)
    return [Grid(part, {key: [value] for key, value in axes.items()}, seeds) for axes in best] if seeds else []


def optimizers_of(part: Part) -> list[str]:
    """The optimizers a part uses; of one that names none, train.py's own."""
    if "optimizer" in part.axes:
        return [str(name) for name in part.axes["optimizer"]]
    chosen = [setting.partition("=")[2] for setting in part.settings if setting.startswith("optimizer=")]
    if chosen:
        return chosen[-1:]
    defaults = OmegaConf.load(CONF / "train.yaml").defaults
    return [str(entry.optimizer) for entry in defaults if isinstance(entry, DictConfig) and "optimizer" in entry]
