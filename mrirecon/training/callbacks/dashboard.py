"""What TensorBoard is told besides numbers: the charts that belong together, hyperparameters, a run in words."""

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from mrirecon.metrics.scores import MAIN_SCORES, SCORE_TABLE

# Category -> chart -> the tags it shows, as regular expressions from a tag's first character on.
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
    """Lays out the tab CUSTOM SCALARS: what is looked at together stands together."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        writer = writer_of(trainer)
        if writer is not None:
            layout = {
                category: {chart: ["Multiline", tags] for chart, tags in charts.items()}
                for category, charts in CHARTS.items()
            }
            writer.add_custom_scalars(layout)


def writer_of(trainer: pl.Trainer) -> SummaryWriter | None:
    """TensorBoard's writer, on the first rank of a run that has one."""
    if isinstance(trainer.logger, TensorBoardLogger) and trainer.is_global_zero:
        return trainer.logger.experiment
    return None


def is_logged(trainer: pl.Trainer, step: int) -> bool:
    """Whether Lightning logs after that step, the first being 1."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and step % every == 0


def start_session(writer: SummaryWriter, hyperparameters: Mapping[str, bool | float | str]) -> None:
    """Adds a run to the tab HPARAMS.

    No summary of an experiment is written: TensorBoard would take the columns of the first run for those of all, and
    without one it joins the columns of the runs it shows.
    """
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in hyperparameters.items():
        # Python's True is a number, too; and a number written as text would sort 10 before 9.
        kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        setattr(info.hparams[name], f"{kind}_value", value)
    _write(writer, metadata.SESSION_START_INFO_TAG, session_start_info=info)


def end_session(writer: SummaryWriter, succeeded: bool) -> None:
    """Says in the tab HPARAMS how a run ended."""
    status = api_pb2.Status.Value("STATUS_SUCCESS" if succeeded else "STATUS_FAILURE")
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    _write(writer, metadata.SESSION_END_INFO_TAG, session_end_info=info)


def _write(writer: SummaryWriter, tag: str, **content: Any) -> None:
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
    value = Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
    writer._get_file_writer().add_summary(Summary(value=[value]))


def bullets(rows: Mapping[str, Any]) -> str:
    """Names and values as a list in Markdown; TensorBoard breaks the words in the first column of a table."""
    return "\n".join(f"- **{name}**: {value}" for name, value in rows.items())
