"""Scores a checkpoint or a baseline: mrirecon evaluate ckpt=FILE [split=test] [mask=[random_4x,random_8x]]"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mrirecon.command import command

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("evaluate", from_checkpoint=("data", "mask", "model"))
def main(cfg: DictConfig) -> None:
    from mrirecon.build import build_evaluation, build_scored, load_model
    from mrirecon.config.options import chosen_options
    from mrirecon.evaluation.gallery import check_gallery, write_gallery
    from mrirecon.evaluation.scoring import baseline_origin, metrics_of, origin_of, run_passes
    from mrirecon.models.image_domain import ZeroFilled
    from mrirecon.reports.html import write_report
    from mrirecon.reports.table import print_scores
    from mrirecon.system.atomic import output_folder, write_json
    from mrirecon.system.progress import CountProgress

    check_gallery(cfg.gallery, cfg.scores)
    output = output_folder(cfg.output)
    model = load_model(cfg)
    datamodule, others = build_scored(cfg, chosen_options("mask", cfg.masks), CountProgress())
    trainer, module = build_evaluation(cfg, model)

    beside = not isinstance(model, ZeroFilled)
    passes = run_passes(trainer, module, datamodule, cfg.scores, others, beside)

    if trainer.is_global_zero:
        origin = origin_of(trainer, module, cfg.ckpt)
        name = Path(cfg.ckpt).name if cfg.ckpt else type(model).__name__
        reports = {name: metrics_of(passes, origin)}
        write_json(output / "metrics.json", *reports.values())
        if beside:
            zero_filled = metrics_of(passes, baseline_origin(origin), baseline=True)
            write_json(output / "zero_filled.json", zero_filled)
            reports = {"zero-filled": zero_filled, **reports}
        write_gallery(output / "gallery", trainer, module, passes, cfg.gallery)
        page = write_report(output, reports, {name: output / "gallery"}, _learning_curves(name, cfg.ckpt))
        print_scores(f"{datamodule.where} {datamodule.challenge}_{cfg.split}", reports)
        print(f"\nPer volume, with the conventions: {output / 'metrics.json'}\nFor people: {page}")


def _learning_curves(name: str, ckpt: str | None) -> dict[str, Path]:
    """TensorBoard's folder of the run that a checkpoint was kept by, where it still lies there."""
    if ckpt is None:
        return {}
    folder = Path(ckpt).absolute().parent
    events = folder.with_name("tensorboard")
    return {name: events} if folder.name == "checkpoints" and events.is_dir() else {}


if __name__ == "__main__":
    main()
