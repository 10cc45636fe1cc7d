"""Frames: numbered, checksummed records of an append-only file.

    file   head, frame, frame, ...
    head   magic (8 bytes), version, CRC of both            little-endian, 32 bits each
    frame  mark (4 bytes), length, CRC of the payload (32 bits each), number, durable (64 bits each),
           CRC of all that; then the payload

`durable` is the number of the last frame known to be on the disk when this frame was written. It
distinguishes a write torn by a power failure, whose content was never acknowledged, from damage: a
frame that a later frame calls durable was once complete.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

import msgspec

_FILE_HEAD: Final = struct.Struct("<8sII")
_HEAD: Final = struct.Struct("<4sIIQQI")
_CHECKED: Final = struct.Struct("<4sIIQQ")  # of a head, by its CRC
MARK: Final = b"\xf5frm"

FILE_HEAD_SIZE: Final = _FILE_HEAD.size
HEAD_SIZE: Final = _HEAD.size
MAX_PAYLOAD: Final = 2**30  # bytes; a feed snapshot of 16 million orders takes 400 MB
_SECTOR: Final = 512  # bytes that a disk writes all or none of
_SIGN: Final = 64  # shortest run of zeros at the end of a sector that marks it as never written


class JournalError(Exception):
    """Failure to open, read or write the journal. The text names the file and the reason."""


class FrameFault(Exception):
    """Bytes that are not a whole frame. `torn`: the rest of an unfinished write, with nothing after it."""

    def __init__(self, why: str, *, torn: bool) -> None:
        super().__init__(why)
        self.torn = torn


class FrameHead(msgspec.Struct, frozen=True):
    """Header of a frame."""

    length: int  # of the payload, bytes
    crc: int
    number: int
    durable: int


def file_head(magic: bytes, version: int) -> bytes:
    """Encode the header of a file. `magic` has 8 bytes."""
    crc = zlib.crc32(magic + version.to_bytes(4, "little"))
    return _FILE_HEAD.pack(magic, version, crc)


def version_of(data: bytes, magic: bytes) -> int:
    """Return the version in a file's header.

    Raises:
        FrameFault: the header is incomplete, damaged or of another kind of file.
    """
    if len(data) < FILE_HEAD_SIZE:
        raise FrameFault("its head is cut off", torn=True)
    found, version, crc = _FILE_HEAD.unpack_from(data)
    if not any(data[:FILE_HEAD_SIZE]):
        raise FrameFault("its head was never written", torn=True)
    if found != magic:
        raise FrameFault("it is another kind of file", torn=False)
    if crc != zlib.crc32(found + version.to_bytes(4, "little")):
        raise FrameFault("its head is damaged", torn=False)
    return int(version)


def frame(number: int, durable: int, payload: bytes) -> bytes:
    """Encode a frame."""
    fields = (MARK, len(payload), zlib.crc32(payload), number, durable)
    return _HEAD.pack(*fields, zlib.crc32(_CHECKED.pack(*fields))) + payload


def head_at(data: bytes | memoryview, offset: int) -> FrameHead:
    """Decode the header of the frame at `offset`.

    Raises:
        FrameFault: cut off or damaged.
    """
    if len(data) < offset + HEAD_SIZE:
        raise FrameFault("the frame's head is cut off", torn=True)
    mark, length, crc, number, durable, head_crc = _HEAD.unpack_from(data, offset)
    if mark != MARK or head_crc != zlib.crc32(data[offset : offset + _CHECKED.size]):
        raise FrameFault("the frame's head is damaged", torn=_has_gap(data, offset, len(data)))
    return FrameHead(length, crc, number, durable)


def payload_at(data: bytes | memoryview, offset: int, head: FrameHead) -> bytes:
    """Return the payload of the frame at `offset` with the header `head`.

    Raises:
        FrameFault: cut off or damaged.
    """
    start = offset + HEAD_SIZE
    end = start + head.length
    if len(data) < end:
        raise FrameFault("the frame is cut off", torn=True)
    payload = bytes(data[start:end])
    if zlib.crc32(payload) != head.crc:
        raise FrameFault("the frame's checksum is wrong", torn=_has_gap(data, offset, end))
    return payload


def known_durable(data: bytes, offset: int, number: int) -> bool:
    """Report if any complete frame from `offset` on calls frame `number` durable."""
    while (offset := data.find(MARK, offset)) >= 0:
        try:
            head = head_at(data, offset)
            payload_at(data, offset, head)
        except FrameFault:
            offset += 1
            continue
        if head.durable >= number:
            return True
        offset += HEAD_SIZE + head.length
    return False


def _has_gap(data: bytes | memoryview, start: int, end: int) -> bool:
    """Report if a sector of data[start:end] is all zeros, thus was never written. Frames do not begin
    with zeros, so the first sector may be short."""
    first = start
    while start < end:
        stop = min(end, start - start % _SECTOR + _SECTOR)
        if (start == first or stop - start >= _SIGN) and not any(data[start:stop]):
            return True
        start = stop
    return False
