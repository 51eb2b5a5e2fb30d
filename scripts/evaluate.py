"""Scores a checkpoint or a baseline: python scripts/evaluate.py ckpt=FILE [split=test] [mask=random_8x]"""

from pathlib import Path

from omegaconf import DictConfig

from mrirecon.build import build_datamodule, build_evaluation, load_model
from mrirecon.callbacks.progress import CountProgress
from mrirecon.command import command
from mrirecon.evaluation import evaluate, print_scores, write_json


@command("evaluate", from_checkpoint=("data", "mask", "model"))
def main(cfg: DictConfig) -> None:
    model = load_model(cfg)
    datamodule = build_datamodule(cfg, CountProgress())
    trainer, module = build_evaluation(cfg, model)

    report = evaluate(trainer, module, datamodule, cfg.ckpt)

    if trainer.is_global_zero:
        path = Path(cfg.output) / "metrics.json"
        write_json(path, report)
        print_scores(f"{datamodule.where} {datamodule.challenge}_{cfg.split}", {cfg.ckpt or "zero-filled": report})
        print(f"\nPer volume, with the conventions: {path}")


if __name__ == "__main__":
    main()
