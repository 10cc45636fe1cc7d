"""Frames of WebSockets (RFC 6455) without I/O, and the client's connection for many small messages.

    socket = await connect(("127.0.0.1", 1337), SocketOptions("/ws"), on_message=print, timeout=1.5)
    socket.send(b"hello")              # a text message
    why = await socket.ended           # also when the server closes, breaks the protocol, or disappears

A message is handed to `on_message` from the parser, without a queue or a task between; `Inbox` is a bounded queue for
readers that wait. No extensions, no redirects. The frames are encoded and parsed here, since the Sans-I/O protocol of the
library `websockets` takes three times as long (5.2 instead of 1.6 us to send and receive a message of 240 bytes), which is
a fifth of the client's time for a call.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from p2p.base.host_port import format_host_port
from p2p.base.http1 import Failure, HttpFailed, HttpReply, ReplyParser, request
from p2p.base.http_pool import CLOSE_TIMEOUT, Address, Tls, dial

HEARTBEAT: Final = 10.0  # seconds without a frame until a ping; the pong has half of that
KEYS: Final = (
    4096  # random bytes drawn at once: a system call for each mask costs more than the mask
)
MAX_REFUSAL: Final = 1 << 16  # bytes of the body of an answer that refuses the handshake
MAX_WAITING: Final = 1 << 17  # bytes of messages for `receive`; above it, reading pauses
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, PROTOCOL_ERROR, NOT_UTF8, TOO_LARGE = 1000, 1002, 1007, 1009  # codes of a close frame
_FIN: Final = 0x80
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """Options of a WebSocket: `headers` of the handshake, `max_message` in bytes, `heartbeat` in seconds."""

    path: str = "/ws"
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls = None
    max_message: int = 1 << 20
    heartbeat: float = HEARTBEAT


class BadFrame(ValueError):
    """The bytes break the protocol. `code`: of the close frame that says so."""

    def __init__(self, text: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Encode a whole message of a server: not masked, not split."""
    size = len(payload)
    if size < 126:
        return bytes((_FIN | opcode, size)) + payload
    if size < 1 << 16:
        return bytes((_FIN | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8, "big") + payload


def masked_frame(payload: bytes, opcode: int = TEXT, key: bytes | None = None) -> bytes:
    """Encode a whole message of a client: masked with 4 unpredictable bytes, not split."""
    size = len(payload)
    if key is None:
        key = os.urandom(4)
    if size < 126:
        head = bytes((_FIN | opcode, 0x80 | size)) + key
    elif size < 1 << 16:
        head = bytes((_FIN | opcode, 0xFE)) + size.to_bytes(2, "big") + key
    else:
        head = bytes((_FIN | opcode, 0xFF)) + size.to_bytes(8, "big") + key
    return head + _masked(payload, key)


def _masked(payload: bytes, key: bytes) -> bytes:
    """Mask a payload, or take the mask away. As one long integer: Python's fastest XOR of bytes."""
    size = len(payload)
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")


class FrameParser:
    """Parser of a server's frames, or of a client's, which are `masked`; from bytes in any portions."""

    def __init__(self, max_message: int, *, masked: bool = False) -> None:
        self._max = max_message
        self._mask = 0x80 if masked else 0
        self._buffer = bytearray()  # the beginning of a frame,
        self._need = 0  # and its whole size, once that is known
        self._parts = bytearray()  # of a message in several frames
        self._kind = 0  # opcode of that message; 0: none is under way

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes; return the whole messages and control frames as (opcode, payload).

        Raises:
            BadFrame: what follows cannot be parsed.
        """
        buffer, mask = self._buffer, self._mask
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return []
            data = bytes(buffer)
            buffer.clear()
        elif not self._kind and (text := self._only_text(data)) is not None:
            return [(TEXT, text)]
        found: list[tuple[int, bytes]] = []
        at, length, self._need = 0, len(data), 0
        while length - at >= 2:
            first, size = data[at], data[at + 1] ^ mask
            begin = at + 2
            if first & 0x70 or size & 0x80:
                raise BadFrame("a frame with an extension, or masked as the other side's are")
            if size >= 126:
                begin += 2 if size == 126 else 8
                if length < begin:
                    break
                size = int.from_bytes(data[at + 2 : begin], "big")
            self._check(first, size)
            if mask:
                begin += 4
            end = begin + size
            if length < end:
                self._need = end - at
                break
            payload = data[begin:end]
            if mask:
                payload = _masked(payload, data[begin - 4 : begin])
            whole = self._take(first, payload)
            if whole is not None:
                found.append(whole)
            at = end
        if at < length:
            buffer += data[at:] if at else data
        return found

    def _only_text(self, data: bytes) -> bytes | None:
        """Return the payload if the data is one whole text message, as nearly always, else None."""
        length, mask = len(data), self._mask
        if length < 4 or data[0] != _FIN | TEXT:
            return None
        size, begin = data[1] ^ mask, 2
        if size == 126:
            size, begin = data[2] << 8 | data[3], 4
        elif size > 126:
            return None
        if mask:
            begin += 4
        if begin + size != length or size > self._max:
            return None
        return _masked(data[begin:], data[begin - 4 : begin]) if mask else data[begin:]

    def _check(self, first: int, size: int) -> None:
        """Refuse a frame by its head, before its payload is waited for."""
        opcode = first & 0x0F
        if opcode >= CLOSE:
            if opcode > PONG or size > 125 or not first & _FIN:
                raise BadFrame("a malformed control frame")
        elif size + len(self._parts) > self._max:
            raise BadFrame(f"a message has more than {self._max} bytes", TOO_LARGE)
        elif opcode > BINARY or (opcode == 0) != bool(self._kind):
            raise BadFrame("a frame out of order")

    def _take(self, first: int, payload: bytes) -> tuple[int, bytes] | None:
        opcode = first & 0x0F
        if opcode >= CLOSE or (opcode and first & _FIN):
            return opcode, payload
        self._kind = opcode or self._kind
        self._parts += payload
        if not first & _FIN:
            return None
        whole = self._kind, bytes(self._parts)
        self._kind = 0
        self._parts.clear()
        return whole


class WsConnection(asyncio.Protocol):
    """An open WebSocket; made by `connect`.

    `ended` has the reason as soon as the connection ended, `close_code` that of the server's close frame. While `paused`
    is set the server does not read what was sent; `on_resume` is called when it does again. Messages go to
    `on_message(opcode, payload)`, or wait for `receive`.
    """

    def __init__(
        self, on_message: Callable[[int, bytes], object] | None, options: SocketOptions
    ) -> None:
        self.paused = False
        self.on_resume: Callable[[], object] = lambda: None
        self.close_code: int | None = None
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._on_message = on_message or self._keep
        self._waiting: deque[tuple[int, bytes]] = deque()  # for `receive`
        self._waiting_size = 0
        self._changed = asyncio.Event()  # something to receive, or room to send
        self._options = options
        self._heartbeat = options.heartbeat
        self._parser = FrameParser(options.max_message)
        self._handshake: ReplyParser | None = ReplyParser(MAX_REFUSAL, upgrade=True)
        self._transport: asyncio.Transport | None = None
        self._key = base64.b64encode(os.urandom(16))
        self._heard = self._pinged = 0.0  # when bytes came, and the last ping went out
        self._timer: asyncio.TimerHandle | None = None
        self._keys = b""  # random bytes for masks, and the next that are unused
        self._at = 0

    @property
    def opening(self) -> bool:
        """True until the handshake is over."""
        return self._handshake is not None

    async def receive(self) -> tuple[int, bytes] | None:
        """Wait for the next message and return its opcode and payload; None when the connection has ended."""
        while not self._waiting:
            if self.ended.done():
                return None
            self._changed.clear()
            await self._changed.wait()
        message = self._waiting.popleft()
        before, self._waiting_size = self._waiting_size, self._waiting_size - len(message[1])
        if self._waiting_size <= MAX_WAITING < before and self._transport is not None:
            self._transport.resume_reading()
        return message

    async def drain(self) -> None:
        """Wait until the server reads, or the connection has ended."""
        while self.paused and not self.ended.done():
            self._changed.clear()
            await self._changed.wait()

    def _keep(self, opcode: int, payload: bytes) -> None:
        self._waiting.append((opcode, payload))
        before, self._waiting_size = self._waiting_size, self._waiting_size + len(payload)
        if before <= MAX_WAITING < self._waiting_size and self._transport is not None:
            self._transport.pause_reading()
        self._changed.set()

    def send(self, payload: bytes, opcode: int = TEXT) -> None:
        """Send a message."""
        at, self._at = self._at, self._at + 4
        if at >= len(self._keys):
            self._keys, at, self._at = os.urandom(KEYS), 0, 4
        self._write(masked_frame(payload, opcode, self._keys[at : at + 4]))

    def _write(self, data: bytes) -> None:
        transport = self._transport
        # Over uvloop a transport that is closed refuses to be written to, before its end was reported.
        if transport is not None and not transport.is_closing():
            transport.write(data)

    async def close(self) -> None:
        """Close the connection, and wait shortly for the other side's part of that."""
        transport = self._transport
        if transport is None or self.ended.done():
            return
        if self._handshake is None and not transport.is_closing():
            self._write(masked_frame(NORMAL.to_bytes(2, "big"), CLOSE))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await asyncio.shield(self.ended)
        transport.abort()

    def upgrade(self, address: Address) -> None:
        """Ask for the WebSocket; `opened` has the answer."""
        headers = {
            "Host": format_host_port(*address),
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": self._key.decode(),
            **self._options.headers,
        }
        self._write(request("GET", self._options.path, headers))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            if self._handshake is not None:
                rest = self._answered(self._handshake, data)
                if rest is None:
                    return
                data = rest
            for opcode, payload in self._parser.feed(data):
                if opcode <= BINARY:
                    self._on_message(opcode, payload)
                else:
                    self._control(opcode, payload)
        except BadFrame as error:
            self.reject(str(error), error.code)

    def eof_received(self) -> bool:
        if self._handshake is not None and (reply := self._handshake.eof()) is not None:
            self._decide(reply)
        return False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._changed.set()
        self.on_resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc is not None else "")

    # Parts

    def _answered(self, handshake: ReplyParser, data: bytes) -> bytes | None:
        """Process the answer to the handshake; return what follows it when it is complete."""
        try:
            reply = handshake.feed(data)
        except HttpFailed as error:
            self._refuse(f"its answer is not HTTP ({error})")
            return None
        return None if reply is None else self._decide(reply)

    def _decide(self, reply: HttpReply) -> bytes | None:
        """Accept or refuse the complete answer to the handshake."""
        headers = reply.headers
        accept = base64.b64encode(hashlib.sha1(self._key + GUID).digest())  # noqa: S324 - RFC 6455
        if 300 <= reply.status < 400:
            self._refuse("it answered with a redirect", reply)
        elif reply.status != 101:
            self._refuse(f"it did not accept the WebSocket (HTTP status {reply.status})", reply)
        elif headers.get(b"sec-websocket-accept") != accept:
            self._refuse("its answer is not to this request for a WebSocket")
        elif b"sec-websocket-extensions" in headers:
            self._refuse("it wants an extension that was not offered")
        else:
            self._handshake = None
            if not self.opened.done():
                self.opened.set_result(None)
            self._timer = self._loop.call_later(self._heartbeat, self._beat)
            return reply.body
        return None

    def _refuse(self, why: str, reply: HttpReply | None = None) -> None:
        if not self.opened.done():
            self.opened.set_exception(HttpFailed(Failure.UNREACHABLE, why, sent=False, reply=reply))
        self.abort(why)

    def _control(self, opcode: int, payload: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if opcode == PING:
            self._write(masked_frame(payload, PONG))
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big") if payload else None
            self._write(masked_frame(payload[:2], CLOSE))
            self._end("the server closed it")
            transport.close()

    def reject(self, why: str, code: int = PROTOCOL_ERROR) -> None:
        """End the connection because of what the server sent."""
        self._write(masked_frame(code.to_bytes(2, "big"), CLOSE))
        self.abort(why)

    def _beat(self) -> None:
        """Ping a server that has sent nothing for a while, and give up one that answers no ping."""
        now = self._loop.time()
        if self._pinged > self._heard and now - self._pinged >= self._heartbeat / 2:
            self.abort("no answer to a ping")
            return
        wait = self._heartbeat - (now - self._heard)
        if self._pinged > self._heard or wait <= 0:
            if self._pinged <= self._heard:
                self._pinged = now
                self._write(masked_frame(b"", PING))
            wait = self._heartbeat / 2
        self._timer = self._loop.call_later(wait, self._beat)

    def abort(self, why: str) -> None:
        """End the connection at once, for this reason."""
        self._end(why)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.opened.done():
            why = why or "it closed the connection without an answer"
            self.opened.set_exception(HttpFailed(Failure.UNREACHABLE, why, sent=False))
            self.opened.exception()  # seen, should no task wait for it any more
        if not self.ended.done():
            self.ended.set_result(why)
            self._changed.set()


async def connect(
    address: Address,
    options: SocketOptions,
    *,
    on_message: Callable[[int, bytes], object] | None = None,
    timeout: float,
) -> WsConnection:
    """Connect to the server at `address`, within `timeout` seconds.

    Raises:
        HttpFailed: there is no WebSocket; `sent` is False, `reply` the answer that refused it.
    """
    made: WsConnection | None = None
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        made = await dial(lambda: WsConnection(on_message, options), address, options.tls, deadline)
        made.upgrade(address)
        async with asyncio.timeout_at(deadline):
            await made.opened
        return made
    except TimeoutError:
        raise HttpFailed(Failure.NOT_IN_TIME, sent=False) from None
    finally:
        if made is not None and made.opening:
            made.abort("given up")
