"""Writes the short form of a data set, once: mrirecon prepare_data data.root=DIR output=DIR"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mrirecon.command import command
from mrirecon.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


@command("prepare_data")
def main(cfg: DictConfig) -> int:
    from rich import filesize

    from mrirecon.data.catalog.inspection import CHALLENGES
    from mrirecon.data.prepared.prepare import Preparation
    from mrirecon.system.invocation import typed_as
    from mrirecon.system.progress import CountProgress

    if cfg.data.challenge not in (*CHALLENGES, "all"):
        raise ConfigError(f"data.challenge={cfg.data.challenge}: expected one of {', '.join(CHALLENGES)}, all")
    root, output = Path(cfg.data.root), Path(cfg.output)
    report = Preparation(root, output, cfg.data.challenge, cfg.precision, cfg.num_workers, CountProgress()).run()

    for message in report.bad:
        log.error("error: %s", message)
    volumes = report.manifest.volumes.values()
    size = filesize.decimal(sum(volume.size for volume in volumes))
    print(f"{output}: {len(volumes)} volumes, {size}: {report.num_written} written, {report.num_kept} were there")
    if report.num_dropped:
        print(f"{report.num_dropped} volumes that were there are removed: they are no longer among the usable ones")
    if report.without_target:
        print(f"{report.without_target} volumes without a target are left out; reconstruct reads them as they are")
    if cfg.precision == "half":
        print(f"Half precision changes no image by more than {max(v.error for v in volumes):.1e} of its norm")
    print(f"\nTrain on it: {typed_as('train')} data=... data.prepared={output}")
    return 0 if not report.bad else 4


if __name__ == "__main__":
    main()
