"""The words a search space is typed in: log(low,high), range(low,high[,step]) and choice(a,b,...)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from mrirecon.errors import ConfigError
from mrirecon.option_lists import split_commas

_WORD = re.compile(r"(log|range|choice)\((.*)\)", re.DOTALL)
_TYPED = re.compile(r"[\w./@]+=\s*(?:log|range|choice)\(")
_EXAMPLES = "log(1e-4,1e-1), range(0,0.5), range(2,5,1) or choice(a,b)"


@dataclass(frozen=True)
class Interval:
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


@dataclass(frozen=True)
class Dimension:
    """One thing that is searched.

    key: a key of the config, or a group of options. text: what was typed for it, without blanks.
    options: of a choice, as typed; the text of an interval among them stands for a number drawn from it.
    interval: where numbers are drawn from, of a choice the one that is among its options.
    """

    key: str
    text: str
    options: tuple[str, ...] = ()
    interval: Interval | None = None

    def __str__(self) -> str:
        return f"{self.key}={self.text}"

    def edges(self) -> tuple[str, ...]:
        """Values that every other one lies between or is equal to, as typed."""
        ends = () if self.interval is None else (number_text(self.interval.low), number_text(self.interval.high))
        return (*(option for option in self.options if not is_interval(option)), *ends)


def spell_space(typed: Sequence[str]) -> list[str]:
    """What was typed, its dimensions put into the list `space`: Hydra has other meanings for their words.

    ["optimizer.lr=log(1e-4,1)", "seed=1"] -> ["seed=1", "space=['optimizer.lr=log(1e-4,1)']"]
    """
    dimensions = [argument for argument in typed if _TYPED.match(argument)]
    if not dimensions:
        return [*typed]
    quoted = ["'" + dimension.replace("\\", "\\\\").replace("'", "\\'") + "'" for dimension in dimensions]
    return [*(argument for argument in typed if argument not in dimensions), f"space=[{','.join(quoted)}]"]


def parse_dimension(typed: str) -> Dimension:
    """`KEY=WORD(...)` -> the dimension. Raises ConfigError for anything else."""
    key, _, text = typed.partition("=")
    text = "".join(text.split())
    match = _WORD.fullmatch(text)
    if match is None or not key.strip():
        raise ConfigError(f"space: {typed}: expected KEY={_EXAMPLES}")
    key, (word, inside) = key.strip(), match.groups()
    if word != "choice":
        return Dimension(key, text, interval=_interval(f"{key}={text}", word, inside))
    options = split_commas(inside)
    intervals = [option for option in options if is_interval(option)]
    if len(options) < 2 or "" in options or len(set(options)) < len(options) or len(intervals) > 1:
        raise ConfigError(f"{key}={text}: expected two or more different options, at most one of them log() or range()")
    inner = _interval(f"{key}={text}", *_parts(intervals[0])) if intervals else None
    return Dimension(key, text, tuple(options), inner)


def is_interval(option: str) -> bool:
    """Whether an option stands for a number to be drawn.  `log(1e-6,1e-2)`"""
    return _WORD.fullmatch(option) is not None


def value_of(text: str) -> Any:
    """What a typed value means.  `1e-3` -> 0.001, `[1,2]` -> [1, 2]"""
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index, call-overload]


def number_text(value: float) -> str:
    """A number as one would type it: whole, or with four digits, so that what is typed is what was tried."""
    return str(value) if isinstance(value, int) else str(float(f"{value:.4g}"))


def _parts(text: str) -> tuple[str, str]:
    match = _WORD.fullmatch(text)
    assert match is not None
    return match[1], match[2]


def _interval(where: str, word: str, inside: str) -> Interval:
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
    return Interval(low, high, step, word == "log", is_whole)


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
