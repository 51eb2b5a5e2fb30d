"""Writing results: into a folder that can take them, a file whole or not at all."""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mrirecon.errors import ConfigError

# EFBIG: a limit of the file system, or of the process.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def output_folder(path: str | Path, option: str = "output=") -> Path:
    """The folder for results, made if need be.

    option: what names it where it was typed. Raises ConfigError where nothing can be written there.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{option}{folder}: cannot be made a folder: {error.strerror}. Choose another folder"
        ) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option}{folder}: is not writable: choose another folder")
    return folder


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within it, no other process that asks for the folder gets it.  Raises ConfigError where another has it.

    The system lets go of the lock when the process ends, however it ends; the hidden file that is locked stays.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"output={folder}: another run is writing there: wait until it has ended, or choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def replacing(path: Path, num_bytes: int = 0) -> Iterator[Path]:
    """A hidden path beside `path`; when the block ends well, what was written there is on disk under the final name.

    num_bytes: what is to come. Raises OSError (ENOSPC) before anything is written where the disk cannot hold it, and
    names the final path where the disk fails while it is written. A process killed midway leaves a hidden `.*.tmp` file
    at most.
    """
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes:
        raise OSError(errno.ENOSPC, f"not enough space: {num_bytes} bytes are needed, {free} are free", str(path))
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK:
            needed = f": {num_bytes} bytes are needed" if num_bytes else ""
            raise OSError(error.errno, f"{os.strerror(error.errno)}{needed}", str(path)) from error
        raise
    _sync(path.parent)


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file, whole or not at all; text as UTF-8."""
    raw = content.encode() if isinstance(content, str) else content
    with replacing(path, len(raw)) as temporary:
        temporary.write_bytes(raw)


def disk_message(error: OSError) -> str:
    """What to tell a person of a disk that is full or takes no more; "" for other errors."""
    if error.errno not in _DISK:
        return ""
    return f"{error.filename or 'the output'}: {error.strerror}: make room or choose another folder, and go on"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Writes plain data, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
