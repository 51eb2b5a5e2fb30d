"""SSIM on a CPU: sum over the 7x7 windows of each slice, in one pass compiled by numba."""

from collections.abc import Callable
from functools import cache
from threading import Lock

import numpy as np
from torch import Tensor

from mrirecon.metrics.cpu_sums import share_rows, sum_strips

WINDOW = 7
K1, K2 = 0.01, 0.03
_PIXELS = WINDOW**2
_COMPILING = Lock()


def ssim_sums(pred: Tensor, target: Tensor, data_range: Tensor) -> Tensor:
    """Sum of SSIM over all windows of each slice.  (b y x), (b y x), (b) -> (b) float64"""
    sum_windows = compiled()
    ranges = data_range.tolist()

    def worker(i: int, rows: slice) -> float:
        strips = (image[i, rows].double().contiguous().numpy() for image in (pred, target))
        # Window sums replace means, so the constants are multiplied by n^2 and n(n-1).
        c1, c2 = 2 * (K1 * _PIXELS * ranges[i]) ** 2, 2 * _PIXELS * (_PIXELS - 1) * (K2 * ranges[i]) ** 2
        return sum_windows(*strips, c1, c2, *scratch(pred.shape[2]))

    return sum_strips(worker, len(pred), share_rows(pred.shape[1], pred.shape[2], WINDOW - 1))


def compiled() -> Callable[..., float]:
    """`_sum_windows`, compiled once per process by the first thread that calls this."""
    with _COMPILING:
        return _compile()


@cache
def _compile() -> Callable[..., float]:
    """`_sum_windows` compiled to release the GIL and to divide by zero as numpy does.

    Without fastmath, which would make the order of additions, and so the bits, depend on the processor.
    """
    # Imported here: import and compilation take most of a second, and most commands never score on a CPU.
    import numba

    images = "float64[:, ::1]"
    signature = f"float64({images}, {images}, float64, float64, float64[:, ::1], float64[::1])"
    return numba.njit(signature, nogil=True, error_model="numpy")(_sum_windows)


def scratch(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Work arrays of `_sum_windows`: column sums and zeroed totals.  -> float64 (4 x), (x - 6)

    Allocated outside it: with numpy's allocation compiled in, numba takes two thirds longer.
    """
    return np.empty((4, width)), np.zeros(width - WINDOW + 1)


def _sum_windows(
    pred: np.ndarray, target: np.ndarray, c1: float, c2: float, columns: np.ndarray, totals: np.ndarray
) -> float:
    """Sum of SSIM over the windows of a strip.  float64 (y x), (y x), `scratch(x)` -> ()

    `columns` holds the sums over seven rows of s, d and their squares; `totals` one sum per column of windows, so that
    additions do not depend on each other.

    From the sum s and the difference d of the images: with their variances V and means m, the two factors of SSIM
    (doi:10.1109/TIP.2003.819861, Eq. 13) are 1 - 2 V_d / (V_s + V_d + 2 C2) and 1 - 2 m_d^2 / (m_s^2 + m_d^2 + 2 C1),
    which cancels less than the covariance where the images are similar. Every window is summed afresh: sliding sums
    would carry the rounding error of a bright row on to the dark rows below.
    """
    num_rows, width = pred.shape[0] - WINDOW + 1, pred.shape[1]
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
