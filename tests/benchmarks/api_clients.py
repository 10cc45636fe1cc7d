"""Clients for the benchmark of the APIs that cost little themselves: HTTP and WebSocket on bare transports.

Each is a closed loop: it keeps so many requests under way, and makes a new one for each that is answered.
What they do not understand ends the benchmark.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

TEXT, CLOSE = 1, 8


class Loop(asyncio.Protocol):
    """One connection. `make` gives the next request, as it is sent."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self.make = make
        self.size = 0  # bytes of the last answer, without what carries it
        self.samples: list[float] = []  # seconds from each request to its answer
        self.transport: asyncio.Transport | None = None
        self.data = b""
        self._begun: deque[float] = (
            deque()
        )  # of the requests under way; answers come in their order
        self._until = 0.0
        self._ended: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(exc or ConnectionError("the server hung up"))

    async def run(self, seconds: float, window: int = 1) -> None:
        """Make requests for so long and wait until all are answered, `window` at a time.

        Raises:
            RuntimeError, ConnectionError: one was refused, or the server hung up.
        """
        self._ended = asyncio.get_running_loop().create_future()
        self._until = time.perf_counter() + seconds
        for _ in range(window):
            self._ask(time.perf_counter())
        await self._ended

    def data_received(self, data: bytes) -> None:
        self.data = self.data + data if self.data else data
        try:
            answers = self.parse()
        except RuntimeError as error:
            self.fail(error)
            return
        now = time.perf_counter()
        for _ in range(answers):
            self.samples.append(now - self._begun.popleft())
            if now < self._until:
                self._ask(now)
            elif not self._begun and self._ended is not None:
                self._ended.set_result(None)

    def _ask(self, now: float) -> None:
        assert self.transport is not None
        self._begun.append(now)
        self.transport.write(self.make())

    @abstractmethod
    def parse(self) -> int:
        """Take complete answers from `data`; how many.

        Raises:
            RuntimeError: one is a refusal, or nothing that was expected.
        """

    def fail(self, error: Exception) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

    def close(self) -> None:
        self._ended = None
        if self.transport is not None:
            self.transport.close()


def post(path: str, body: bytes, headers: str = "") -> bytes:
    """A request; each line of `headers` ends with CRLF."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class HttpLoop(Loop):
    """Keep-alive HTTP, where what is not answered with 200 or 201 is a refusal."""

    def parse(self) -> int:
        count = 0
        while True:
            head, separator, body = self.data.partition(b"\r\n\r\n")
            if not separator:
                return count
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) < length:
                return count
            if not head.startswith(b"HTTP/1.1 20"):
                raise RuntimeError((head + separator + body).decode())
            self.size = length
            self.data = body[length:]
            count += 1


def frame(payload: bytes) -> bytes:
    """A text message of a client. Its mask is zeros, which change nothing and cost nothing."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | TEXT, 0x80 | size))
    else:
        head = bytes((0x80 | TEXT, 0x80 | 126)) + size.to_bytes(2)
    return head + bytes(4) + payload


class SocketLoop(Loop):
    """A WebSocket. `judge` says of each message whether it is an answer; it raises when it is a refusal."""

    def __init__(self, make: Callable[[], bytes], judge: Callable[[bytes], bool]) -> None:
        super().__init__(make)
        self._judge = judge
        self._opened: asyncio.Future[None] | None = None
        self._heard: asyncio.Future[None] | None = None
        self._awaited: list[bytes] = []

    async def open(self, path: str) -> None:
        """The upgrade."""
        assert self.transport is not None
        key = base64.b64encode(os.urandom(16)).decode()
        self._opened = asyncio.get_running_loop().create_future()
        self.transport.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await self._opened

    async def say(self, payload: bytes, *awaited: bytes) -> None:
        """Send a message and wait until there was one with each of `awaited` in it, in this order."""
        assert self.transport is not None
        self._heard, self._awaited = asyncio.get_running_loop().create_future(), list(awaited)
        self.transport.write(frame(payload))
        await self._heard

    def parse(self) -> int:
        if self._opened is not None:
            head, separator, rest = self.data.partition(b"\r\n\r\n")
            if not separator:
                return 0
            opened, self._opened, self.data = self._opened, None, rest
            if head.startswith(b"HTTP/1.1 101"):
                opened.set_result(None)
            else:
                opened.set_exception(RuntimeError(head.decode()))
        data, at, count = self.data, 0, 0
        while len(data) - at >= 2:
            kind, size, begin = data[at] & 15, data[at + 1], at + 2
            if size >= 126:
                wide = 2 if size == 126 else 8
                begin += wide
                if len(data) < begin:
                    break
                size = int.from_bytes(data[begin - wide : begin])
            end = begin + size
            if len(data) < end:
                break
            at = end
            count += self._hear(kind, data[begin:end])
        self.data = data[at:]
        return count

    def _hear(self, kind: int, payload: bytes) -> bool:
        if kind == CLOSE:
            raise RuntimeError(f"the server closed: {payload!r}")
        if kind != TEXT:
            return False
        if self._heard is not None:
            if self._awaited[0] in payload:
                del self._awaited[0]
            if not self._awaited:
                self._heard.set_result(None)
                self._heard = None
            return False
        if self._judge(payload):
            self.size = len(payload)
            return True
        return False
