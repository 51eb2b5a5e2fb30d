"""Grey pictures of reconstructions with captions and fixed windows, for TensorBoard and contact sheets."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mrirecon.system.atomic import write_whole

ERROR_GAIN = 5
FONT_SIZE = 13
_GAP = 4


def window_of(image: Tensor) -> float:
    """Upper end of the display window: the 99.7th percentile, so that bright vessels do not darken the image."""
    value = float(torch.quantile(image.float().flatten(), 0.997))
    return value if value > 0 else 1.0


def panels(zero_filled: Tensor, pred: Tensor, target: Tensor | None) -> list[tuple[str, Tensor]]:
    """Captioned images scaled to 0..1: zero-filled, reconstruction and, given a target, target and error.

    All share the target's display window (without a target, the reconstruction's), which is constant during training.
    (y x) each -> (y x) each
    """
    window = window_of(pred if target is None else target)
    shown = [("zero-filled", zero_filled / window), ("reconstruction", pred / window)]
    if target is not None:
        shown += [("target", target / window), (f"error x{ERROR_GAIN}", (pred - target).abs() * ERROR_GAIN / window)]
    return [(caption, image.clamp(0, 1)) for caption, image in shown]


def row(images: Sequence[tuple[str, Tensor]], min_side: int = 192, font_size: int = FONT_SIZE) -> np.ndarray:
    """Images side by side with captions above; small ones are enlarged.  [(caption, (y x) in 0..1)] -> uint8 (h w)"""
    factor = max(1, -(-min_side // min(images[0][1].shape)))
    tiles = [_tile(caption, image, factor, font_size) for caption, image in images]
    return np.concatenate(tiles, axis=1)


def _tile(caption: str, image: Tensor, factor: int, font_size: int) -> np.ndarray:
    grey = (image.detach().float().cpu().numpy() * 255).round().astype(np.uint8)
    grey = grey.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.concatenate([_text(caption, grey.shape[1], font_size), np.pad(grey, ((0, _GAP), (0, _GAP)))], axis=0)


def _text(caption: str, width: int, font_size: int) -> np.ndarray:
    bar = Image.new("L", (width + _GAP, 3 * font_size // 2 + 1), 0)
    font = ImageFont.load_default(size=font_size)
    ImageDraw.Draw(bar).text((3, 2), caption, fill=255, font=font)
    return np.asarray(bar)


def sheet(rows: Sequence[np.ndarray], title: str, footer: str = "") -> np.ndarray:
    """Rows of tiles under a title and above a footer.  [uint8 (h w)] -> uint8 (h w)"""
    width = max(r.shape[1] for r in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1]))) for r in rows]
    lines = [_bar(title, width), *padded, *([_bar(footer, width)] if footer else [])]
    return np.concatenate(lines, axis=0)


def _bar(text: str, width: int) -> np.ndarray:
    return _text(text, width - _GAP, FONT_SIZE)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Writes a grey picture, whole or not at all.  uint8 (h w)"""
    content = BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    write_whole(path, content.getvalue())
