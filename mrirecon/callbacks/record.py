"""Writes down how a run was made: in TensorBoard, and in every checkpoint as plain data."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from mrirecon.data.datamodule import ReconDataModule
from mrirecon.metrics.volume import SCORES
from mrirecon.provenance import conventions

# In the HParams tab: these keys, and these groups whole.
_COMPARED = ("seed", "data.root", "data.challenge", "data.batch_size", "trainer.max_epochs", "trainer.precision")
_GROUPS = ("mask", "model", "loss", "optimizer", "scheduler")
FINAL = ("final/ssim", "final/psnr", "final/nmse")


class Record(pl.Callback):
    """config: the resolved config, of plain dicts, lists, strings and numbers. text: the same as YAML."""

    def __init__(self, config: dict[str, Any], text: str) -> None:
        self.config = config
        self.text = text

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
            writer = trainer.logger.experiment
            writer.add_text("config", "\n".join(f"    {line}" for line in self.text.splitlines()))
            # Announced without values: Lightning's own way writes a score of zero into the curves first.
            for summary in hparams(hyperparameters(self.config), dict.fromkeys(FINAL, 0.0)):
                writer._get_file_writer().add_summary(summary)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config
        scores = validation_scores(trainer, pl_module)
        if scores is not None:
            checkpoint["scores"] = scores


def validation_scores(trainer: pl.Trainer, pl_module: Any) -> dict[str, Any] | None:
    """Scores on the validation set of the weights as they are, and their conventions; None where there are none yet."""
    validated: tuple[int, dict[str, Any]] | None = getattr(pl_module, "validated", None)
    if validated is None or validated[0] != trainer.global_step:
        return None
    results = validated[1]
    datamodule: ReconDataModule = trainer.datamodule  # type: ignore[attr-defined]
    num_scored = sum(volume["num_slices"] for volume in results["volumes"])
    how = conventions(datamodule, datamodule.sets["val"], num_scored)
    return {**{score: results[score] for score in SCORES}, "conventions": how}


def write_final(logger: Any, scores: dict[str, Any], step: int) -> None:
    """Puts the scores of the best checkpoint beside the hyperparameters."""
    if isinstance(logger, TensorBoardLogger):
        for name in FINAL:
            value = scores[name.removeprefix("final/")]
            if value is not None:
                logger.experiment.add_scalar(name, value, step)
        logger.experiment.flush()


def hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """What runs are compared by: the parts chosen and their knobs that do something.  {"optimizer.lr": 0.001}"""
    flat = flatten(config)
    shown = {key: flat[key] for key in _COMPARED if key in flat}
    for key, value in flat.items():
        group, _, name = key.partition(".")
        if group in _GROUPS and name == "_target_":
            shown[group] = value.rpartition(".")[2]
        elif group in _GROUPS and not name.startswith("_") and value is not False and value not in ("None", ""):
            shown[key] = value
    return shown


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; lists as text.  {"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
