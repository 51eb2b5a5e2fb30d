"""Free memory of a device, and what is done with freed memory."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_MMAP_THRESHOLD = 1 << 25  # glibc takes no more
_KEPT_BYTES = 1 << 29


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    free = [_meminfo("MemAvailable"), _cgroup_free()]
    return min(value for value in free if value is not None) if any(value is not None for value in free) else 1 << 62


def _meminfo(key: str) -> int | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _cgroup_free() -> int | None:
    """What the limit of a container leaves; None where there is none."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return None
    return max(0, int(limit.read_text()) - int(used.read_text()))


def keep_freed_memory() -> None:
    """Freed memory stays with this process, and with those it forks, instead of going back to the system at once.

    With glibc's defaults every large temporary is made of new pages, which the system has to clear: on a CPU that takes
    longer than most arithmetic on it. Does nothing with other C libraries, or where MALLOC_TRIM_THRESHOLD_ is set.
    """
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
