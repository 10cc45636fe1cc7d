"""Anchor of the journal: its owner and the last position of its log, in a file of its own.

Theory of operation. Nothing in a log shows that its end was cut off. The anchor shows it, also on a node without an
archive and without peers.

    sector 0   magic (8 bytes), version (32 bits), owner's node id (64 bytes), CRC of all that
    sector 1   last frame written, last frame flushed, check (both and _CHECK, xor); 64 bits each
    sector 2   the same; the two are written in turn, so that one of them is always intact

Rules of this file:

- A frame is written to the log before the anchor notes it as written, and flushed before the anchor
  notes it as flushed. A log that ends before `flushed` was therefore cut or replaced; no crash does
  that. A log that ends before `written` may have lost its end in a power failure.
- The file has its size from the start and is mapped into memory: noting a position copies 24 bytes,
  without a system call. The position survives the process at once. The system writes it to the disk
  within half a minute, so after a power failure the anchor may lag behind the log, but it is never
  ahead of what the log contained.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Final

from exchange.journal.frames import JournalError
from p2p.ground.durable_file import replace_file

NAME: Final = "anchor"
_MAGIC: Final = b"xchganch"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<8sI64s")
_POSITIONS: Final = struct.Struct("<QQQ")
_CHECK: Final = 0x6E63686F72F5A11D
_CRC: Final = struct.Struct("<I")
_SECTOR: Final = 512
_SIZE: Final = 3 * _SECTOR


class Anchor:
    """Anchor of one journal. Only one thread at a time may call `note`."""

    def __init__(self, path: Path) -> None:
        """Open an existing anchor.

        Raises:
            JournalError: the file is damaged, or of another version.
            OSError: the file cannot be opened.
        """
        self.path = path
        fd = os.open(path, os.O_RDWR)
        try:
            if os.fstat(fd).st_size != _SIZE:
                raise self._damaged()
            self._map = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)
        try:
            self._read()
        except BaseException:
            self._map.close()
            raise

    def _read(self) -> None:
        fields = self._map[: _HEAD.size]
        magic, version, owner = _HEAD.unpack(fields)
        if self._map[_HEAD.size : _HEAD.size + _CRC.size] != _crc(fields) or magic != _MAGIC:
            raise self._damaged()
        if version != _VERSION:
            raise JournalError(
                f"{self.path} has version {version}; this program reads version {_VERSION}"
            )
        self.owner: str = owner.rstrip(b"\0").decode("ascii", "replace")
        found = [
            (written, flushed)
            for written, flushed, check in (
                _POSITIONS.unpack_from(self._map, at) for at in (_SECTOR, 2 * _SECTOR)
            )
            if check == written ^ flushed ^ _CHECK
        ]
        if not found:
            raise self._damaged()
        self.written, self.flushed = (max(positions) for positions in zip(*found, strict=True))
        self._next = _SECTOR

    def _damaged(self) -> JournalError:
        return JournalError(
            f"{self.path}, the record of the log's last position, is damaged. Restore it from a "
            f"backup, or run "
            "'exchange-node journal repair', which makes a new one from the log"
        )

    def note(self, written: int, flushed: int) -> None:
        """Note the positions of the last frame written and of the last frame on the disk."""
        at = self._next
        self._next = 3 * _SECTOR - at
        _POSITIONS.pack_into(self._map, at, written, flushed, written ^ flushed ^ _CHECK)

    def close(self) -> None:
        self._map.close()


def _crc(data: bytes) -> bytes:
    return _CRC.pack(zlib.crc32(data))


def write(path: Path, *, owner: str, position: int) -> Anchor:
    """Write a new anchor, replacing an existing one: all frames up to `position` are on the disk.

    Raises:
        OSError: the file cannot be written; an existing anchor is unchanged.
    """
    head = _HEAD.pack(_MAGIC, _VERSION, owner.encode("ascii"))
    data = bytearray(_SIZE)
    data[: len(head) + _CRC.size] = head + _crc(head)
    for at in (_SECTOR, 2 * _SECTOR):
        _POSITIONS.pack_into(data, at, position, position, _CHECK)
    replace_file(path, bytes(data))
    return Anchor(path)


def cast(path: Path, held: Anchor | None, owner: str, last: int) -> Anchor:
    """Return the anchor of an opened log that is on the disk up to frame `last`: `held` if it
    agrees with that, else a new one. `owner`, the node that opens the log, becomes the owner of an
    empty journal only.

    Raises:
        OSError: the anchor cannot be written.
    """
    recorded = "" if held is None else held.owner
    if not last or (held is not None and not held.written):
        recorded = owner or recorded
    if held is not None:
        if held.written <= last and held.owner == recorded:
            held.note(last, last)
            return held
        held.close()
    return write(path, owner=recorded, position=last)
