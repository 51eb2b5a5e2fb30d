"""Chooses a regularisation weight on the validation set: mrirecon choose_lambda model=tv [mask=random_8x]"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrirecon.command import command

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("choose_lambda")
def main(cfg: DictConfig) -> None:
    from mrirecon.build import build_datamodule, build_evaluation, part
    from mrirecon.evaluation.lambda_search import check_search, print_trials, search, summary
    from mrirecon.evaluation.scoring import Metrics, evaluate
    from mrirecon.models.base import check_model
    from mrirecon.system.atomic import output_folder, write_json
    from mrirecon.system.progress import CountProgress

    output = output_folder(cfg.output)
    model = check_model(part(cfg, "model"))
    check_search(model, **cfg.search)
    datamodule = build_datamodule(cfg, CountProgress())

    def score(weight: float) -> Metrics:
        cfg.model.reg_weight = weight
        return evaluate(*build_evaluation(cfg, check_model(part(cfg, "model"))), datamodule, None)

    trials = search(score, **cfg.search)

    trainer, _ = build_evaluation(cfg, model)
    if trainer.is_global_zero:
        write_json(output / "choose_lambda.json", summary(trials, cfg.search.score))
        print_trials(f"{type(model).__name__} {datamodule.where} {cfg.split}", trials, cfg.search.score)
        print(f"\nEvery trial, with the conventions: {output / 'choose_lambda.json'}")


if __name__ == "__main__":
    main()
