"""Reading a sampling mask that somebody designed or a scanner used."""

from pathlib import Path

import numpy as np

from mrirecon.errors import ConfigError

_MAX_BYTES = 1 << 24


def read_mask(path: Path) -> np.ndarray:
    """The mask of a `.npy` file, a number or boolean per column or per point: what is not zero is sampled.

    -> bool (w) or bool (h w)

    Raises ConfigError where the file is missing, no array of one or two axes, not finite, or samples nothing.
    """
    if not path.is_file():
        raise ConfigError(f"mask.path={path}: there is no such file")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large for a mask")
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ConfigError(f"mask.path={path}: expected an array written by numpy.save ({error})") from error
    if values.ndim not in (1, 2) or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise ConfigError(
            f"mask.path={path}: expected a finite number per column, (w,), or per point, (h, w), but it has shape "
            f"{values.shape} and type {values.dtype}"
        )
    if not values.any():
        raise ConfigError(f"mask.path={path}: samples nothing")
    return values != 0
