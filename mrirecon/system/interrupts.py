"""Ctrl-C: one line and exit code 130 while a command is imported, KeyboardInterrupt from there on."""

import os
import signal
import sys
from types import FrameType


def end_on_ctrl_c() -> None:
    """Ctrl-C ends this process at once: for the seconds in which a command is imported, before anything is open.

    `raise_ctrl_c` ends it. Does nothing in a process that was started to ignore Ctrl-C, as a shell's background is.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_ctrl_c() -> None:
    """Ctrl-C raises KeyboardInterrupt from here on, unless this process was started to ignore it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave_ctrl_c() -> None:
    """Ctrl-C reaches every process of a terminal; the one that waits for the others ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    if _is_spawned():
        return
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the first rank says it
        os.write(2, b"error: stopped by Ctrl-C\n")
    os._exit(130)  # an exception could be swallowed by what is being imported; nothing is open yet


def _is_spawned() -> bool:
    """Whether another process made this one, and ends it; it imports the command, too."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None
