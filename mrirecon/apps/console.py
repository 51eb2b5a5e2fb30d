"""The installed command, `mrirecon NAME ...`: which commands there are, and completion of what is being typed."""

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mrirecon.errors import ConfigError


def _folder() -> Path:
    """Inside the package where it was installed from a wheel, beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    return package / "commands" if (package / "commands").is_dir() else package.parent / "scripts"


FOLDER = _folder()


def names() -> list[str]:
    """The commands."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def overview() -> str:
    """A line for each command. Nothing is imported for it."""
    lines = [f"  {name:15}{_first_sentence(FOLDER / f'{name}.py')}" for name in names()]
    return "\n".join(["mrirecon COMMAND [key=value ...]; mrirecon COMMAND --help shows every key", "", *lines])


def _first_sentence(path: Path) -> str:
    """What a command does, without the example behind the colon."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition(":")[0]


def command_named(name: str) -> Callable[[], None]:
    """The function that runs a command.  Raises ConfigError with the nearest names where there is none."""
    if name not in names():
        from mrirecon.config.options import nearest

        raise ConfigError(f"{name}: there is no such command{nearest(name, names())}; mrirecon --help shows all")
    module_name = f"mrirecon.commands.{name}"
    # By its file: a source tree that is not installed has no package of that name.
    spec = importlib.util.spec_from_file_location(module_name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    main: Callable[[], None] = module.main
    return main


def completing(typed: Sequence[str]) -> list[str]:
    """The arguments, the name of the command first, with which Hydra completes; none where there is nothing more to do.

    typed: `-sc query=bash`, as Hydra's shell function asks: what the person has typed is in COMP_LINE, which is changed
    to what Hydra expects, a line without the name of the command. Prints the names where one of them is being typed.
    """
    if not any(argument.startswith("query=") for argument in typed):
        return ["train", *typed]  # the function to install is the same for every command
    line = re.match(r"\s*\S+\s+(\S*)(\s.*)?$", os.environ.get("COMP_LINE", ""))
    name, rest = line.groups() if line else ("", None)
    if rest is None:
        print(" ".join(names()))
    if rest is None or name not in names() or name == "compare":
        return []
    os.environ["COMP_LINE"] = f"mrirecon{rest}"
    folder = re.search(r"\s(?:--config-dir|-cd)[=\s]\s*(\S+)\s", rest)
    own = ["--config-dir", folder[1]] if folder else []
    return ["train" if name == "study" else name, *own, *typed]
