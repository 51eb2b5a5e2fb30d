"""Centre crops with fastMRI's rounding, and the size a reconstruction is cropped to."""

from torch import Tensor


def cropped_size(image: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Size of a reconstruction: the target's, or a square of the image's width where that is narrower.  -> (y, x)

    fastMRI's rule for its narrow FLAIR scans (203 columns, target 320x320). The height is at most that of the image.
    """
    (h, w), (y, x) = image, target
    if w < x:
        y = x = w
    return min(y, h), x


def center_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Centre crop of the last two axes, its start rounded down as in fastMRI.  (*b h w) -> (*b y x)

    Raises ValueError where `size` is larger than the image.
    """
    (h, w), (y, x) = image.shape[-2:], size
    if not (0 < y <= h and 0 < x <= w):
        raise ValueError(f"cannot crop an image of {h}x{w} to {y}x{x}: the crop must be at least 1x1 and fit inside it")
    top, left = (h - y) // 2, (w - x) // 2
    return image[..., top : top + y, left : left + x]
