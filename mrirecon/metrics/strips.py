"""Sums over the pixels of slices on a CPU: by strips of rows that stay in its cache, dealt to threads, in fixed order.

What a slice gives depends on nothing but the slice: neither on its batch nor on the number of threads. All in float64:
in float32, half as long, the cancellation in the variances moves SSIM by up to 1e-6, and more where images are flat.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch
from torch import Tensor

WINDOW = 7
K1, K2 = 0.01, 0.03
_PIXELS = WINDOW**2

# torch runs an operation on fewer elements in the thread that asks for it. Its own threads would meet after each of
# some forty short operations, which takes longer than the operations: fifty times longer where a core is busy.
_MOST_ELEMENTS = 2**15 - 1

Worker = Callable[[int, slice], float]


def share_rows(num_rows: int, width: int, overlap: int = 0) -> list[slice]:
    """Strips of rows, shared out as evenly as can be; a strip reads `overlap` rows more than its share."""
    most = max(1, _MOST_ELEMENTS // width - overlap)
    num_strips = max(1, -(-(num_rows - overlap) // most))
    edges = [(num_rows - overlap) * i // num_strips for i in range(num_strips + 1)]
    return [slice(start, stop + overlap) for start, stop in pairwise(edges)]


def sum_strips(make_worker: Callable[[], Worker], num_slices: int, strips: list[slice]) -> Tensor:
    """The sum over all strips of each slice, from the first to the last.  -> (num_slices) float64

    `make_worker` gives each thread its own function of a slice's number and the strip's rows.
    """
    jobs = [(i, rows) for i in range(num_slices) for rows in strips]
    num_threads = max(1, min(torch.get_num_threads(), len(jobs)))
    sums = [0.0] * len(jobs)

    def work(first: int) -> None:
        worker = make_worker()
        with torch.no_grad():  # gradients are switched off per thread
            sums[first::num_threads] = [worker(*job) for job in jobs[first::num_threads]]

    if num_threads == 1:
        work(0)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(work, range(num_threads)))
    per_slice = (sums[i : i + len(strips)] for i in range(0, len(jobs), len(strips)))
    return torch.tensor([sum(values) for values in per_slice], dtype=torch.float64)


def sum_pixels(function: Callable[..., Tensor], *images: Tensor, overlap: int = 0) -> Tensor:
    """The sum of `function` of float64 strips of the images.  (b y x), ... -> (b) float64"""

    def worker(i: int, rows: slice) -> float:
        return function(*(image[i, rows].double() for image in images)).sum().item()

    num_slices, num_rows, width = images[0].shape
    return sum_strips(lambda: worker, num_slices, share_rows(num_rows, width, overlap))


def ssim_sums(pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """The sum of SSIM over all windows of each slice.  (b y x), (b y x), (b) -> (b) float64"""
    ranges = data_range.double().tolist()

    def make_worker() -> Worker:
        workspaces: dict[int, SSIMStrip] = {}

        def worker(i: int, rows: slice) -> float:
            height = rows.stop - rows.start
            if height not in workspaces:
                workspaces[height] = SSIMStrip(height, pred.shape[2])
            return workspaces[height](pred[i, rows], target[i, rows], ranges[i])

        return worker

    return sum_strips(make_worker, len(pred), share_rows(pred.shape[1], pred.shape[2], WINDOW - 1))


class SSIMStrip:
    """SSIM of strips of one size, from the sum s and the difference d of the images; it owns the memory.

    With variances V and means m of s and d, the two factors of SSIM (doi:10.1109/TIP.2003.819861, Eq. 13) are
    1 - 2 V_d / (V_s + V_d + 2 C2) and 1 - 2 m_d^2 / (m_s^2 + m_d^2 + 2 C1): fewer passes over memory than with the
    covariance, and less cancels where the images are alike.
    """

    def __init__(self, rows: int, width: int) -> None:
        self.windows_per_row, self.width = width - WINDOW + 1, width
        num_pixels, num_windows = rows * width, (rows - WINDOW + 1) * width
        self.planes = torch.empty(4, num_pixels, dtype=torch.float64)  # s, d and their squares
        one, two = torch.empty(2, num_pixels, dtype=torch.float64)
        self.images = one.view(rows, width), two.view(rows, width)
        # Rows lie end to end, so that every addition is one uninterrupted run. The last six windows of a row take in
        # pixels of the next: they are left out of the sum.
        self.windows = self.planes[:, :num_windows]  # each takes the place of its plane
        tall, pairs = two[:num_windows], one
        self.steps = [
            step
            for plane, windows in zip(self.planes, self.windows, strict=True)
            for step in (_running_sum(plane, pairs, tall, width), _running_sum(tall, pairs, windows, 1))
        ]

    def __call__(self, pred: Tensor, target: Tensor, data_range: float) -> float:
        """The sum over the windows of a strip.  (rows width), (rows width)"""
        (p, t), (total, difference, total_squared, difference_squared) = self.images, self.planes
        p.copy_(pred)
        t.copy_(target)
        torch.add(p.flatten(), t.flatten(), out=total)
        torch.sub(p.flatten(), t.flatten(), out=difference)
        torch.mul(total, total, out=total_squared)
        torch.mul(difference, difference, out=difference_squared)
        for first, second, pairs, third, fourth, fifth, last, out in self.steps:
            torch.add(first, second, out=pairs)
            torch.add(third, fourth, out=out)
            out.add_(fifth).add_(last)
        return self._sum_windows(data_range)

    def _sum_windows(self, data_range: float) -> float:
        """SSIM from the window sums, which it uses up."""
        totals, differences, total_squares, difference_squares = self.windows
        constants = 2 * (K1 * _PIXELS * data_range) ** 2, 2 * (K2 * data_range) ** 2 * (_PIXELS - 1)
        totals.mul_(totals)
        differences.mul_(differences)
        total_squares.sub_(totals, alpha=1 / _PIXELS)
        difference_squares.sub_(differences, alpha=1 / _PIXELS)
        for s, d, c in ((totals, differences, constants[0]), (total_squares, difference_squares, constants[1])):
            d.div_(s.add_(d).add_(c)).sub_(0.5)
        products = differences.mul_(difference_squares).view(-1, self.width)
        return 4 * products[:, : self.windows_per_row].sum().item()


def _running_sum(x: Tensor, pairs: Tensor, out: Tensor, step: int) -> tuple[Tensor, ...]:
    """What the four additions read and write that give the sums of seven neighbours, `step` apart, in a run."""
    length = len(x) - (WINDOW - 1) * step
    pairs = pairs[: length + 5 * step]
    first, second, last = x[: length + 5 * step], x[step:], x[6 * step :]
    parts = (pairs[start * step : start * step + length] for start in (0, 2, 4))
    return first, second[: len(pairs)], pairs, *parts, last, out[:length]
