"""Reconstructs scans: mrirecon reconstruct ckpt=FILE input=FILE_OR_DIR output=DIR [mask=random_4x]"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mrirecon.command import command
from mrirecon.errors import ConfigError, InputError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


@command("reconstruct", from_checkpoint=("model",))
def main(cfg: DictConfig) -> int:
    from mrirecon.build import load_model, part
    from mrirecon.inference.contact_sheet import contact_sheet
    from mrirecon.inference.reconstruct import choose_device, reconstruct
    from mrirecon.io import formats
    from mrirecon.io.raw.fastmri_writer import write_reconstruction
    from mrirecon.reports.pictures import write_png
    from mrirecon.sampling.masks import sampled_of
    from mrirecon.system.atomic import output_folder

    model = load_model(cfg)
    mask_func = None if cfg.get("mask") is None else part(cfg, "mask")
    output, device = output_folder(cfg.output), choose_device(cfg.device)
    if cfg.batch_size < 1:
        raise ConfigError(f"batch_size={cfg.batch_size}: expected at least 1")
    paths = _scans(Path(cfg.input))
    failed = 0
    for path in paths:
        if (output / path.name).exists():
            print(f"{path.name}: {output / path.name} is already there; it is kept")
            continue
        try:
            scan = formats.read(path)
            result = reconstruct(model, scan, mask_func, cfg.batch_size, device)
            picture = contact_sheet(result, scan, cfg.slices, cfg.caption)
        except InputError as error:
            log.error("error: %s", error)
            failed += 1
            continue
        write_png(output / f"{path.stem}.png", picture)
        write_reconstruction(output / path.name, result.volume.numpy(), {"acceleration": result.acceleration})
        sampled = f"{sampled_of(result.mask)}, {result.acceleration:.2f}x"
        print(f"{path.name}: slices {len(result.volume)}, {sampled} -> {output / path.name} and {path.stem}.png")
    if failed:
        log.error("%d of %d scans failed", failed, len(paths))
    return 0 if not failed else InputError.exit_code if failed == len(paths) else 4


def _scans(source: Path) -> list[Path]:
    from mrirecon.io.raw import fastmri

    if source.is_dir():
        return fastmri.list_volumes(source)[0]
    if not source.exists():
        raise InputError(f"input={source}: there is no such file or folder")
    return [source]


if __name__ == "__main__":
    main()
