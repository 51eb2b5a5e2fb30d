"""Measures this project beside its references: mrirecon benchmark [SUITE ...] [device=cuda] [output=DIR]"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mrirecon.command import command
from mrirecon.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

SUITES = ("data", "scores", "overhead")


def _suites(typed: list[str]) -> list[str]:
    """`benchmark.py data` for `benchmark.py suites=[data]`"""
    named = [argument for argument in typed if argument.isidentifier()]
    return [argument for argument in typed if argument not in named] + [f"suites=[{','.join(named)}]"] * bool(named)


@command("benchmark", spell=_suites)
def main(cfg: DictConfig) -> None:
    import torch

    from mrirecon.apps.benchmarks import data, overhead, scores
    from mrirecon.apps.benchmarks.measure import printed, write_table
    from mrirecon.inference.reconstruct import choose_device

    unknown = [name for name in cfg.suites if name not in SUITES]
    if unknown:
        raise ConfigError(f"suites={unknown}: expected some of {', '.join(SUITES)}")
    torch.set_grad_enabled(False)
    device = str(choose_device(cfg.device))
    for name in cfg.suites:
        rows = []
        with tempfile.TemporaryDirectory(dir=cfg.folder) as folder:
            measured = {
                "data": lambda: data.rows(device, Path(folder)),
                "scores": lambda: scores.rows(device, cfg.num_volumes),
                "overhead": lambda: overhead.rows(device),
            }
            for row in measured[name]():
                print(printed(row), flush=True)
                rows.append(row)
        notes = {"data": data.NOTES, "scores": scores.NOTES, "overhead": overhead.NOTES}[name]
        suffix = "" if device == "cpu" else f"_{device}"
        print(f"-> {write_table(Path(cfg.output), name + suffix, rows, device, notes)}")


if __name__ == "__main__":
    main()
