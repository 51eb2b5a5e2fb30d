"""Pictures: one window for all panels of a slice, which does not move while a model learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrirecon.reports.pictures import ERROR_GAIN, panels, row, sheet, window_of, write_png


def test_all_panels_share_the_target_s_window() -> None:
    target = torch.rand(64, 64) * 3
    shown = dict(panels(target * 0.5, target * 0.9, target))
    window = window_of(target)
    torch.testing.assert_close(shown["zero-filled"], (target * 0.5 / window).clamp(0, 1))
    torch.testing.assert_close(shown["target"], (target / window).clamp(0, 1))
    torch.testing.assert_close(shown[f"error x{ERROR_GAIN}"], (target * 0.1 * ERROR_GAIN / window).clamp(0, 1))
    other = dict(panels(target * 0, target * 7, target))
    torch.testing.assert_close(other["target"], shown["target"])


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (320, 320)])
def test_a_sheet_holds_its_rows_and_small_images_are_enlarged(tmp_path: Path, size: tuple[int, int]) -> None:
    target = torch.rand(size)
    tiles = row(panels(target * 0, target, target))
    assert tiles.shape[0] >= 192
    assert tiles.shape[1] > 4 * size[1]
    write_png(tmp_path / "a.png", sheet([tiles, tiles], "title", "footer"))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] == tiles.shape[1]
        assert picture.size[1] > 2 * tiles.shape[0]
        assert np.asarray(picture)[-12:].any(), "the footer is not drawn"


def test_an_empty_image_is_black_and_not_nan() -> None:
    zeros = torch.zeros(32, 32)
    assert all(not image.any() for _, image in panels(zeros, zeros, zeros))
