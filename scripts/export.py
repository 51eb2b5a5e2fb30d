"""Makes a folder to share of a checkpoint: mrirecon export ckpt=FILE output=DIR [scores=metrics.json]"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mrirecon.command import command
from mrirecon.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


@command("export")
def main(cfg: DictConfig) -> None:
    from omegaconf import OmegaConf

    from mrirecon.build import load_model
    from mrirecon.config.allowlist import check_foreign, trust_typed
    from mrirecon.inference.checkpoints import read_checkpoint
    from mrirecon.inference.export import WEIGHTS, find_scores, is_exported, kept_config, pack, write
    from mrirecon.inference.model_card import model_card
    from mrirecon.system.invocation import typed_as

    path, output = Path(str(cfg.ckpt)), Path(str(cfg.output))
    if is_exported(path):
        raise ConfigError(f"ckpt={path.parent}: is an exported model, or a folder: give the checkpoint file of a run")
    checkpoint = read_checkpoint(path)
    config = kept_config(checkpoint, path)
    for key, value in config.items():
        check_foreign(value, key, cfg.trust)
    model = load_model(
        OmegaConf.create({"model": config["model"], "ckpt": str(path), "trust": cfg.trust})
    )  # what does not fit ends here

    record, weights = pack(checkpoint, config, path)
    report = find_scores(cfg.scores, path, [record["checkpoint"]["sha256"], record["weights"]["sha256"]])
    write(output, record, weights, model_card(record, model, report))

    print(f"{output}: {WEIGHTS} ({len(weights):,} bytes), config.json, README.md")
    if report is None:
        print("The card has no scores: evaluate the checkpoint, and export it to another folder with scores=FILE.")
    print(f"\nUse it: {typed_as('reconstruct')} ckpt={output} input=SCAN_OR_FOLDER output=DIR{trust_typed(cfg.trust)}")


if __name__ == "__main__":
    main()
