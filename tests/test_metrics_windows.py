"""SSIM in machine code: the bits of its own Python, for any layout, and without a place to store the compilation."""

import importlib.util
import inspect
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest
import torch

from mrirecon.metrics import functional as M
from mrirecon.metrics import windows


def pair(y: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    target = np.random.default_rng(0).random((y, x))
    return target + 0.1 * np.random.default_rng(1).standard_normal((y, x)), target


def sum_of(sum_windows: Callable[..., float]) -> float:
    return sum_windows(*pair(19, 30), 0.3, 0.7)


@pytest.fixture
def copied(tmp_path: Path) -> ModuleType:
    """The module at a place of its own, with nothing compiled and nothing stored."""
    source = tmp_path / "package" / "windows.py"
    source.parent.mkdir()
    source.write_text(inspect.getsource(windows))
    spec = importlib.util.spec_from_file_location("copied_windows", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(module: ModuleType) -> list[Path]:
    return sorted(Path(inspect.getfile(module)).parent.glob("__pycache__/windows._sum_windows*.nb*"))


@pytest.mark.parametrize("size", [(7, 7), (7, 31), (40, 8), (23, 50)])
def test_machine_code_gives_the_bits_of_the_python_it_was_made_of(size: tuple[int, int]) -> None:
    pred, target = pair(*size)
    # Equal bits: no addition was moved, and no product was fused with one, as fast mathematics would.
    assert windows.compiled()(pred, target, 0.3, 0.7) == windows._sum_windows(pred, target, 0.3, 0.7)
    pred[3, 3] = np.nan
    assert np.isnan(windows.compiled()(pred, target, 0.3, 0.7))
    assert np.isnan(windows.compiled()(0 * target, 0 * target, 0.0, 0.0))  # where Python would raise


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


def test_the_compilation_is_stored_and_read_again(copied: ModuleType) -> None:
    assert stored(copied) == []
    first = copied.compiled()
    assert [path.suffix for path in stored(copied)] == [".nbc", ".nbi"]
    assert not sum(first.stats.cache_hits.values())
    copied.compiled.cache_clear()
    again = copied.compiled()
    assert sum(again.stats.cache_hits.values()) == 1
    assert sum_of(first) == sum_of(again) == sum_of(windows.compiled())


def test_ssim_is_compiled_where_neither_the_package_nor_the_home_can_be_written(
    copied: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files in the place of folders: permissions would not keep root from writing.
    Path(inspect.getfile(copied)).with_name("__pycache__").write_text("")
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, "/dev/null")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(copied._sum_windows)
    assert sum_of(copied.compiled()) == sum_of(windows.compiled())


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("length", [0, 1000])
def test_a_stored_compilation_that_was_cut_short_is_not_needed(copied: ModuleType, suffix: str, length: int) -> None:
    copied.compiled()
    (path,) = (path for path in stored(copied) if path.suffix == suffix)
    path.write_bytes(path.read_bytes()[:length])
    copied.compiled.cache_clear()
    assert sum_of(copied.compiled()) == sum_of(windows.compiled())


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """A disk that is full, as far as this process is concerned."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_bytes", [0, 5000])
def test_a_full_disk_does_not_stop_the_scores(copied: ModuleType, num_bytes: int) -> None:
    with files_end_at(num_bytes):
        found = copied.compiled()
    # Neither file fits, or the index alone.
    assert [path.suffix for path in stored(copied)] == ([".nbi"] if num_bytes else [])
    assert sum_of(found) == sum_of(windows.compiled())
    copied.compiled.cache_clear()
    assert sum_of(copied.compiled()) == sum_of(windows.compiled())


def test_numba_is_not_loaded_before_a_score_is_asked_for() -> None:
    code = "import sys, mrirecon.metrics.multiscale; print('numba' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False"]
