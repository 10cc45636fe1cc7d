"""Released position: the last frame that may leave a node whose standby acknowledges, in a file for other processes.

The export reads the journal in a process of its own, and must not deliver a frame that the standby may lack. The file
`standby-released` of the data directory has the position (64 bits) and its check. It is mapped into memory: noting a
position is no system call.

Without the file every frame may leave: the node never had a standby, or acknowledges without it.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

NAME: Final = "standby-released"
_FIELDS: Final = struct.Struct("<QQ")
_CHECK: Final = 0x72656C6561736564
_TRIES: Final = 100


class ReleasedPosition:
    """The file, for the node that writes it."""

    def __init__(self, data_dir: Path, start: int) -> None:
        """Open the file, or make it with the position `start`.

        Raises:
            OSError: it cannot be opened.
        """
        path = data_dir / NAME
        known = read(data_dir)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, _FIELDS.size)
            self._map = mmap.mmap(fd, _FIELDS.size)
        finally:
            os.close(fd)
        self.position = -1
        self.note(start if known is None else min(known, start))

    def note(self, position: int) -> None:
        """Note that everything up to a frame may leave."""
        if position != self.position:
            self.position = position
            self._map[:] = _FIELDS.pack(position, position ^ _CHECK)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._map.close()


def read(data_dir: Path) -> int | None:
    """Return the position; None without the file.

    Raises:
        OSError: the file is damaged, or cannot be read.
    """
    path = data_dir / NAME
    for _ in range(_TRIES):  # the node may write just then
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        if len(data) == _FIELDS.size:
            position, check = _FIELDS.unpack(data)
            if check == position ^ _CHECK:
                return int(position)
    raise OSError(None, "it is damaged: with the node stopped, remove it", str(path))


def remove(data_dir: Path) -> None:
    """Remove the file: every frame may leave.

    Raises:
        OSError: it cannot be removed.
    """
    (data_dir / NAME).unlink(missing_ok=True)
