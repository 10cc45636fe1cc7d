"""Small files that are replaced as a whole: a crash leaves the old content or the new one, never a part.

The content is written to a draft beside the file (`NAME.new`), flushed, renamed over the file, and the directory that has
the name is flushed too: without that a power failure may bring the old file back.
"""

from __future__ import annotations

import os
from pathlib import Path

SUFFIX = ".new"


def replace_file(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Write `data` to `path`, replacing an existing file.

    Args:
        mode: permissions of the file, less the process's umask.
        durable: False for a file that is written often and worthless after a crash of the machine: nothing is flushed.

    Raises:
        OSError: the file cannot be written; an existing one is unchanged.
    """
    draft = path.with_name(path.name + SUFFIX)
    draft.unlink(missing_ok=True)
    try:
        # O_EXCL: a symbolic link in the place of the draft is not followed.
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        OSError: the disk failed.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
