"""Trains a model: mrirecon train optimizer=adam model.norm=group mask=random_4x"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrirecon.command import command

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONTINUED = (
    "data", "mask", "augmentation", "splitting", "model", "loss", "optimizer", "scheduler", "trainer", "seed",
    "target_clamp",
)  # fmt: skip


def _names(typed: list[str]) -> list[str]:
    from mrirecon.config.job_names import name_jobs

    return name_jobs(typed)


@command("train", from_checkpoint=CONTINUED, spell=_names)
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from mrirecon.apps.run import best_checkpoint, say_next
    from mrirecon.build import build_datamodule, build_module, build_trainer
    from mrirecon.config.compose import plain
    from mrirecon.evaluation.scoring import evaluate
    from mrirecon.inference.checkpoints import load_weights
    from mrirecon.inference.continuation import check_continues
    from mrirecon.models.image_domain import ZeroFilled
    from mrirecon.reports.table import print_scores
    from mrirecon.system.atomic import write_json
    from mrirecon.system.progress import CountProgress
    from mrirecon.training.callbacks.record import write_final
    from mrirecon.training.module import ReconModule

    datamodule = build_datamodule(cfg, CountProgress())
    module = build_module(cfg)
    trainer = build_trainer(cfg)
    check_continues(plain(cfg))

    trainer.fit(module, datamodule, ckpt_path=cfg.ckpt, weights_only=True)

    best = best_checkpoint(trainer)
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
        say_next(cfg, best, datamodule)


if __name__ == "__main__":
    main()
