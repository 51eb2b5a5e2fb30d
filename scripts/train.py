"""Trains a model: python scripts/train.py optimizer=adam model.norm=group mask=random_4x"""

import shlex
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mrirecon.build import build_datamodule, build_module, build_trainer
from mrirecon.command import command
from mrirecon.config.compose import plain
from mrirecon.config.job_names import name_jobs
from mrirecon.errors import ConfigError
from mrirecon.evaluation.scoring import evaluate
from mrirecon.inference.checkpoints import load_weights
from mrirecon.inference.continuation import check_continues
from mrirecon.models.image_domain import ZeroFilled
from mrirecon.reports.table import print_scores
from mrirecon.system.atomic import write_json
from mrirecon.system.progress import CountProgress
from mrirecon.training.callbacks.record import write_final
from mrirecon.training.module import ReconModule

CONTINUED = (
    "data", "mask", "augmentation", "model", "loss", "optimizer", "scheduler", "trainer", "seed", "target_clamp",
)  # fmt: skip


@command("train", from_checkpoint=CONTINUED)
def train(cfg: DictConfig) -> None:
    datamodule = build_datamodule(cfg, CountProgress())
    module = build_module(cfg)
    trainer = build_trainer(cfg)
    check_continues(plain(cfg))

    trainer.fit(module, datamodule, ckpt_path=cfg.ckpt, weights_only=True)

    best = _checkpoint(trainer)
    load_weights(module.model, best)
    reports = {
        "zero-filled": evaluate(trainer, ReconModule(ZeroFilled()), datamodule, None),
        "this run": evaluate(trainer, module, datamodule, best),
    }
    if trainer.is_global_zero:
        write_json(Path(cfg.run_dir) / "metrics.json", {**reports["this run"], "zero_filled": reports["zero-filled"]})
        write_final(trainer.logger, reports["this run"], trainer.global_step)
        print_scores(f"Best checkpoint on {cfg.split}", reports)
        if (reports["this run"]["ssim"] or 0) <= (reports["zero-filled"]["ssim"] or 0):
            print("This run does not beat zero-filled: train longer, or try another optimizer.lr.")
        _say_next(cfg, best, datamodule.volumes.scan(datamodule.scored().source.volumes[0]))


def _checkpoint(trainer: Any) -> str:
    """The best checkpoint, or the last one of a run that never validated."""
    kept = [callback.best_model_path for callback in trainer.checkpoint_callbacks]
    if not any(kept):
        raise ConfigError(
            "trainer.max_epochs, max_steps: the run ended before a checkpoint was kept; let it run longer"
        )
    if not kept[0]:
        print("No epoch of this run was validated: what follows is the score of its last checkpoint.")
    return next(filter(None, kept))


def _say_next(cfg: DictConfig, best: str, scan: Path | None) -> None:
    scripts = Path(sys.argv[0]).parent
    mask = HydraConfig.get().runtime.choices.get("mask")
    mask = "random_4x" if mask in (None, "checkpoint") else mask
    best, folder, scan_name = (shlex.quote(_short(path)) for path in (best, cfg.run_dir, str(scan or "SCAN")))
    print(
        f"\nEverything of this run is in {folder}\n\nNext:\n"
        f"  tensorboard --logdir {folder}\n"
        f"  python {scripts / 'evaluate.py'} ckpt={best}\n"
        f"  python {scripts / 'reconstruct.py'} ckpt={best} input={scan_name} mask={mask}"
    )


def _short(path: str) -> str:
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.argv[1:] = name_jobs(sys.argv[1:])
    train()
