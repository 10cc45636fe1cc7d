"""Reader of a journal that another process may be writing, or that cannot be opened any more.

The journal's files are opened at once. A segment that the writing process deletes later can still be read
then, and a newer segment is found by `refresh`. Nothing is changed on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from exchange.journal import anchor, snapshots
from exchange.journal.frames import (
    FILE_HEAD_SIZE,
    HEAD_SIZE,
    FrameFault,
    JournalError,
    head_at,
    payload_at,
)
from exchange.journal.journal import SCHEMA_VERSION
from exchange.journal.state import JournalState
from exchange.journal.write_ahead_log import LOG_MAGIC, LOG_SUFFIX, check_version
from exchange.model.records import Record, decode_records

Advance = Callable[[int], None]  # gets the number of bytes that were processed


def no_progress(size: int) -> None:
    """Ignore the progress."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame of the log, at `offset` of its segment."""

    number: int
    offset: int
    end: int
    payload: bytes

    def records(self) -> list[Record]:
        """Decode the records.

        Raises:
            FrameFault: the payload is whole and has no records of this version.
        """
        try:
            found: list[Record] = decode_records(self.payload)
        except msgspec.DecodeError as error:
            raise FrameFault(f"frame {self.number}: {error}", torn=False) from error
        return found


def frames_of(path: Path, data: bytes, first: int) -> Iterator[Frame]:
    """Yield the frames of a segment whose first frame is `first`.

    Raises:
        FrameFault: at the first bytes that are not the next frame.
        JournalError: another version.
    """
    check_version(path, data, LOG_MAGIC, SCHEMA_VERSION)
    offset, number = FILE_HEAD_SIZE, first
    while offset < len(data):
        head = head_at(data, offset)
        payload = payload_at(data, offset, head)
        if head.number != number:
            raise FrameFault(f"frame {head.number} where {number} belongs", torn=False)
        end = offset + HEAD_SIZE + head.length
        yield Frame(number, offset, end, payload)
        offset, number = end, number + 1


class LogDirectory:
    """Segments of a log that another process writes, for a `Tail`."""

    version = SCHEMA_VERSION

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def segments(self) -> list[int]:
        """First frames of the segments, ascending."""
        return sorted(int(path.stem) for path in self.directory.glob(f"*{LOG_SUFFIX}"))

    def path(self, segment: int) -> Path:
        return self.directory / f"{segment:020}{LOG_SUFFIX}"


class JournalReader:
    """Open files of a journal directory. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open the files.

        Raises:
            JournalError: there is no journal.
            OSError: a file cannot be read.
        """
        self.path = path
        self._segments: dict[int, BinaryIO] = {}
        self._snapshot: tuple[int, BinaryIO] | None = None
        if not path.is_dir():
            raise JournalError(f"{path} is no journal")
        self.refresh()
        for number in reversed(snapshots.numbers(path)):
            try:
                self._snapshot = number, snapshots.path_of(path, number).open("rb")
                break
            except FileNotFoundError:
                continue  # a newer one has just replaced it
        if not self._segments and self._snapshot is None:
            self.close()
            raise JournalError(f"{path} is no journal: it has neither .log nor .state files")

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for file in self._segments.values():
            file.close()
        if self._snapshot is not None:
            self._snapshot[1].close()

    def refresh(self) -> None:
        """Open the segments that have been begun since the last call."""
        for path in sorted(self.path.glob(f"*{LOG_SUFFIX}")):
            first = int(path.stem)
            if first not in self._segments:
                try:
                    self._segments[first] = path.open("rb")
                except FileNotFoundError:
                    continue  # its frames are in a newer snapshot

    @property
    def segments(self) -> list[int]:
        """First frames of the segments, ascending."""
        return sorted(self._segments)

    @property
    def snapshot(self) -> int:
        """Frame of the newest state snapshot; 0 without one."""
        return 0 if self._snapshot is None else self._snapshot[0]

    def snapshot_data(self) -> bytes:
        """Return the content of the newest snapshot's file."""
        if self._snapshot is None:
            return b""
        file = self._snapshot[1]
        file.seek(0)
        return file.read()

    def state(self) -> JournalState:
        """Return the state at the newest snapshot; an empty one without a snapshot.

        Raises:
            JournalError: the snapshot is damaged.
        """
        state = JournalState()
        if self._snapshot is not None:
            number, file = self._snapshot
            path = snapshots.path_of(self.path, number)
            for _ in snapshots.load_from(file, path, SCHEMA_VERSION, state):
                pass
        return state

    def size(self) -> int:
        """Return the size of log and snapshot in bytes."""
        files = [*self._segments.values()]
        if self._snapshot is not None:
            files.append(self._snapshot[1])
        return sum(file.seek(0, 2) for file in files)

    def segment_path(self, first: int) -> Path:
        return self.path / f"{first:020}{LOG_SUFFIX}"

    def segment_data(self, first: int) -> bytes:
        """Return the content of a segment as it is now."""
        file = self._segments[first]
        file.seek(0)
        return file.read()

    def anchor(self) -> tuple[str, int, int] | None:
        """Return (owner, last frame written, last frame flushed) of the anchor; None without one.

        Raises:
            JournalError: it is damaged.
        """
        path = self.path / anchor.NAME
        if not path.exists():
            return None
        found = anchor.Anchor(path)
        found.close()
        return found.owner, found.written, found.flushed

    def frames(
        self, after: int, upto: int | None = None, advance: Advance = no_progress
    ) -> Iterator[Frame]:
        """Yield the frames after `after` up to `upto`, or to the end of the log; a torn frame at the very end
        is not an error then.

        Raises:
            JournalError: a frame is missing or damaged.
        """
        expected, segments = after + 1, self.segments
        for index, first in enumerate(segments):
            following = segments[index + 1] if index + 1 < len(segments) else None
            if (following is not None and following <= expected) or (upto and expected > upto):
                continue
            if first > expected:
                raise JournalError(f"{self.path} lacks the segment of frame {expected:,}")
            path, data = self.segment_path(first), self.segment_data(first)
            end = FILE_HEAD_SIZE
            try:
                for frame in frames_of(path, data, first):
                    end = frame.end
                    if frame.number == expected:
                        yield frame
                        expected += 1
                    if frame.number == upto:
                        break
            except FrameFault as fault:
                if upto is not None or following is not None or not fault.torn:
                    raise JournalError(f"{path}, offset {end}: {fault}") from fault
            advance(len(data))
            if following is not None and expected < following and not (upto and expected > upto):
                raise JournalError(f"{path} ends at frame {expected - 1:,}, before {following:,}")
        if upto is not None and expected <= upto:
            raise JournalError(
                f"{self.path}: the log ends at frame {expected - 1:,}, before {upto:,}"
            )
