"""mrirecon: learn to reconstruct MRI from undersampled k-space.

    import mrirecon
    scan = mrirecon.read("scan.h5")
    model = mrirecon.load("best.ckpt")
    result = mrirecon.reconstruct(model, scan)   # result.volume: (slice y x)

The names below are imported when they are first used, so that importing the package takes no time.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrirecon.inference.interface import load as load
    from mrirecon.inference.interface import read as read
    from mrirecon.inference.interface import reconstruct as reconstruct
    from mrirecon.inference.interface import scan_of as scan_of
    from mrirecon.inference.reconstruct import Reconstruction as Reconstruction
    from mrirecon.io.scan import Scan as Scan
    from mrirecon.models.base import ReconModel as ReconModel

__version__ = "0.1.0"

# Public name -> the module it lies in.
_NAMES = {
    "read": "mrirecon.inference.interface",
    "scan_of": "mrirecon.inference.interface",
    "load": "mrirecon.inference.interface",
    "reconstruct": "mrirecon.inference.interface",
    "Scan": "mrirecon.io.scan",
    "ReconModel": "mrirecon.models.base",
    "Reconstruction": "mrirecon.inference.reconstruct",
}
__all__ = ["ReconModel", "Reconstruction", "Scan", "load", "read", "reconstruct", "scan_of"]

# Threads that wait for each other by spinning starve the data workers, and any neighbour, on a machine with few cores.
# OpenMP reads this when torch is loaded, so it has to stand before every import of torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
