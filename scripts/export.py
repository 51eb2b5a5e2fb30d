"""Makes a folder to share of a checkpoint: python scripts/export.py ckpt=FILE output=DIR [scores=metrics.json]"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mrirecon.build import load_model
from mrirecon.command import command
from mrirecon.config.allowlist import data_only
from mrirecon.errors import ConfigError
from mrirecon.inference.checkpoints import read_checkpoint
from mrirecon.inference.export import WEIGHTS, find_scores, is_exported, kept_config, pack, write
from mrirecon.inference.model_card import model_card


@command("export")
def main(cfg: DictConfig) -> None:
    path, output = Path(str(cfg.ckpt)), Path(str(cfg.output))
    if is_exported(path):
        raise ConfigError(f"ckpt={path.parent}: is an exported model, or a folder: give the checkpoint file of a run")
    checkpoint = read_checkpoint(path)
    config = kept_config(checkpoint, path)
    for key, value in config.items():
        data_only(value, key)
    model = load_model(OmegaConf.create({"model": config["model"], "ckpt": str(path)}))  # what does not fit ends here

    record, weights = pack(checkpoint, config, path)
    report = find_scores(cfg.scores, path, [record["checkpoint"]["sha256"], record["weights"]["sha256"]])
    write(output, record, weights, model_card(record, model, report))

    print(f"{output}: {WEIGHTS} ({len(weights):,} bytes), config.json, README.md")
    if report is None:
        print("The card has no scores: evaluate the checkpoint, and export it to another folder with scores=FILE.")
    print(f"\nUse it: python scripts/reconstruct.py ckpt={output} input=SCAN_OR_FOLDER output=DIR")


if __name__ == "__main__":
    main()
