"""Scores a checkpoint or a baseline: python scripts/evaluate.py ckpt=FILE [split=test] [mask=random_8x]"""

from pathlib import Path

from omegaconf import DictConfig

from mrirecon.build import build_datamodule, build_evaluation, load_model
from mrirecon.callbacks.progress import CountProgress
from mrirecon.command import command, output_folder
from mrirecon.evaluation import evaluate, print_scores, write_json


@command("evaluate", from_checkpoint=("data", "mask", "model"))
def main(cfg: DictConfig) -> None:
    output = output_folder(cfg.output)
    model = load_model(cfg)
    datamodule = build_datamodule(cfg, CountProgress())
    trainer, module = build_evaluation(cfg, model)

    report = evaluate(trainer, module, datamodule, cfg.ckpt)

    if trainer.is_global_zero:
        write_json(output / "metrics.json", report)
        name = Path(cfg.ckpt).name if cfg.ckpt else type(model).__name__
        print_scores(f"{datamodule.where} {datamodule.challenge}_{cfg.split}", {name: report})
        print(f"\nPer volume, with the conventions: {output / 'metrics.json'}")


if __name__ == "__main__":
    main()
