"""SSIM in machine code: the bits of its own Python, for any layout, compiled once and only where it is needed."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numba
import numpy as np
import pytest
import torch

from mrirecon.metrics import functional as M
from mrirecon.metrics import ssim_cpu as windows


def pair(y: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    target = np.random.default_rng(0).random((y, x))
    return target + 0.1 * np.random.default_rng(1).standard_normal((y, x)), target


def sum_by(sum_windows: Callable[..., float], pred: np.ndarray, target: np.ndarray, c1: float, c2: float) -> float:
    return sum_windows(pred, target, c1, c2, *windows.scratch(pred.shape[1]))


@pytest.mark.parametrize("size", [(7, 7), (7, 31), (40, 8), (23, 50)])
def test_machine_code_gives_the_bits_of_the_python_it_was_made_of(size: tuple[int, int]) -> None:
    pred, target = pair(*size)
    # Equal bits: no addition was moved, and no product was fused with one, as fast mathematics would.
    assert sum_by(windows.compiled(), pred, target, 0.3, 0.7) == sum_by(windows._sum_windows, pred, target, 0.3, 0.7)
    pred[3, 3] = np.nan
    assert np.isnan(sum_by(windows.compiled(), pred, target, 0.3, 0.7))
    assert np.isnan(sum_by(windows.compiled(), 0 * target, 0 * target, 0.0, 0.0))  # where Python would raise


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_no_bit_depends_on_the_layout_of_the_images(dtype: torch.dtype) -> None:
    pred, target = torch.rand(2, 3, 30, 41, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = M.ssim(pred, target, torch.ones(3))
    wide = torch.zeros(3, 60, 82, dtype=dtype)
    wide[:, ::2, 1::2] = pred
    for other in (pred.mT.contiguous().mT, pred.permute(1, 2, 0).contiguous().permute(2, 0, 1), wide[:, ::2, 1::2]):
        assert not other.is_contiguous()
        assert torch.equal(M.ssim(other, target, torch.ones(3)), expected)
    assert torch.equal(M.ssim(pred.double(), target.double(), torch.ones(3)), expected)
    assert torch.equal(M.ssim(pred.requires_grad_(), target, torch.ones(3)), expected)
    assert torch.equal(M.ssim(pred[:1].expand(3, -1, -1), target, torch.ones(3))[0], expected[0])


def test_a_bright_row_leaves_the_rows_below_as_they_are() -> None:
    # Sums that slide down the image would be off by the rounding of 1e12 there.
    pred, target = (torch.from_numpy(image)[None] for image in pair(60, 60))
    alone = M.ssim(pred[:, 1:], target[:, 1:], torch.ones(1))
    pred, target = pred.clone(), target.clone()
    pred[:, 0], target[:, 0] = 1e12, 1e12
    whole, top = (M.ssim(pred[:, :n], target[:, :n], torch.ones(1)) for n in (60, 7))
    # The sums of the two parts are 52 to 54 rows long and of order 1 per window.
    assert (54 * whole - top).item() == pytest.approx(53 * alone.item(), abs=1e-12)


def test_threads_that_ask_at_once_get_one_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    signatures, njit, together = [], numba.njit, Barrier(4)

    def counted(signature: str, **options: Any) -> Callable[..., Any]:
        signatures.append(signature)
        return njit(signature, **options)

    def ask(_: int) -> Callable[..., float]:
        together.wait()
        return windows.compiled()

    monkeypatch.setattr(numba, "njit", counted)
    windows._compile.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(signatures) == 1
    assert all(function is found[0] for function in found)


def test_numba_is_not_loaded_before_a_score_is_asked_for() -> None:
    code = "import sys, mrirecon.metrics.ms_ssim; print('numba' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]
