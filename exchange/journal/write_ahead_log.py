"""Write-ahead log of the journal: frames numbered from 1 in segment files, appended and never changed.

Rules of this file:
- A segment is named after its first frame. Only the newest segment is written; an older one is whole on
  the disk, because it was flushed before the next was begun.
- A crash may tear the end of the newest segment. An incomplete frame there was never acknowledged and is
  cut off when the log is opened. Any other bytes that are not a frame are damage: the log is refused.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from exchange.journal.frames import (
    FILE_HEAD_SIZE,
    HEAD_SIZE,
    MAX_PAYLOAD,
    FrameFault,
    JournalError,
    file_head,
    frame,
    head_at,
    known_durable,
    payload_at,
    version_of,
)
from p2p.ground.durable_file import flush_directory

SEGMENT_BYTES: Final = 16 * 2**20  # the first frame that exceeds it closes a segment
FREE_BYTES: Final = 4 * SEGMENT_BYTES  # that a disk should have when a node starts on it again
READ_BYTES: Final = 2**20  # read ahead; more when a frame is longer
EARLIEST_VERSION: Final = 4  # of a journal that is read; what is written has the present one
LOG_MAGIC: Final = b"xchg-log"
LOG_SUFFIX: Final = ".log"

flush = getattr(os, "fdatasync", os.fsync)  # not every system has it


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; a single write may take only a part of it."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def need(error: BaseException) -> str:
    """Return the remedy for a full disk as the end of a sentence; "" for other errors."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        mib = FREE_BYTES // 2**20
        return f". Free at least {mib} MiB for it and start again: nothing acknowledged is lost"
    return ""


def check_version(path: Path, data: bytes, magic: bytes, version: int) -> int:
    """Check that `data` begins a file of this version, or of an earlier one that can be read. Returns its version.

    Raises:
        FrameFault: another kind of file, or a damaged header.
        JournalError: another version.
    """
    found = version_of(data, magic)
    if found != version and not EARLIEST_VERSION <= found < version:
        reads = f"{EARLIEST_VERSION} to {version}" if version > EARLIEST_VERSION else f"{version}"
        raise JournalError(
            f"{path} has journal version {found}; this program reads version {reads}"
        )
    return found


class WriteAheadLog:
    """Log of frames. Threads: one at a time calls `append`, another may call `drop`, and any may read with
    a `Tail`."""

    def __init__(
        self,
        directory: Path,
        *,
        version: int,
        start: int,
        segment_bytes: int = SEGMENT_BYTES,
        check: Callable[[int], None] = lambda last: None,
    ) -> None:
        """Open the log, or begin one whose first frame is `start`. `check` is called with the last whole
        frame of an existing log before anything of it is changed; its exceptions end the opening.

        Raises:
            JournalError: the log is damaged or of another version.
            OSError: the log cannot be read or written.
        """
        self.directory = directory
        self.version = version
        self._segment_bytes = segment_bytes
        self._check = check
        # First frame and name of each segment, oldest first. Replaced, never changed: others read it.
        self._changing = threading.Lock()
        self.segments: tuple[int, ...] = tuple(
            sorted(int(path.stem) for path in directory.glob(f"*{LOG_SUFFIX}"))
        )
        self.last = self.durable = start - 1
        self._fd = -1
        if self.segments:
            self._reopen()
        else:
            self._begin(start)

    def path(self, segment: int) -> Path:
        return self.directory / f"{segment:020}{LOG_SUFFIX}"

    def _begin(self, first: int) -> None:
        path = self.path(first)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        write_all(fd, file_head(LOG_MAGIC, self.version))
        os.fsync(fd)
        flush_directory(self.directory)
        self.size = FILE_HEAD_SIZE
        with self._changing:
            if first not in self.segments:
                self.segments = (*self.segments, first)

    def _reopen(self) -> None:
        """Find the end of the newest segment, and cut off a torn frame."""
        first = self.segments[-1]
        path = self.path(first)
        data = path.read_bytes()
        self.last = self.durable = first - 1
        try:
            found = check_version(path, data, LOG_MAGIC, self.version)
        except FrameFault as fault:
            if not fault.torn or len(data) > FILE_HEAD_SIZE:
                raise JournalError(f"{path}, offset 0: {fault}") from fault
            self._check(self.last)
            self._begin(first)
            return
        offset = FILE_HEAD_SIZE
        try:
            while offset < len(data):
                head = head_at(data, offset)
                payload_at(data, offset, head)
                _check_number(head.number, self.last + 1)
                self.last = head.number
                self.durable = max(self.durable, head.durable)
                offset += HEAD_SIZE + head.length
        except FrameFault as fault:
            if not fault.torn or known_durable(data, offset, self.last + 1):
                raise JournalError(f"{path}, offset {offset}: {fault}") from fault
        self._check(self.last)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        if offset < len(data):
            os.ftruncate(self._fd, offset)
        # Frames left by a crash of the process may be in the memory of the system only.
        os.fsync(self._fd)
        self.durable = self.last
        self.size = offset
        if (
            found != self.version
        ):  # an earlier program must not find records in it that it cannot read
            self._begin(self.last + 1)

    @property
    def full(self) -> bool:
        """Report if the next frame begins a new segment."""
        return self.size >= self._segment_bytes

    def append(self, payload: bytes, *, sync: bool) -> int:
        """Write one frame and return its number. With `sync` it is on the disk then.

        Raises:
            OSError: the frame may be there or not, whole or not. Nothing may be appended any more.
            ValueError: the payload is too long.
        """
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(
                f"a commit of {len(payload):,} bytes is too large; the most is {MAX_PAYLOAD:,}"
            )
        if self.full:
            self.seal()
        number = self.last + 1
        data = frame(number, self.durable, payload)
        write_all(self._fd, data)
        if sync:
            flush(self._fd)
            self.durable = number
        self.size += len(data)
        self.last = number
        return number

    def settle(self) -> None:
        """Flush all appended frames to the disk."""
        if self.durable < self.last:
            os.fsync(self._fd)
            self.durable = self.last

    def seal(self) -> None:
        """Flush the present segment and begin a new one."""
        if self.last + 1 == self.segments[-1]:
            return
        os.fsync(self._fd)
        self.durable = self.last
        self._begin(self.last + 1)

    def drop(self, upto: int) -> None:
        """Delete the segments without frames after `upto`, oldest first, so that an interruption leaves no
        gap."""
        while len(self.segments) > 1 and self.segments[1] <= upto + 1:
            with suppress(FileNotFoundError):
                self.path(self.segments[0]).unlink()
            with self._changing:
                self.segments = self.segments[1:]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LogFiles(Protocol):
    """Segment files of a log: `WriteAheadLog`, or a reader of another process's log."""

    @property
    def directory(self) -> Path: ...
    @property
    def version(self) -> int: ...
    @property
    def segments(self) -> Sequence[int]: ...
    def path(self, segment: int) -> Path: ...


class Tail:
    """Reader of a log's frames in order, after frame `after`, while the log may be written to."""

    def __init__(self, log: LogFiles, after: int) -> None:
        self._log = log
        self.at = after  # the last frame read
        self._fd = -1
        self._segment = 0
        self._offset = 0  # of the next frame in the file

    def take(self, upto: int, size: int = READ_BYTES) -> list[tuple[int, bytes]]:
        """Read the next frames (number, payload) up to `upto`: about `size` bytes of the segment, and at
        least one frame. Frames up to `upto` must have been appended.

        Raises:
            JournalError: a frame is missing or damaged.
            OSError: the file cannot be read.
        """
        taken: list[tuple[int, bytes]] = []
        while not taken and self.at < upto:
            self._open()
            try:
                self._fill(taken, upto, size)
            except FrameFault as fault:
                raise JournalError(
                    f"{self._log.path(self._segment)}, offset {self._offset}: {fault}"
                ) from fault
        return taken

    def _open(self) -> None:
        """Open the segment that holds the next frame."""
        segment = max((s for s in self._log.segments if s <= self.at + 1), default=0)
        if segment == 0:
            raise JournalError(f"{self._log.directory} lacks the segment of frame {self.at + 1}")
        if segment == self._segment:
            return
        self.close()
        path = self._log.path(segment)
        self._fd = os.open(path, os.O_RDONLY)
        self._segment, self._offset = segment, FILE_HEAD_SIZE
        try:
            check_version(path, os.pread(self._fd, FILE_HEAD_SIZE, 0), LOG_MAGIC, self._log.version)
            number = segment
            while number <= self.at:  # frames that another reader has taken
                head = head_at(os.pread(self._fd, HEAD_SIZE, self._offset), 0)
                _check_number(head.number, number)
                self._offset += HEAD_SIZE + head.length
                number += 1
        except FrameFault as fault:
            raise JournalError(f"{path}, offset {self._offset}: {fault}") from fault

    def _fill(self, taken: list[tuple[int, bytes]], upto: int, size: int) -> None:
        data = os.pread(self._fd, max(size, HEAD_SIZE), self._offset)
        head = head_at(data, 0)
        if len(data) < HEAD_SIZE + head.length:
            data = os.pread(self._fd, HEAD_SIZE + head.length, self._offset)
        start, view = 0, memoryview(data)
        while True:
            payload = payload_at(view, start, head)
            _check_number(head.number, self.at + 1)
            taken.append((head.number, payload))
            self.at = head.number
            start += HEAD_SIZE + head.length
            self._offset += HEAD_SIZE + head.length
            if self.at == upto or len(data) < start + HEAD_SIZE:
                return
            head = head_at(view, start)
            if len(data) < start + HEAD_SIZE + head.length:
                return  # the rest the next time

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._segment = -1, 0


def _check_number(found: int, expected: int) -> None:
    if found != expected:
        raise FrameFault(f"found frame {found}, expected frame {expected}", torn=False)
