"""Names for the runs of a multirun: what differs between them, so that curves and folders need no legend."""

import re
from collections.abc import Sequence

from mrirecon.config.grammar import split_commas
from mrirecon.config.options import is_group

_FUNCTIONS = re.compile(r"(choice|range|glob)\(")


def name_jobs(typed: Sequence[str]) -> list[str]:
    """What was typed, and for a multirun the names of its folders.

    `-m optimizer=sgd,adam model.norm=none,group` gives the folders `0_sgd_none`, `1_sgd_group`, ... Values that are
    paths are not in the names. Nothing is added where there is no multirun, or where the folders were named already.
    """
    if not {"-m", "--multirun"} & {*typed} or any(argument.startswith("hydra.sweep.subdir=") for argument in typed):
        return [*typed]
    pairs = [argument.partition("=")[::2] for argument in typed if not argument.startswith("-")]
    swept = [key.lstrip("+") for key, value in pairs if _is_swept(value) and "/" not in value]
    named = [f"${{hydra:runtime.choices.{key}}}" if is_group(key) else f"${{{key}}}" for key in swept]
    return [*typed, f"hydra.sweep.subdir={'_'.join(['${hydra:job.num}', *named])}"]


def _is_swept(value: str) -> bool:
    """Whether a value, as typed, stands for several.  `sgd,adam`, `range(1,4)`, but not `[1,2]`"""
    return _FUNCTIONS.match(value) is not None or len(split_commas(value)) > 1
