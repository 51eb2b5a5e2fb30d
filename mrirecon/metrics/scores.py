"""The table of scores: name, label, unit, direction, number format and convention of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """One score of a volume.

    name: its key in metrics.json and on the command line. label: its name for people. unit: "" for a plain number.
    format_spec: the digits it is shown with, as Python's `format` takes them; short_spec: where there is little room,
    as in a picture. convention: how a value is computed, in words.
    """

    name: str
    label: str
    unit: str
    higher_is_better: bool
    format_spec: str
    short_spec: str
    convention: str

    @property
    def heading(self) -> str:
        """Label and unit, for a column or an axis.  -> "PSNR dB" """
        return f"{self.label} {self.unit}".strip()

    @property
    def sign(self) -> int:
        """1 where a higher value is better, else -1."""
        return 1 if self.higher_is_better else -1

    @property
    def direction(self) -> str:
        """The direction of a search for the best value, as Optuna calls it.  -> "maximize" or "minimize" """
        return "maximize" if self.higher_is_better else "minimize"

    def shown(self, value: float | None, *, signed: bool = False, undefined: str = "-") -> str:
        """A value, or with `signed` a difference of two, as text; `undefined` for None.  -> "0.7531", "+1.20" """
        return undefined if value is None else format(value, ("+" if signed else "") + self.format_spec)

    def shown_short(self, value: float) -> str:
        """A value as text where there is little room.  -> "0.753" """
        return format(value, self.short_spec)


SCORE_TABLE = {
    score.name: score
    for score in (
        Score(
            "ssim", "SSIM", "", True, ".4f", ".3f",
            "7x7 uniform window, K1 .01, K2 .03, sample covariance; mean over slices, then over volumes",
        ),
        Score(
            "psnr", "PSNR", "dB", True, ".2f", ".1f",
            "20 log10(data_range) - 10 log10(mean squared error of the volume); mean over volumes",
        ),
        Score(
            "nmse", "NMSE", "", False, ".4f", ".3f",
            "squared error over squared norm of the volume; mean over volumes",
        ),
        Score(
            "mse", "MSE", "", False, ".4g", ".3g",
            "mean squared error of the volume, in the square of the file's unit; mean over volumes",
        ),
        Score(
            "mae", "MAE", "", False, ".4g", ".3g",
            "mean absolute error of the volume, in the file's unit; mean over volumes",
        ),
        Score(
            "ms_ssim", "MS-SSIM", "", True, ".4f", ".3f",
            "five scales, 11x11 Gaussian window of sigma 1.5; mean over slices, then over volumes",
        ),
        Score(
            "hfen", "HFEN", "", False, ".4f", ".3f",
            "norm of the error over that of the target, after a 15x15 Laplacian of Gaussian of sigma 1.5; "
            "mean over volumes",
        ),
    )
}  # fmt: skip

ALL_SCORES = tuple(SCORE_TABLE)
MAIN_SCORES = ("ssim", "psnr", "nmse")
"""fastMRI's three: computed in every validation, and the ones tables, curves and searches use."""
