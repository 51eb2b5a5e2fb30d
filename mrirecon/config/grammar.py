"""The grammar of lists, ranges and intervals: [a,b], log(low,high), range(low,high[,step]), choice(a,b)."""

import math
import re
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mrirecon.errors import ConfigError


def split_commas(text: str) -> list[str]:
    """The parts between commas that are in no bracket and no quotes.  `a,[1,2],log(1,2)` -> three"""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "," and depth == 0:
            parts.append("")
            continue
        depth += (character in "[{(") - (character in "]})") if not quote else 0
        parts[-1] += character
    return parts


WORD = re.compile(r"(log|range|choice)\((.*)\)", re.DOTALL)


EXAMPLES = "log(1e-4,1e-1), range(0,0.5), range(2,5,1) or choice(a,b)"


@dataclass(frozen=True)
class NumberRange:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    step: float | None
    is_log: bool
    is_whole: bool  # both ends, and the step, were typed as whole numbers

    def contains(self, value: Any) -> bool:
        """Whether a setting lies in it."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not self.low <= value <= self.high:
            return False
        return self.step is None or _is_multiple(value - self.low, self.step)


def is_range(option: str) -> bool:
    """Whether an option stands for a number to be drawn.  `log(1e-6,1e-2)`"""
    return WORD.fullmatch(option) is not None


def number_text(value: float) -> str:
    """A number as one would type it: whole, or with four digits, so that what is typed is what was tried."""
    return str(value) if isinstance(value, int) else str(float(f"{value:.4g}"))


def word_and_arguments(text: str) -> tuple[str, str]:
    match = WORD.fullmatch(text)
    assert match is not None
    return match[1], match[2]


def parse_range(where: str, word: str, inside: str) -> NumberRange:
    texts = split_commas(inside)
    if word == "choice" or len(texts) not in ((2,) if word == "log" else (2, 3)):
        raise ConfigError(
            f"{where}: expected log(low,high), any number between the two, or range(low,high) or range(low,high,step)"
        )
    low, high, *steps = (_number(where, text) for text in texts)
    step = steps[0] if steps else None
    if low >= high or (word == "log" and low <= 0):
        raise ConfigError(f"{where}: expected low < high, and of log() both above 0")
    if step is not None and (step <= 0 or not _is_multiple(high - low, step)):
        raise ConfigError(f"{where}: expected a step that leads from {low:g} to {high:g}")
    is_whole = all(isinstance(number, int) for number in (low, high, *steps))
    return NumberRange(low, high, step, word == "log", is_whole)


def _is_multiple(distance: float, step: float) -> bool:
    return math.isclose(distance / step, round(distance / step), abs_tol=1e-9)  # 0.3 / 0.1 is not 3 in binary


def _number(where: str, text: str) -> float:
    try:
        number = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is no number") from error
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {text!r} is no finite number")
    return number


DIGITS = 3  # of a learning rate: as many as one types

_LOG = re.compile(r"log\(\s*([^,()]+),\s*([^,()]+),\s*(\d+)\s*\)")


def typed_value(key: str, text: str) -> Any:
    """A typed value.  `log(1e-4,1e1,6)` -> six numbers, `[a,b]` -> a list"""
    if (found := _LOG.fullmatch(text.strip())) is not None:
        return _log_grid(key, text, *found.groups())
    try:
        value = OmegaConf.from_dotlist([f"x={text}"]).x
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{key}={text}: cannot be read: {str(error).splitlines()[0]}") from error
    return OmegaConf.to_container(value) if isinstance(value, ListConfig | DictConfig) else value


def _log_grid(key: str, text: str, low: str, high: str, num: str) -> list[float]:
    try:
        first, last, count = float(low), float(high), int(num)
    except ValueError as error:
        raise ConfigError(f"{key}={text}: expected log(FIRST,LAST,HOW MANY), as log(1e-4,1e1,6)") from error
    if not 0 < first < last < math.inf or count < 2:
        raise ConfigError(f"{key}={text}: expected 0 < first < last and at least two values")
    ratio = (math.log(last) - math.log(first)) / (count - 1)
    return [float(f"{math.exp(math.log(first) + ratio * i):.{DIGITS}g}") for i in range(count)]
