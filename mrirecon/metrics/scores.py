"""The table of scores."""

from typing import NamedTuple

SCORES = ("ssim", "psnr", "nmse")


ALL_SCORES = (*SCORES, "mse", "mae", "ms_ssim", "hfen")


class Score(NamedTuple):
    """How a score is shown, and which way is better."""

    label: str
    form: str
    sign: int  # 1: more is better; -1: less is
