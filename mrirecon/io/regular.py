"""Opens regular files only, and says what is wrong with a path that is none."""

import os
from io import FileIO
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from mrirecon.errors import InputError

CURE = "Correct the path, copy the file again, or move it elsewhere"


def open_bytes(path: Path, expected: str) -> FileIO:
    """The bytes of a file, unbuffered.  Raises InputError: "expected ..., but nothing is there" and the like."""
    try:
        mode = path.stat().st_mode
        if not S_ISREG(mode):
            came = "a folder" if S_ISDIR(mode) else "no file"
            raise InputError(f"{path}: expected {expected}, but this is {came}. {CURE}")
        return FileIO(path, opener=open_without_waiting)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: expected {expected}, but nothing is there. {CURE}") from error
    except OSError as error:
        raise InputError(f"{path}: expected {expected}, but it cannot be opened ({error.strerror}). {CURE}") from error


def open_without_waiting(path: str | os.PathLike[str], flags: int) -> int:
    """An opener for a path that may have become a pipe, which would wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
