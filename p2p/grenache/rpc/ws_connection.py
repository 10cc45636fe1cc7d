"""Client half of a WebSocket (RFC 6455) for many small messages: frames without I/O, and a connection.

    connection = await connect(address, on_message=print, tls=None, max_message=1 << 20, timeout=1.5, heartbeat=10.0)
    connection.send(b"hello")              # a text message
    why = await connection.ended           # also when the worker closes, breaks the protocol, or disappears

A message is handed to `on_message` from the parser, without a queue or a task between. No extensions, as the Node.js
workers have none. Redirects are refused.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import ssl
from collections.abc import Callable
from typing import Final, cast

from p2p.grenache.directory import Address
from p2p.grenache.errors import RequestTimeout
from p2p.grenache.rpc.rpc_transport import CLOSE_TIMEOUT, refused, where

PATH: Final = "/ws"
KEYS: Final = (
    4096  # random bytes drawn at once: a system call for each mask costs more than the mask
)
MAX_HEAD: Final = 16384  # bytes of the answer to the handshake
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, PROTOCOL_ERROR, TOO_LARGE = 1000, 1002, 1009  # codes of a close frame
_FIN: Final = 0x80
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})(?: [^\r\n]*)?\r\n")


class BadFrame(ValueError):
    """The bytes break the protocol. `code`: of the close frame that says so."""

    def __init__(self, text: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


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
    # As one long integer: Python's fastest XOR of bytes.
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
    return head + (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")


class FrameParser:
    """Parser of a server's frames, from bytes in any portions."""

    def __init__(self, max_message: int) -> None:
        self._max = max_message
        self._buffer = bytearray()
        self._parts = bytearray()  # of a message in several frames
        self._kind = 0  # opcode of that message; 0: none is under way

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes; return the whole messages and control frames as (opcode, payload).

        Raises:
            BadFrame: what follows cannot be parsed.
        """
        buffer = self._buffer
        if not buffer and not self._kind:
            text = self._only_text(data)
            if text is not None:
                return [(TEXT, text)]
        buffer += data
        found: list[tuple[int, bytes]] = []
        at = 0
        while len(buffer) - at >= 2:
            first, size = buffer[at], buffer[at + 1]
            begin = at + 2
            if first & 0x70 or size & 0x80:
                raise BadFrame("a frame with an extension, or masked by the server")
            if size >= 126:
                more = 2 if size == 126 else 8
                if len(buffer) - begin < more:
                    break
                size = int.from_bytes(buffer[begin : begin + more], "big")
                begin += more
            self._check(first, size)
            end = begin + size
            if len(buffer) < end:
                break
            whole = self._take(first, bytes(buffer[begin:end]))
            if whole is not None:
                found.append(whole)
            at = end
        if at:
            del buffer[:at]
        return found

    def _only_text(self, data: bytes) -> bytes | None:
        """Return the payload if the data is one whole text message, as nearly always, else None."""
        length = len(data)
        if length < 4 or data[0] != _FIN | TEXT:
            return None
        size, begin = data[1], 2
        if size == 126:
            size, begin = data[2] << 8 | data[3], 4
        elif size > 126:
            return None
        return data[begin:] if begin + size == length and size <= self._max else None

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

    `ended` has the reason as soon as the connection ended. While `paused` is set the worker does not read what was sent;
    `on_resume` is called when it does again.
    """

    def __init__(
        self, on_message: Callable[[bytes], None], max_message: int, heartbeat: float
    ) -> None:
        self.paused = False
        self.on_resume: Callable[[], object] = lambda: None
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._on_message = on_message
        self._heartbeat = heartbeat
        self._parser = FrameParser(max_message)
        self._transport: asyncio.Transport | None = None
        self._head: bytearray | None = (
            bytearray()
        )  # of the answer to the handshake; None: it is over
        self._key = base64.b64encode(os.urandom(16))
        self._heard = self._pinged = 0.0  # when bytes came, and the last ping went out
        self._timer: asyncio.TimerHandle | None = None
        self._keys = b""  # random bytes for masks, and the next that are unused
        self._at = 0

    @property
    def opening(self) -> bool:
        """True until the handshake is over."""
        return self._head is not None

    def send(self, payload: bytes) -> None:
        """Send a text message."""
        at, self._at = self._at, self._at + 4
        if at >= len(self._keys):
            self._keys, at, self._at = os.urandom(KEYS), 0, 4
        self._write(masked_frame(payload, TEXT, self._keys[at : at + 4]))

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
        if self._head is None and not transport.is_closing():
            self._write(masked_frame(NORMAL.to_bytes(2, "big"), CLOSE))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await asyncio.shield(self.ended)
        transport.abort()

    def upgrade(self, address: Address) -> None:
        """Ask for the WebSocket; `opened` has the answer."""
        self._write(
            f"GET {PATH} HTTP/1.1\r\nHost: {where(address)}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {self._key.decode()}\r\n\r\n".encode("ascii")
        )

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            if self._head is not None:
                rest = self._answered(data)
                if rest is None:
                    return
                data = rest
            for opcode, payload in self._parser.feed(data):
                if opcode <= BINARY:
                    self._on_message(payload)
                else:
                    self._control(opcode, payload)
        except BadFrame as error:
            self._break(str(error), error.code)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.on_resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc is not None else "")

    # Parts

    def _answered(self, data: bytes) -> bytes | None:
        """Take the answer to the handshake; what follows it when it is whole."""
        assert self._head is not None  # noqa: S101
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > MAX_HEAD:
                self._refuse("its answer is too long")
            return None
        head, rest = bytes(self._head[: end + 2]), bytes(self._head[end + 4 :])
        status = _STATUS.match(head)
        accept = base64.b64encode(hashlib.sha1(self._key + _GUID).digest())  # noqa: S324 - RFC 6455
        if status is None:
            self._refuse("its answer is not HTTP/1.1")
        elif status[1][:1] == b"3":
            self._refuse("it answered with a redirect")
        elif status[1] != b"101":
            self._refuse(f"it did not accept the WebSocket (HTTP status {status[1].decode()})")
        elif _header(head, b"sec-websocket-accept") != accept:
            self._refuse("its answer is not to this request for a WebSocket")
        elif _header(head, b"sec-websocket-extensions"):
            self._refuse("it wants an extension that was not offered")
        else:
            self._head = None
            if not self.opened.done():
                self.opened.set_result(None)
            self._timer = self._loop.call_later(self._heartbeat, self._beat)
            return rest
        return None

    def _refuse(self, why: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(why))
        self.abort(why)

    def _control(self, opcode: int, payload: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if opcode == PING:
            self._write(masked_frame(payload, PONG))
        elif opcode == CLOSE:
            self._write(masked_frame(payload[:2], CLOSE))
            self._end("the worker closed it")
            transport.close()

    def _break(self, why: str, code: int) -> None:
        """End the connection because of what the worker sent."""
        self._write(masked_frame(code.to_bytes(2, "big"), CLOSE))
        self.abort(why)

    def _beat(self) -> None:
        """Ping a worker that has sent nothing for a while, and give up one that answers no ping."""
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
            self.opened.set_exception(ConnectionError(why or "it closed the connection"))
            self.opened.exception()  # seen, should no task wait for it any more
        if not self.ended.done():
            self.ended.set_result(why)


def _header(head: bytes, name: bytes) -> bytes | None:
    """The value of the first header of this name."""
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return value.strip()
    return None


async def connect(
    address: Address,
    *,
    on_message: Callable[[bytes], None],
    tls: ssl.SSLContext | None,
    max_message: int,
    timeout: float,
    heartbeat: float,
) -> WsConnection:
    """A WebSocket to the worker at `address`.

    Raises:
        RequestFailed: there is none; `sent` is False.
        RequestTimeout: not within `timeout` seconds.
    """
    made: WsConnection | None = None
    try:
        async with asyncio.timeout(timeout):
            _, made = await asyncio.get_running_loop().create_connection(
                lambda: WsConnection(on_message, max_message, heartbeat),
                *address,
                ssl=tls,
                server_hostname=address[0] if tls is not None else None,
            )
            made.upgrade(address)
            await made.opened
            return made
    except TimeoutError:
        raise RequestTimeout(f"no connection to {where(address)} in time", sent=False) from None
    except (OSError, ValueError, OverflowError) as error:  # the last two: no host, no port
        raise refused(address, error) from None
    finally:
        if made is not None and made.opening:
            made.abort("given up")
