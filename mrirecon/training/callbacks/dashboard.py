"""TensorBoard layout and hyperparameters."""

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from mrirecon.metrics.scores import MAIN_SCORES, SCORE_TABLE

# Category -> chart -> regular expressions of its tags, matched from the start.
CHARTS = {
    "loss": {"training": ["train/loss$"], "validation": ["val/loss$"]},
    "scores, with those of zero-filled as a line": {
        f"{score.label} ({score.unit})" if score.unit else score.label: [f"val/{name}$", f"zero_filled/{name}$"]
        for name, score in SCORE_TABLE.items()
        if name in MAIN_SCORES
    },
    "optimizer": {
        "learning rate": ["lr$"],
        "norm of the gradient": ["grad_norm$"],
        "norm of the weights": ["weight_norm$"],
        "update ratio: norm of a step over norm of the weights": ["update_ratio$"],
    },
    "speed": {
        "slices per second": ["slices/s$"],
        "data wait: share of the time between steps": ["speed/data_wait$"],
        "peak memory (GB)": ["speed/memory_gb$"],
    },
}


class Dashboard(pl.Callback):
    """Writes the layout of the tab CUSTOM SCALARS."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = writer_of(trainer)
        if writer is not None:
            layout = {
                category: {chart: ["Multiline", tags] for chart, tags in charts.items()}
                for category, charts in CHARTS.items()
            }
            writer.add_custom_scalars(layout)


def writer_of(trainer: pl.Trainer) -> SummaryWriter | None:
    """TensorBoard writer of a run on its first rank; None without one."""
    if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
        return trainer.logger.experiment
    return None


def is_logged(trainer: pl.Trainer, step: int) -> bool:
    """Whether Lightning logs after this step, counted from 1."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


def start_session(writer: SummaryWriter, hyperparameters: Mapping[str, bool | float | str]) -> None:
    """Adds a run to the tab HPARAMS.

    No experiment summary is written: with one, TensorBoard uses the columns of the first run for all; without, it joins
    the columns of the runs shown.
    """
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in hyperparameters.items():
        # bool first, since True is an int; numbers stay numbers, since as text 10 sorts before 9.
        kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        setattr(info.hparams[name], f"{kind}_value", value)
    _write(writer, metadata.SESSION_START_INFO_TAG, session_start_info=info)


def end_session(writer: SummaryWriter, succeeded: bool) -> None:
    """Marks a run as succeeded or failed in the tab HPARAMS."""
    status = api_pb2.Status.Value("STATUS_SUCCESS" if succeeded else "STATUS_FAILURE")
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    _write(writer, metadata.SESSION_END_INFO_TAG, session_end_info=info)


def _write(writer: SummaryWriter, tag: str, **content: Any) -> None:
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    value = Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
    writer._get_file_writer().add_summary(Summary(value=[value]))


def bullets(rows: Mapping[str, Any]) -> str:
    """Names and values as a Markdown list; in a table TensorBoard would break words in the first column."""
    return "\n".join(f"- **{name}**: {value}" for name, value in rows.items())
