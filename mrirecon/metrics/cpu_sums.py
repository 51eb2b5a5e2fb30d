"""Sums over the pixels of slices on a CPU, in strips of rows that fit its cache, spread over threads.

The order of additions is fixed: the sum of a slice depends neither on its batch nor on the number of threads. float64
throughout: float32 takes half the time, but cancellation in the variances moves SSIM by 1e-6, more in flat images.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch
from torch import Tensor

# torch runs an operation on this many elements or fewer in the calling thread. Above it, its threads synchronise after
# each of dozens of short operations, which takes longer than the operations: fifty times longer where a core is busy.
_MOST_ELEMENTS = 2**15 - 1

Worker = Callable[[int, slice], float]


def share_rows(num_rows: int, width: int, overlap: int = 0) -> list[slice]:
    """Slices of rows that cover all rows in strips of nearly equal height; each reads `overlap` more rows."""
    most = max(1, _MOST_ELEMENTS // width - overlap)
    num_strips = max(1, -(-(num_rows - overlap) // most))
    edges = [(num_rows - overlap) * i // num_strips for i in range(num_strips + 1)]
    return [slice(start, stop + overlap) for start, stop in pairwise(edges)]


def sum_strips(worker: Worker, num_slices: int, strips: list[slice]) -> Tensor:
    """Sum over the strips of each slice, first to last.  -> (num_slices) float64

    worker: called with a slice number and a strip of rows, from several threads at once.
    """
    jobs = [(i, rows) for i in range(num_slices) for rows in strips]
    num_threads = max(1, min(torch.get_num_threads(), len(jobs)))
    sums = [0.0] * len(jobs)

    def work(first: int) -> None:
        with torch.no_grad():  # grad mode is per thread
            sums[first::num_threads] = [worker(*job) for job in jobs[first::num_threads]]

    if num_threads == 1:
        work(0)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(work, range(num_threads)))
    per_slice = (sums[i : i + len(strips)] for i in range(0, len(jobs), len(strips)))
    return torch.tensor([sum(values) for values in per_slice], dtype=torch.float64)


def sum_pixels(function: Callable[..., Tensor], *images: Tensor, overlap: int = 0) -> Tensor:
    """Sum of `function(*images)` over the pixels of each slice, strip by strip in float64.  (b y x), ... -> (b)"""

    def worker(i: int, rows: slice) -> float:
        return function(*(image[i, rows].double() for image in images)).sum().item()

    num_slices, num_rows, width = images[0].shape
    return sum_strips(worker, num_slices, share_rows(num_rows, width, overlap))
