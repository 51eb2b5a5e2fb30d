"""What all commands share: the config that was typed, one clear message for a mistake, exit codes.

Nothing large is imported before the config stands, so that `--help` and a typo are answered at once.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrirecon.errors import ConfigError, DivergedError, InputError
from mrirecon.system.interrupts import end_on_ctrl_c, raise_ctrl_c

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mrirecon.config.launch import Request

log = logging.getLogger(__name__)


def command(
    config_name: str,
    from_checkpoint: tuple[str, ...] = (),
    spell: Callable[[list[str]], list[str]] | None = None,
) -> Callable[[Callable[[DictConfig], int | None]], Callable[[], None]]:
    """Makes a command of a function of the config: `mrirecon NAME key=value ...`, or `python scripts/NAME.py ...`.

    from_checkpoint: config groups and keys that `ckpt=FILE` brings with it; each can still be chosen, or changed key by
    key. spell: changes what was typed into what Hydra understands.

    Exit codes: what the function returns (None is 0); 1 unexpected; 2 usage or config; 3 input data; 130 Ctrl-C.
    """

    def wrap(story: Callable[[DictConfig], int | None]) -> Callable[[], None]:
        def main() -> None:
            end_on_ctrl_c()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would print a mistake its own way and exit with 1
            logging.raiseExceptions = False  # a traceback for every line that a full disk does not take
            with ending_well():
                from mrirecon.config import launch
                from mrirecon.system.invocation import arguments, with_arguments

                if spell is not None:
                    sys.argv = with_arguments(spell(arguments()))
                raise_ctrl_c()
                request = launch.read_request(config_name, from_checkpoint, _config_of)
            _run(request, story)

        return main

    return wrap


def cli() -> None:
    """The installed command: `mrirecon NAME ...` runs the command of that name; exit code 2 where there is none."""
    end_on_ctrl_c()
    with ending_well():
        from mrirecon import __version__
        from mrirecon.apps import console

        typed = sys.argv[1:] or ["--help"]
        if typed[0] in ("-h", "--help"):
            print(console.overview())
        elif typed[0] == "--version":
            print(f"mrirecon-lightning {__version__}")
        elif typed[0] in ("-sc", "--shell-completion"):
            typed = console.completing(typed)
            if typed:
                sys.argv = [sys.argv[0], *typed]
                with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):  # half a line may be a mistake
                    console.command_named(typed[0])()
        else:
            console.command_named(typed[0])()


def _run(request: Request, story: Callable[[DictConfig], int | None]) -> None:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from mrirecon.config import launch
    from mrirecon.config.overrides import explain

    started = False

    def job(cfg: DictConfig) -> None:
        nonlocal started
        started = True
        guarded(lambda: story(_ready(launch.checked(request, cfg))))

    try:
        launch.run(request, job)
    except (HydraException, OmegaConfBaseException) as error:
        _stop(explain(error, request.passed, request.config_name), ConfigError.exit_code)
    except KeyboardInterrupt:  # while Hydra composes the config
        _stop("stopped by Ctrl-C", 130)
    except OSError as error:
        if started:
            raise
        place = error.filename or "the folder of the run"
        _stop(f"{place}: {error.strerror}: choose another folder with hydra.run.dir=DIR", 2)


def _config_of(ckpt: str) -> dict[str, Any]:
    from mrirecon.inference.checkpoints import read_checkpoint

    return dict(read_checkpoint(ckpt)["config"])


def _ready(cfg: DictConfig) -> DictConfig:
    from mrirecon.system.memory import keep_freed_memory

    keep_freed_memory()
    # Lightning 2.6.6 asks torch's tree utilities in a way that torch 2.15 deprecates. Here, as a launcher's worker has
    # filters of its own.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    if cfg.get("ckpt") is not None:
        from mrirecon.inference.checkpoints import file_of

        cfg.ckpt = str(file_of(str(cfg.ckpt)))  # scores give the sha256 of the file they were made from
    return cfg


def guarded(action: Callable[[], int | None]) -> None:
    """Does it, and exits with one message and the code of the error where it fails."""
    code: int | None = None
    with ending_well():
        raise_ctrl_c()  # what is begun from here on ends in order
        code = action()
    if code:
        sys.exit(code)


@contextmanager
def ending_well() -> Iterator[None]:
    """Turns an error that a user can cause into one message and its exit code."""
    try:
        yield
    except KeyboardInterrupt:
        _stop("stopped by Ctrl-C", 130)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt) and error.code != 130:  # Lightning turns it into exit(1)
            _stop("stopped by Ctrl-C; the last checkpoint is that of the last whole epoch", 130)
        raise
    except Exception as error:
        message, code = _understood(error)
        if not message:
            raise
        _stop(message, code)


def _understood(error: Exception) -> tuple[str, int]:
    """The message and the exit code for an error that a user can cause; no message for any other."""
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    from mrirecon.system.atomic import disk_message

    if isinstance(error, ConfigError | InputError | DivergedError):
        return message_of(error), error.exit_code
    if isinstance(error, MissingMandatoryValue):
        key = error.full_key or str(error).rpartition(": ")[2]
        return f"{key} has no value: add {key}=...", ConfigError.exit_code
    if isinstance(error, OmegaConfBaseException) or type(error).__name__ == "MisconfigurationException":  # Lightning's
        return str(error).splitlines()[0], ConfigError.exit_code
    return (disk_message(error), 1) if isinstance(error, OSError) else ("", 1)


def _stop(message: str, code: int) -> None:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        sys.exit(code)  # the first rank says it
    handlers = logging.getLogger().handlers
    if any(
        isinstance(h, logging.FileHandler) and h.baseFilename != os.devnull for h in handlers
    ):  # the run has its log
        log.error("error: %s", message)
    else:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def message_of(error: BaseException) -> str:
    """The message of an error, without the traceback that a data-loader worker wraps around it."""
    _, found, message = str(error).rpartition(f"{type(error).__name__}: ")
    return message.strip() if found else str(error)
