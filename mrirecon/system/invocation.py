"""How this process was started: its command line, and how another command is typed in the same form."""

import shlex
import sys
from pathlib import Path

_CONSOLE = "mrirecon"


def is_console() -> bool:
    """Whether the installed command was typed, `mrirecon train`, and no script, `python scripts/train.py`."""
    return Path(sys.argv[0]).stem == _CONSOLE


def arguments() -> list[str]:
    """What was typed behind the name of the command."""
    return sys.argv[2:] if is_console() else sys.argv[1:]


def with_arguments(changed: list[str]) -> list[str]:
    """The command line with other arguments, for `sys.argv`."""
    return [*sys.argv[: len(sys.argv) - len(arguments())], *changed]


def command_line() -> str:
    """The command that was typed, to be typed again."""
    typed = [_CONSOLE, *sys.argv[1:]] if is_console() else ["python", *sys.orig_argv[1:]]
    return shlex.join(typed)


def typed_as(name: str) -> str:
    """How a command of this project is typed in the form that this one was.  `evaluate` -> `mrirecon evaluate`"""
    script = Path(sys.argv[0]).parent / f"{name}.py"
    return f"{_CONSOLE} {name}" if is_console() or not script.is_file() else f"python {shlex.quote(str(script))}"
