"""Tunnel: a byte stream in each direction over requests that only one side can make. No I/O.

The side that dials makes requests, the other answers them (as BOSH does over HTTP, XEP-0124):

    data request   bytes of the dialling side; answered at once with what has arrived
    poll           a request for bytes of the answering side, which may hold its answer for `wait` ms until there are some; one is always under way, so that both sides can send at any time

Requests and answers may be lost, doubled, late, or overtake each other (`p2p.wire.byte_stream`). Each message says how far its
author has received (`ack`) and how far the other may send (`limit`). So a request without an answer is made again, an answer
to a poll starts at what is acknowledged, and nothing depends on which of two answers came first. At most one data request
is under way. Each side holds at most `BUFFER` bytes that wait to be acknowledged and `WINDOW` bytes that wait to be read.

A tunnel breaks when nothing has come from the other side for `DEAD_AFTER` seconds, or when one side
closes it (`close`). Then the streams end early, which their readers have to detect: links do, by
their frames.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import msgspec

from p2p.base.limits import DEAD_AFTER
from p2p.ground.peer_texts import PLAIN
from p2p.wire.byte_stream import ByteStream, ByteStreamError, Chunk, StreamRules

CHUNK: Final = 256 * 1024  # bytes in one message: little waiting on long ways, and no large frames
LEAST_CHUNK: Final = 16 * 1024  # after failures: an uplink may be slow for the timeout
WINDOW: Final = 512 * 1024  # bytes taken in that the local reader has not read
BUFFER: Final = 512 * 1024  # bytes of the local writer that are not acknowledged
FIRST_LIMIT: Final = 64 * 1024  # bytes that a dialling side may send before the first `limit`
HOLD: Final = 3.0  # seconds that a poll may be held; NATs forget connections much later
CUT_AFTER: Final = 2.0  # seconds until the next poll, when the connection of a held one has closed
TIMEOUT: Final = 1.5  # seconds for the answer to a poll, beyond its hold
DATA_TIMEOUT: Final = 4.0  # seconds for an answer to a data request, which may be long
RETRY_FIRST: Final = 0.05  # seconds before a failed request is made again, doubling
RETRY_MAX: Final = 1.0
MAX_VAIN: Final = 3  # answers in a row that came at once with nothing new: news may cross
VAIN_PAUSE: Final = 0.1  # seconds before asking again after more of them
MAX_OFFSET: Final = 2**53  # JSON's numbers are exact to here
MAX_REASON: Final = 200  # characters
RULES: Final = StreamRules(
    chunk=CHUNK,
    first_window=CHUNK,
    window=CHUNK,
    least_window=LEAST_CHUNK,
    buffer=BUFFER,
    unread=WINDOW,
)

Offset = Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)]
Reason = Annotated[str, msgspec.Meta(max_length=MAX_REASON, pattern=PLAIN)]


class TunnelRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """From the dialling to the answering side. In JSON `data` is base64 text."""

    tunnel: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    ack: Offset  # how far this side has received
    limit: Offset  # how far the other side may send
    known: Offset  # how far this side knows that it may send
    open: bool = False  # the tunnel may not exist yet
    seq: Offset = 0  # number of the first byte of `data`
    data: bytes = b""
    fin: bool = False  # nothing follows `data`
    poll: Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)] = 0  # its number, growing; 0: no poll
    wait: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 0  # ms that the answer may be held
    close: Reason = ""  # the tunnel is over, and why


class TunnelReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """From the answering side. Fields as in `TunnelRequest`; only polls are answered with data."""

    ack: Offset
    limit: Offset
    seq: Offset = 0
    data: bytes = b""
    fin: bool = False
    close: Reason = ""


def read_request(payload: Any) -> TunnelRequest:
    """Raises `ByteStreamError` for what is no request."""
    return _read(payload, TunnelRequest)


def read_reply(payload: Any) -> TunnelReply:
    """Raises `ByteStreamError` for what is no reply."""
    return _read(payload, TunnelReply)


def to_json(message: TunnelRequest | TunnelReply) -> Any:
    """Convert a value into a form that JSON can hold."""
    return msgspec.to_builtins(message)


M = TypeVar("M", TunnelRequest, TunnelReply)


def _read(payload: Any, kind: type[M]) -> M:
    try:
        message = msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise ByteStreamError(str(error)) from None
    if len(message.data) > CHUNK:
        raise ByteStreamError(f"{len(message.data)} bytes at once; the limit is {CHUNK}")
    return message


class _End(ByteStream):
    """Common part of both ends."""

    def __init__(self, now: float, allowed: int) -> None:
        super().__init__(RULES, allowed)
        self.broken: str | None = None  # why the streams end early
        self._heard = now
        self._parted = False  # the far side knows that it is over, or there is none

    @property
    def ended(self) -> bool:
        """True if the far side's stream has ended, early or not, and all of it was read."""
        return (self.peer_ended or self.broken is not None) and not self.unread

    @property
    def done(self) -> bool:
        """True if both streams have reached the other side in full."""
        return self.peer_ended and self.delivered

    @property
    def over(self) -> bool:
        """True if the tunnel has nothing more to do."""
        return self._parted

    def abort(self, reason: str) -> None:
        """End the tunnel early, and notify the far side."""
        if self.broken is None and not self.done:
            self.broken = reason[:MAX_REASON]

    def _part(self, reason: str) -> None:
        self.abort(reason)
        self._parted = True


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to make, which ends with `answered`, `failed` or `refused`."""

    number: int
    request: TunnelRequest
    timeout: float  # seconds


class DialEnd(_End):
    """Dialling end. Its driver makes the requests that `asks` returns, after every event and at
    `next_time`."""

    def __init__(self, tunnel: str, now: float, rng: random.Random) -> None:
        """`tunnel`: 32 random hex digits, which authorise sending in this tunnel."""
        super().__init__(now, FIRST_LIMIT)
        self._tunnel = tunnel
        self._rng = rng
        self._opened = False
        self._number = 0
        self._data: int | None = None  # the data request under way
        self._polls: dict[int, tuple[float, int]] = {}  # polls under way: time sent, limit sent
        self._failures = 0  # in a row
        self._vain = 0  # answers in a row without news, which could have waited
        self._data_from = self._poll_from = now  # not before

    @property
    def opened(self) -> bool:
        """True if the far side has ever answered."""
        return self._opened

    def asks(self, now: float) -> list[Ask]:
        """The requests to make now."""
        if self._parted:
            return []
        if now >= self._heard + DEAD_AFTER:
            self.abort(f"no answer for {DEAD_AFTER:g} s")
        if self.broken is not None or self.done:
            self._parted = True
            return [self._ask(RETRY_MAX, close=self.broken or "done")]  # once: it is a courtesy
        asks: list[Ask] = []
        if self._data is None and now >= self._data_from:
            self.rewind()
            chunk = self.next_chunk()
            if chunk is not None:
                asks.append(self._ask(DATA_TIMEOUT, seq=chunk.seq, data=chunk.data, fin=chunk.ends))
                self._data = self._number
        if now >= self._poll_from and self._wants_poll():
            poll = self._number + 1
            hold = 0.0 if self._failures else HOLD  # to detect soon if there is no answering end
            asks.append(self._ask(hold + TIMEOUT, poll=poll, wait=int(hold * 1000)))
            self._polls[poll] = (now, self.allows)
        return asks

    def next_time(self, now: float) -> float | None:
        """Time at which `asks` has something although nothing has happened."""
        if self._parted:
            return None
        times = (self._heard + DEAD_AFTER, self._data_from, self._poll_from)
        return min((at for at in times if at > now), default=now)

    def answered(self, number: int, reply: TunnelReply, now: float) -> None:
        """The answer to a request, however late."""
        self._heard = now
        self._opened = True
        self._failures = 0
        try:
            news = self.acknowledge(reply.ack, reply.limit)
        except ByteStreamError as error:
            return self.abort(str(error))
        news |= self.take(reply.seq, reply.data, reply.fin)
        asked, _ = self._polls.pop(number, (now, 0))
        waited = now >= asked + HOLD / 2
        self._vain = 0 if news or waited else self._vain + 1
        if self._vain > MAX_VAIN:
            self._data_from = self._poll_from = now + VAIN_PAUSE
        if number == self._data:
            self._data = None
        if reply.close:
            self._part(f"the other side ended it: {reply.close}")
        return None

    def failed(self, number: int, now: float) -> None:
        """No answer: lost, or too late. It is asked again after a while."""
        self._failures += 1
        pause = min(RETRY_FIRST * 2 ** min(self._failures - 1, 10), RETRY_MAX)
        pause *= self._rng.uniform(0.75, 1.25)
        if number == self._data:
            self._data = None
            self._data_from = now + pause
            self.lost()
        if self._polls.pop(number, None) is not None:
            self._poll_from = now + pause

    def refused(self, reason: str) -> None:
        """The far side will never answer: it knows no such tunnel (any more), or takes none."""
        if not (self.peer_ended and self.finished):
            self.abort(reason)
        self._parted = True  # else it is done over there, and the answer to it was lost

    def _wants_poll(self) -> bool:
        """True if a poll is due: one is in flight, or a second when the first reports no room here."""
        if not self._polls:
            return True
        _, told = self._polls[max(self._polls)]
        return len(self._polls) == 1 and self.allows - told >= WINDOW // 2

    def _ask(self, timeout: float, **fields: Any) -> Ask:
        self._number += 1
        request = TunnelRequest(
            self._tunnel,
            self.ack,
            self.allows,
            self.allowed,
            open=not self._opened,
            **fields,
        )
        return Ask(self._number, request, timeout)


class AnswerEnd(_End):
    """Answering end. For each request: `receive`, let the local reader read, then `reply`; and
    `release` whenever something has happened and at `next_time`."""

    def __init__(self, now: float) -> None:
        super().__init__(now, 0)
        self.poll = 0  # number of the newest
        self._known = 0  # the limit that it set its author
        self._dead_at = now + DEAD_AFTER
        self.held_until: float | None = None  # None: no poll is held

    def receive(self, request: TunnelRequest, now: float) -> None:
        """Take in a request.

        Raises:
            ByteStreamError: it makes no sense.
        """
        self._dead_at = now + DEAD_AFTER
        self.acknowledge(request.ack, request.limit)
        self.take(request.seq, request.data, request.fin)
        if request.close or self.done:
            self._part(f"the other side ended it: {request.close}")

    def cut(self, now: float) -> None:
        """The connection over which the held poll came has closed: its author asks again at once, or has
        died."""
        self.held_until = None
        self._dead_at = min(self._dead_at, now + CUT_AFTER)

    def reply(self, request: TunnelRequest, now: float) -> TunnelReply | None:
        """The answer to a request that was received; None: it is a poll, and held. Answer an
        already held one with `status` when a newer one, by its number, comes."""
        if request.poll <= self.poll:
            return self.status()
        self.poll, self._known = request.poll, request.known
        self.held_until = now + min(request.wait / 1000, HOLD)
        return self.release(now)

    def release(self, now: float) -> TunnelReply | None:
        """The answer to the poll that is held, when there is something to say or its time is over."""
        if self.held_until is None:
            return None
        self.rewind()
        chunk = self.next_chunk()
        idle = chunk is None and self.broken is None and not self._parted
        if idle and self.allows - self._known < WINDOW // 2 and now < self.held_until:
            return None
        self.held_until = None
        return self.status(chunk)

    def status(self, chunk: Chunk | None = None) -> TunnelReply:
        """An answer that brings nothing but numbers, unless something is given."""
        if self.broken is not None:
            self._parted = True
        seq, data, ends, _ = chunk or (0, b"", False, False)
        return TunnelReply(self.ack, self.allows, seq, data, ends, self.broken or "")

    def next_time(self) -> float:
        """Time at which `release` or `dead` has something although nothing has happened."""
        return self._dead_at if self.held_until is None else min(self._dead_at, self.held_until)

    def dead(self, now: float) -> bool:
        """Return True if the other side has not asked for too long."""
        return now >= self._dead_at
