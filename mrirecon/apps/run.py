"""One training from a config: how it is interrupted, its best checkpoint, what to type next."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import SIGTERMException

from mrirecon.config.allowlist import trust_typed
from mrirecon.config.options import option_named
from mrirecon.data.datamodule import ReconDataModule
from mrirecon.errors import ConfigError
from mrirecon.system.invocation import typed_as


@contextmanager
def interrupts_raised() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt and SIGTERM exits with 143; Lightning makes other exits of both."""
    try:
        yield
    except SIGTERMException as error:
        raise SystemExit(143) from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise


def best_checkpoint(trainer: pl.Trainer) -> str:
    """The path of the best checkpoint, or of the last one where nothing was validated.

    Raises ConfigError where the run kept none.
    """
    kept = [callback.best_model_path for callback in trainer.checkpoint_callbacks]  # type: ignore[attr-defined]
    if not any(kept):
        raise ConfigError(
            "trainer.max_epochs, max_steps: the run ended before a checkpoint was kept; let it run longer"
        )
    if not kept[0]:
        print("No epoch of this run was validated: what follows is the score of its last checkpoint.")
    return next(filter(None, kept))


def say_next(cfg: DictConfig, best: str, datamodule: ReconDataModule) -> None:
    """Prints the commands that a person types after a training, in the form this one was typed in."""
    scan = datamodule.volumes.scan(datamodule.scored().source.volumes[0])
    mask = option_named("mask", OmegaConf.to_container(cfg.mask)) if cfg.get("mask") is not None else None
    trust = trust_typed(cfg.trust)
    best, folder, name = (shlex.quote(_short(path)) for path in (best, cfg.run_dir, str(scan or "SCAN")))
    print(
        f"\nEverything of this run is in {folder}\n\nNext:\n"
        f"  tensorboard --logdir {folder}\n"
        f"  {typed_as('evaluate')} ckpt={best}{trust}\n"
        f"  {typed_as('reconstruct')} ckpt={best} input={name} mask={mask or 'random_4x'}{trust}"
    )


def _short(path: str) -> str:
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
