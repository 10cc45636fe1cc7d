"""A numbered stream: messages, history, and the position of each reader.

A reader is a number, not a queue: the last message it received. Missing messages are made from the
stream's history when the reader is ready: single messages while it keeps up, one combined message
when it is far behind. So a slow reader costs nothing, and readers at the same place share their
bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from node.streams.stream_messages import Reason, Resume

MAX_HISTORY: Final = 1000  # messages of a stream that are kept for readers that resume
MAX_CHANGES: Final = 50_000  # changes in all of them
CONFLATE_BEHIND: Final = 64  # messages; a reader further behind gets their outcome in one

FAILED: Final = (
    "internal_error",
    "the node failed; its log has the details; subscribe again",
)

_encoder = msgspec.json.Encoder()
encode = _encoder.encode


class ReaderTooSlow(Exception):
    """The reader is further behind than the history goes, and nothing may be left out."""


class Ended(Exception):
    """The stream has ended."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class _Step(NamedTuple):
    changes: Mapping[object, Any]
    message: bytes


def channel_of(name: str) -> str:
    """Return the channel of a stream."""
    return name.partition("/")[0]


class StreamFigures:
    """Counts of all streams of a node since the start."""

    def __init__(self) -> None:
        self.combined: Counter[str] = Counter()  # by channel: messages that a later one stands for


class NumberedStream:
    """See the module's docstring. What changes goes by a key; of changes to one key the last counts."""

    complete = False  # whether each change is wanted, so that none may be left out for a snapshot

    def __init__(self, name: str, epoch: str) -> None:
        self.name = name
        self.epoch = epoch
        self.sequence = 0
        self.latest: list[bytes] = []  # the last message, for readers that have all before it
        self.readers: dict[Reader, None] = {}
        self.idle_since: float | None = None  # when the last reader left, monotonic seconds
        self.figures: StreamFigures | None = None
        self._history: dict[int, _Step] = {}  # by sequence
        self._changes = 0
        self._made: dict[int | Reason, bytes] = {}  # at this sequence, by previous or reason
        self._end: Ended | None = None

    # For the makers of streams

    async def open(self) -> None:
        """Begin to follow what the stream is about."""
        raise NotImplementedError

    def close(self) -> None:
        """Follow it no more."""
        raise NotImplementedError

    snapshot_message: Any
    changes_message: Any

    def state(self) -> dict[str, Any]:
        """Return the fields of a snapshot that have the current state."""
        raise NotImplementedError

    def changed(self, changes: Mapping[object, Any]) -> dict[str, Any]:
        """Return the fields of a message that have the changes."""
        raise NotImplementedError

    def encode_snapshot(self, reason: Reason) -> bytes:
        """Encode the current state."""
        return encode(self.snapshot_message(reason=reason, **self.state(), **self.fields()))

    def encode_changes(self, previous: int, changes: Mapping[object, Any]) -> bytes:
        """Encode the changes since `previous`, up to the current state."""
        message = self.changes_message(previous=previous, **self.changed(changes), **self.fields())
        return encode(message)

    def fields(self) -> dict[str, Any]:
        """Fields of every message: the stream and the message's place in it."""
        return {"stream": self.name, "epoch": self.epoch, "sequence": self.sequence}

    def publish(self, changes: Mapping[object, Any]) -> None:
        """Number changes and wake the readers."""
        if not changes:
            return
        previous, self.sequence = self.sequence, self.sequence + 1
        self._made.clear()
        message = self.encode_changes(previous, changes)
        self.latest = [message]
        self._history[self.sequence] = _Step(changes, message)
        self._changes += len(changes)
        while len(self._history) > MAX_HISTORY or (
            self._changes > MAX_CHANGES and len(self._history) > 1
        ):
            self._changes -= len(self._history.pop(next(iter(self._history))).changes)
        for reader in self.readers:
            reader.wake()

    def end(self, code: str, detail: str) -> None:
        """End the stream and notify its readers of the reason."""
        self.close()
        self._end = Ended(code, detail)
        for reader in self.readers:
            reader.wake()

    # For readers

    @property
    def ended(self) -> bool:
        return self._end is not None

    def position(self, resume: Resume | None) -> int | Reason:
        """Position at which a new reader continues, or the reason for a snapshot."""
        if resume is None:
            return "subscribed"
        if resume.epoch != self.epoch or resume.sequence > self.sequence:
            return "restarted"
        return resume.sequence if resume.sequence >= self._oldest else "too_old"

    @property
    def _oldest(self) -> int:
        """Oldest position from which a reader can still continue."""
        return self.sequence - len(self._history)

    def snapshot(self, reason: Reason) -> bytes:
        """
        Raises:
            Ended: the stream has ended.
        """
        self.check()
        made = self._made.get(reason)
        if made is None:
            made = self._made[reason] = self.encode_snapshot(reason)
        return made

    def since(self, told: int, *, singly: bool) -> list[bytes]:
        """Return the messages after `told`: each of them, or one combined message.

        Raises:
            TooSlow: they are not held any more, and a snapshot would leave something out.
            Ended: the stream has ended.
        """
        self.check()
        if told < self._oldest:
            if self.complete:
                raise ReaderTooSlow
            return [self.snapshot("behind")]
        if singly or self.sequence - told <= 1:
            return [self._history[number].message for number in range(told + 1, self.sequence + 1)]
        made = self._made.get(told)
        if made is None:
            changes: dict[object, Any] = {}
            for number in range(told + 1, self.sequence + 1):
                changes.update(self._history[number].changes)
            made = self._made[told] = self.encode_changes(told, changes)
        return [made]

    def check(self) -> None:
        """
        Raises:
            Ended: the stream has ended.
        """
        if self._end is not None:
            raise self._end


class Reader:
    """A subscription. `woken` is called when there is something to take."""

    def __init__(
        self,
        stream: NumberedStream,
        woken: Callable[[Reader], None],
        conflate_ms: int,
        resume: Resume | None,
    ) -> None:
        self.stream = stream
        self.due = 0.0  # not before this time, monotonic seconds
        self.waiting = False  # whether `woken` was called since the last `take`
        self._woken = woken
        self._conflate = conflate_ms / 1000
        self._position = stream.position(resume)
        self._replay = stream.sequence  # missed messages up to here are sent as they were
        self.resumed = isinstance(self._position, int)

    def begin(self) -> None:
        """Subscribe to the stream from now on; messages are available at once."""
        self.stream.readers[self] = None
        self.wake()

    def stop(self) -> None:
        self.stream.readers.pop(self, None)

    def wake(self) -> None:
        if not self.waiting:
            self.waiting = True
            self._woken(self)

    def take(self, now: float) -> list[bytes]:
        """Return the messages to send now. Call when `due` has come.

        Raises:
            TooSlow, Ended: as `NumberedStream.since`.
        """
        self.waiting = False
        stream, position = self.stream, self._position
        if self._conflate:  # readers of the same pace have the same times, and share messages
            self.due = (now // self._conflate + 1) * self._conflate
        if position == stream.sequence - 1 and not stream.ended:
            messages = stream.latest
        elif isinstance(position, int):
            singly = position < self._replay or (
                not self._conflate and stream.sequence - position <= CONFLATE_BEHIND
            )
            messages = stream.since(position, singly=singly)
        else:
            messages = [stream.snapshot(position)]
        if isinstance(position, int) and stream.figures is not None:
            combined = stream.sequence - position - len(messages)
            if combined > 0:
                stream.figures.combined[channel_of(stream.name)] += combined
        self._position = stream.sequence
        return messages
