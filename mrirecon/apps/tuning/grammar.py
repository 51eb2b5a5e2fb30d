"""Parses dimensions of a search space: log(low,high), range(low,high[,step]) and choice(a,b,...)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mrirecon.config.grammar import (
    EXAMPLES,
    WORD,
    NumberRange,
    is_range,
    number_text,
    parse_range,
    split_commas,
    word_and_arguments,
)
from mrirecon.errors import ConfigError

_TYPED = re.compile(r"[\w./@]+=\s*(?:log|range|choice)\(")


@dataclass(frozen=True)
class Dimension:
    """One dimension of a search space.

    key: a key of the config, or a group of options. text: its definition as typed, without blanks.
    options: of a choice, as typed; log(...) or range(...) among them stands for a number drawn from it.
    number_range: range of numbers to draw from; in a choice, the one among its options.
    """

    key: str
    text: str
    options: tuple[str, ...] = ()
    number_range: NumberRange | None = None

    def __str__(self) -> str:
        return f"{self.key}={self.text}"

    def edges(self) -> tuple[str, ...]:
        """All options, and both ends of the range, as typed."""
        ends = (
            ()
            if self.number_range is None
            else (number_text(self.number_range.low), number_text(self.number_range.high))
        )
        return (*(option for option in self.options if not is_range(option)), *ends)


def spell_space(typed: Sequence[str]) -> list[str]:
    """Command line with its dimensions moved into the list `space`, since Hydra gives their words other meanings.

    ["optimizer.lr=log(1e-4,1)", "seed=1"] -> ["seed=1", "space=['optimizer.lr=log(1e-4,1)']"]
    """
    dimensions = [argument for argument in typed if _TYPED.match(argument)]
    if not dimensions:
        return [*typed]
    quoted = ["'" + dimension.replace("\\", "\\\\").replace("'", "\\'") + "'" for dimension in dimensions]
    return [*(argument for argument in typed if argument not in dimensions), f"space=[{','.join(quoted)}]"]


def parse_dimension(typed: str) -> Dimension:
    """Dimension from `KEY=WORD(...)`. Raises ConfigError for anything else."""
    key, _, text = typed.partition("=")
    text = "".join(text.split())
    match = WORD.fullmatch(text)
    if match is None or not key.strip():
        raise ConfigError(f"space: {typed}: expected KEY={EXAMPLES}")
    key, (word, inside) = key.strip(), match.groups()
    if word != "choice":
        return Dimension(key, text, number_range=parse_range(f"{key}={text}", word, inside))
    options = split_commas(inside)
    ranges = [option for option in options if is_range(option)]
    if len(options) < 2 or "" in options or len(set(options)) < len(options) or len(ranges) > 1:
        raise ConfigError(f"{key}={text}: expected two or more different options, at most one of them log() or range()")
    inner = parse_range(f"{key}={text}", *word_and_arguments(ranges[0])) if ranges else None
    return Dimension(key, text, tuple(options), inner)
