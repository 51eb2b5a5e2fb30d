"""Checks a data set before it is used: mrirecon check_data data.root=DIR [full=true]"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mrirecon.command import command
from mrirecon.errors import ConfigError, InputError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mrirecon.data.catalog.index import Index

log = logging.getLogger(__name__)


@command("check_data")
def main(cfg: DictConfig) -> int:
    from mrirecon.data.catalog.index import Index
    from mrirecon.data.catalog.inspection import CHALLENGES, find_folders, inspect_folder, notes, print_summary
    from mrirecon.system.progress import CountProgress

    if cfg.data.challenge not in (*CHALLENGES, "all"):
        raise ConfigError(f"data.challenge={cfg.data.challenge}: expected one of {', '.join(CHALLENGES)}, all")
    if not isinstance(cfg.data.root, str):
        raise ConfigError(f"data.root={cfg.data.root}: expected one folder; check several one after the other")
    root, progress = Path(cfg.data.root), CountProgress()
    folders = find_folders(root, cfg.data.challenge)
    index = Index(root, cfg.num_workers)

    reports = [inspect_folder(index, folder, cfg.full, progress) for folder in folders]

    bad = [message for report in reports for message in report.bad]
    for note in notes(reports):
        print(f"note: {note}")
    for message in bad:
        log.error("error: %s", message)
    print_summary(reports)
    print(f"Index: {_keep(index, Path(cfg.output))}")
    if not cfg.full and not bad:
        print("The headers were read; full=true also looks for NaN and Inf in every value.")
    return InputError.exit_code if bad else 0


def _keep(index: Index, output: Path) -> Path:
    """Where the index is to be seen: in the data, or in the output where the data cannot be written."""
    from mrirecon.data.catalog.index_file import FILE_NAME

    if index.kept == index.root / FILE_NAME:
        return index.kept
    try:
        output.mkdir(parents=True, exist_ok=True)
        index.write(output / FILE_NAME)
    except OSError as error:
        raise ConfigError(f"output={output}: cannot be written: {error.strerror}. Choose another folder") from error
    return output / FILE_NAME


if __name__ == "__main__":
    main()
