"""Files that decide how a program behaves: read only if no other user may have written them."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path
from shlex import quote
from typing import Final

_ROOT: Final = 0


def read_own(path: Path, most: int = -1, *, directory: Path | None = None) -> bytes:
    """Read a file that only this user, or root, may write to.

    Args:
        most: bytes to read; -1: all.
        directory: a data directory that was named: its owner may own the file too, so that root can look at the node
            of a service.

    Raises:
        PermissionError: others own it or may write to it; `strerror` says what to run.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        owner = None if directory is None else directory.stat().st_uid
        check_own(path, os.fstat(file.fileno()), owner)
        return file.read(most)


def check_own(path: Path, status: os.stat_result, owner: int | None = None) -> None:
    """Check the owner and the mode of a file. `owner`: one more that is accepted.

    Raises:
        PermissionError: others own it or may write to it; `strerror` says what to run.
    """
    mode = status.st_mode
    if stat.S_ISCHR(mode):  # /dev/null
        return
    shown = quote(str(path))
    if status.st_uid not in (_ROOT, os.geteuid(), owner):
        why = f"it belongs to {_user(status.st_uid)}, who may change it; run: chown {_user(os.geteuid())} {shown}"
    elif mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not _is_private(status.st_gid)):
        why = f"others may write to it (mode {stat.S_IMODE(mode):04o}); run: chmod go-w {shown}"
    else:
        return
    raise PermissionError(errno.EACCES, why, str(path))


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _is_private(number: int) -> bool:
    """Report if a group is that of this user alone, as many systems make one for each."""
    if number != os.getegid():
        return False
    try:
        group = grp.getgrgid(number)
    except KeyError:
        return False
    user = _user(os.geteuid())
    return group.gr_name == user and set(group.gr_mem) <= {user}
