"""Grenache subscriber: messages of a publisher (`PeerPub` of grenache-nodejs-ws, or `Publisher`).

    async with Link(["http://127.0.0.1:30001"]) as link, Subscriber(link, "prices") as prices:
        async for message in prices:
            print(message)

It connects to one of the publishers of the name. When that connection ends it tries another, then
again after growing, jittered waits, without limit. There are no acknowledgements, and messages
published while it is not connected are lost: `status().connects` counts the connections. Messages
wait in a buffer for the reader. When it is full the oldest are dropped (`status().dropped`): a late
reader needs the latest state, and a publisher disconnects subscribers that do not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from dataclasses import dataclass
from typing import Final, Self

from p2p.base.http1 import HttpFailed
from p2p.base.http_pool import CONNECT_TIMEOUT, Tls
from p2p.base.websocket import NOT_UTF8, TEXT, SocketOptions, WsConnection, connect
from p2p.grenache.directory import Address, Directory
from p2p.grenache.errors import GrenacheError, LookupEmpty
from p2p.grenache.input_checks import check_service
from p2p.grenache.rpc.rpc_transport import MAX_REPLY, failed_request, where

log = logging.getLogger(__name__)

BUFFER: Final = 1000  # messages
MAX_BUFFERED: Final = 16 << 20  # bytes of all of them; one alone may be larger
FIRST_WAIT: Final = 0.1  # seconds; the longest that the first wait can be, then doubling ...
LONGEST_WAIT: Final = 10.0  # ... to this
HEALTHY: Final = 5.0  # seconds that a connection lasts to be taken for a good one
TRIES: Final = 8  # publishers tried between two lookups

Message = str | bytes
"""A text frame or a binary one, as it was published."""


@dataclass(frozen=True, slots=True)
class SubscriberStatus:
    """`publisher`: None while there is no connection; `trouble` says why, as far as is known."""

    publisher: Address | None
    connects: int
    received: int
    dropped: int
    waiting: int
    trouble: str


class Subscriber:
    """See the module. An asynchronous iterator of messages; ends when it is closed and empty.

    Args:
        tls: for publishers with TLS; those of Node.js have none.
        buffer: messages that wait for the reader.
        max_message: bytes; a larger one ends the connection.
    """

    def __init__(
        self,
        directory: Directory,
        service: str,
        *,
        tls: Tls = None,
        buffer: int = BUFFER,
        max_message: int = MAX_REPLY,
        rng: random.Random | None = None,
    ) -> None:
        if buffer < 1:
            raise ValueError("the buffer holds one message at least")
        self._directory = directory
        self._service = check_service(service)
        self._options = SocketOptions(tls=tls, max_message=max_message)
        self._room = buffer
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._buffer: deque[Message] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._open = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._publisher: Address | None = None
        self._last: Address | None = None  # the one that was lost
        self._trouble = ""
        self._connects = self._received = self._dropped = 0

    async def start(self) -> None:
        """Begin to connect, without waiting for it."""
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def connected(self) -> Address:
        """Wait for a connection and return the publisher's address.

        Raises:
            RuntimeError: there will be none: not started, or closed.
        """
        while self._publisher is None:
            if self._closed:
                raise RuntimeError("this Subscriber was closed")
            self._check_started()
            await self._open.wait()
        return self._publisher

    async def close(self) -> None:
        """Disconnect. Buffered messages can still be read."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._arrived.set()
        self._open.set()  # wake waiters for a connection

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while not self._buffer:
            if self._closed:
                raise StopAsyncIteration
            self._check_started()
            self._arrived.clear()
            await self._arrived.wait()
        message = self._buffer.popleft()
        self._bytes -= len(message)
        return message

    def _check_started(self) -> None:
        if self._task is None:
            raise RuntimeError(
                "the Subscriber is not started: use `async with Subscriber(...)`, or `start()`"
            )

    def status(self) -> SubscriberStatus:
        return SubscriberStatus(
            self._publisher,
            self._connects,
            self._received,
            self._dropped,
            len(self._buffer),
            self._trouble,
        )

    async def _run(self) -> None:
        """Stay connected."""
        waits, fresh = 0, False
        while True:
            lasted = 0.0
            try:
                lasted = await self._connect_and_read(fresh=fresh)
            except GrenacheError as error:
                self._note(str(error))
            except Exception as error:  # no exception may end the subscription
                log.exception("subscription to %s", self._service)
                self._note(repr(error))
            waits, fresh = (0 if lasted >= HEALTHY else waits + 1), True
            longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(waits, 30))
            await asyncio.sleep(self._rng.random() * longest)

    async def _connect_and_read(self, *, fresh: bool) -> float:
        """Of the publishers there are, read from the first that can be connected to, until that ends.
        Returns for how many seconds."""
        found = await self._directory.lookup(self._service, fresh=fresh)
        if not found:
            raise LookupEmpty(self._service)
        order = self._rng.sample(found, len(found))
        order.sort(key=lambda address: address == self._last)  # that one again after the others
        for address in order[:TRIES]:
            try:
                socket = await connect(address, self._options, timeout=CONNECT_TIMEOUT)
            except HttpFailed as error:
                self._note(str(failed_request(address, error)))
                continue
            return await self._read(address, socket)
        return 0.0

    async def _read(self, address: Address, socket: WsConnection) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._publisher = self._last = address
        self._connects += 1
        self._trouble = ""
        self._open.set()
        log.info("subscribed to %s at %s", self._service, where(address))
        try:
            while (message := await socket.receive()) is not None:
                opcode, payload = message
                try:
                    self._add(payload.decode() if opcode == TEXT else payload)
                except UnicodeDecodeError:
                    socket.reject("a text message is not UTF-8", NOT_UTF8)
            error = socket.ended.result()
            self._note(f"{where(address)}: the connection ended{f': {error}' if error else ''}")
        finally:
            self._publisher = None
            self._open.clear()
            with contextlib.suppress(Exception):
                await socket.close()
        return loop.time() - began

    def _add(self, message: Message) -> None:
        self._received += 1
        self._buffer.append(message)
        self._bytes += len(message)
        while len(self._buffer) > self._room or (
            self._bytes > MAX_BUFFERED and len(self._buffer) > 1
        ):
            self._bytes -= len(self._buffer.popleft())
            self._dropped += 1
        self._arrived.set()

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.info("subscription to %s: %s", self._service, trouble)
        self._trouble = trouble
