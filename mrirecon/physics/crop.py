"""Centre crops with fastMRI's rounding, and the size of image that a crop can give."""

from torch import Tensor


def cropped_size(image: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The size a reconstruction gets: the target's, or a square as wide as the image when that is narrower.

    The rule of fastMRI's transforms for its narrow FLAIR scans (203 columns, target 320x320); an image lower than the
    target is kept at its own height.  (h, w), (y, x) -> (y, x)
    """
    (h, w), (y, x) = image, target
    if w < x:
        y = x = w
    return min(y, h), x


def center_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of the last two axes; the start is rounded down, as fastMRI's `center_crop` does.

    Raises ValueError where `size` is larger than the image.  (*b h w) -> (*b y x)
    """
    (h, w), (y, x) = image.shape[-2:], size
    if not (0 < y <= h and 0 < x <= w):
        raise ValueError(f"cannot crop an image of {h}x{w} to {y}x{x}: the crop must be at least 1x1 and fit inside it")
    top, left = (h - y) // 2, (w - x) // 2
    return image[..., top : top + y, left : left + x]
