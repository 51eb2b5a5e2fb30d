"""Records how a run was made, in TensorBoard and as plain data in every checkpoint."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from mrirecon.config.compose import flatten
from mrirecon.data.datamodule import ReconDataModule
from mrirecon.data.provenance import conventions, data_digest, versions
from mrirecon.data.sources import MaskedSlices
from mrirecon.metrics.scores import MAIN_SCORES
from mrirecon.system.invocation import command_line
from mrirecon.training.callbacks.dashboard import bullets, end_session, start_session, writer_of

# Shown in the tab HPARAMS: these keys, and all keys of these groups.
_COMPARED = ("seed", "data.root", "data.challenge", "data.batch_size", "trainer.max_epochs", "trainer.precision")
_GROUPS = ("mask", "model", "loss", "optimizer", "scheduler")
FINAL = tuple(f"final/{name}" for name in MAIN_SCORES)


class Record(pl.Callback):
    """Writes config, command and versions of a run.

    config: the resolved config as plain dicts, lists, strings and numbers. text: the same as YAML.
    """

    def __init__(self, config: dict[str, Any], text: str) -> None:
        self.config = config
        self.text = text

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = writer_of(trainer)
        if writer is not None:
            writer.add_text("about", bullets(_run_in_words(trainer, self.config)))
            writer.add_text("config", "\n".join(f"    {line}" for line in self.text.splitlines()))
            start_session(writer, hyperparameters(self.config))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        writer = writer_of(trainer)
        if writer is not None:
            end_session(writer, succeeded=False)
            writer.flush()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.config
        scores = validation_scores(trainer, pl_module)
        if scores is not None:
            checkpoint["scores"] = scores


def validation_scores(trainer: pl.Trainer, pl_module: Any) -> dict[str, Any] | None:
    """Validation scores of the current weights, with their conventions; None where these were not validated."""
    validated: tuple[int, dict[str, Any]] | None = getattr(pl_module, "validated", None)
    if validated is None or validated[0] != trainer.global_step:
        return None
    results = validated[1]
    datamodule: ReconDataModule = trainer.datamodule  # type: ignore[attr-defined]
    num_scored = sum(volume["num_slices"] for volume in results["volumes"])
    how = conventions(datamodule, datamodule.sets["val"], num_scored)
    return {**{score: results[score] for score in MAIN_SCORES}, "conventions": how}


def write_final(logger: Any, scores: dict[str, Any], step: int) -> None:
    """Logs the scores of the best checkpoint as `final/...`, for the tab HPARAMS."""
    if isinstance(logger, TensorBoardLogger):
        for name in FINAL:
            value = scores[name.removeprefix("final/")]
            if value is not None:
                logger.experiment.add_scalar(name, value, step)
        end_session(logger.experiment, succeeded=True)
        logger.experiment.flush()


def _run_in_words(trainer: pl.Trainer, config: dict[str, Any]) -> dict[str, str]:
    """What is needed to repeat the run: command, folder, data, device, versions."""
    data: ReconDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return {
        "command": f"`{command_line()}`",
        "folder": f"`{config['run_dir']}`",
        "data": f"`{data.where}`",
        **{f"data, {split}": _fingerprint(dataset) for split, dataset in data.sets.items()},
        "device": f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
    }


def _fingerprint(dataset: MaskedSlices) -> str:
    volumes, slices = dataset.source.volumes, len(dataset.source)
    digest = data_digest(zip(volumes, dataset.source.data_ranges, strict=True))
    return f"{len(volumes)} volumes, {slices} slices, sha256 `{digest}`"


def hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters of the tab HPARAMS: class and active options of each part.  {"optimizer.lr": 0.001}"""
    flat = flatten(config)
    shown = {key: flat[key] for key in _COMPARED if key in flat}
    for key, value in flat.items():
        group, _, name = key.partition(".")
        if group in _GROUPS and name == "_target_":
            shown[group] = value.rpartition(".")[2]
        elif group in _GROUPS and not name.startswith("_") and value is not False and value not in ("None", ""):
            shown[key] = value
    return shown
