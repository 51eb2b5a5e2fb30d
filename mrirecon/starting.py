"""What a command imports first: while the rest is imported, which takes seconds, Ctrl-C ends it with one line.

Importing it does so, since nothing but an import can come before the others. `io.processes.raise_ctrl_c` ends it.
"""

import os
import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    if _is_spawned():
        return
    if os.environ.get("LOCAL_RANK", "0") == "0":  # the first rank says it
        os.write(2, b"error: stopped by Ctrl-C\n")
    os._exit(130)  # an exception could be swallowed by what is being imported; nothing is open yet


def _is_spawned() -> bool:
    """Whether this is a process that another one made, which ends it; it imports the command, too."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background ignores it
    signal.signal(signal.SIGINT, _end)
