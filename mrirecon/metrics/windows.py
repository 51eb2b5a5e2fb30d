"""SSIM on a CPU: the sum over the 7x7 windows of each slice, in one pass of machine code that numba makes of Python."""

import pickle
from collections.abc import Callable
from functools import cache, partial

import numpy as np
from torch import Tensor

from mrirecon.metrics.strips import share_rows, sum_strips

# They and the function that is compiled share a file: a stored compilation counts as long as its file stays the same.
WINDOW = 7
K1, K2 = 0.01, 0.03
_PIXELS = WINDOW**2


def ssim_sums(pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """The sum of SSIM over all windows of each slice.  (b y x), (b y x), (b) -> (b) float64"""
    sum_windows = compiled()
    ranges = data_range.tolist()

    def worker(i: int, rows: slice) -> float:
        strips = (image[i, rows].double().contiguous().numpy() for image in (pred, target))
        # Window sums stand for means, and so the constants are times n^2 and n(n-1).
        c1, c2 = 2 * (K1 * _PIXELS * ranges[i]) ** 2, 2 * _PIXELS * (_PIXELS - 1) * (K2 * ranges[i]) ** 2
        return sum_windows(*strips, c1, c2)

    return sum_strips(worker, len(pred), share_rows(pred.shape[1], pred.shape[2], WINDOW - 1))


@cache
def compiled() -> Callable[..., float]:
    """`_sum_windows` as machine code that lets go of the interpreter's lock and divides by zero as numpy does.

    No fast mathematics: it would leave the order of additions, and so the bits, to the processor.
    """
    # Here and not above: numba takes 0.2 s to import and 0.4 s to start, and most commands never score on a CPU.
    import numba

    signature = "float64(float64[:, ::1], float64[:, ::1], float64, float64)"
    compiler = partial(numba.njit, signature, nogil=True, error_model="numpy")
    try:
        return compiler(cache=True)(_sum_windows)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        # The stored compilation is only a saving of a second: where neither the package's folder nor the user's can be
        # written, the disk is full or the stored file was cut short, this process compiles for itself.
        return compiler()(_sum_windows)


def _sum_windows(pred: np.ndarray, target: np.ndarray, c1: float, c2: float) -> float:
    """The sum of SSIM over the windows of a strip.  float64 (y x), (y x)

    From the sum s and the difference d of the images: with their variances V and means m, the two factors of SSIM
    (doi:10.1109/TIP.2003.819861, Eq. 13) are 1 - 2 V_d / (V_s + V_d + 2 C2) and 1 - 2 m_d^2 / (m_s^2 + m_d^2 + 2 C1),
    and less cancels than in the covariance where the images are alike. Every window is added up afresh: sums that
    slide, gaining a row and losing one, would carry the rounding of a bright row on to the dark ones below.
    """
    num_rows, width = pred.shape[0] - WINDOW + 1, pred.shape[1]
    columns = np.empty((4, width))  # sums of seven rows: of s, d and their squares
    totals = np.zeros(width - WINDOW + 1)  # one per column, so that no addition waits for the one before
    for y in range(num_rows):
        for x in range(width):
            sum_s = sum_d = sum_ss = sum_dd = 0.0
            for k in range(WINDOW):
                s, d = pred[y + k, x] + target[y + k, x], pred[y + k, x] - target[y + k, x]
                sum_s, sum_d, sum_ss, sum_dd = sum_s + s, sum_d + d, sum_ss + s * s, sum_dd + d * d
            columns[0, x], columns[1, x], columns[2, x], columns[3, x] = sum_s, sum_d, sum_ss, sum_dd
        for x in range(len(totals)):
            sum_s = sum_d = sum_ss = sum_dd = 0.0
            for k in range(WINDOW):
                sum_s, sum_d = sum_s + columns[0, x + k], sum_d + columns[1, x + k]
                sum_ss, sum_dd = sum_ss + columns[2, x + k], sum_dd + columns[3, x + k]
            square_s, square_d = sum_s * sum_s, sum_d * sum_d
            var_s, var_d = _PIXELS * sum_ss - square_s, _PIXELS * sum_dd - square_d
            totals[x] += (0.5 - square_d / (square_s + square_d + c1)) * (0.5 - var_d / (var_s + var_d + c2))
    total = 0.0
    for x in range(len(totals)):
        total += totals[x]
    return 4 * total
