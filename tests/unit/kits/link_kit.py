"""Nodes with nothing but links, for tests of the transport over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvloop

from p2p.base.errors import Code
from p2p.base.identity import Identity
from p2p.wire.connection import PeerConnection
from p2p.wire.direct_links import DirectConnectionService, LinkSettings
from p2p.wire.framing import FrameDecoder
from p2p.wire.link import LinkOwner, PeerLink
from p2p.wire.messages import Codec, Envelope, RpcRequest, pack

WAYS = [
    (secure, fast) for fast in (False, True) for secure in (False, True)
]  # (TLS, uvloop instead of asyncio)
WAY_NAMES = [f"{'tls' if s else 'plain'}-{'uvloop' if f else 'asyncio'}" for s, f in WAYS]


def run(test: Coroutine[Any, Any, None], *, fast: bool = False) -> None:
    """Run a test on asyncio's or on uvloop's loop; what a handler or a callback raised fails it. In real time, since the
    sockets are real."""
    failures: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: failures.append(context)
        )
        await asyncio.wait_for(test, 100)

    # Not asyncio.Runner, which changes the thread's current loop under pytest-asyncio.
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop() if fast else asyncio.new_event_loop()
    try:
        loop.run_until_complete(watched())
        assert asyncio.all_tasks(loop) == set()
    finally:
        loop.close()
    assert failures == []


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Only a failure waits so long."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - of any kind
            await asyncio.sleep(0.002)


def framed(payload: bytes) -> bytes:
    """`payload` with its length in front, as it goes over a link."""
    return len(payload).to_bytes(4, "big") + payload


def fed(decoder: FrameDecoder, data: bytes) -> Iterator[bytes]:
    """The frames that `data` completes; raises as `take` does, after the frames before the fault."""
    rest = memoryview(data)
    while rest:
        space = decoder.writable()
        count = min(len(space), len(rest))
        space[:count] = rest[:count]
        rest = rest[count:]
        decoder.wrote(count)
        while frames := decoder.take(64):
            yield from map(bytes, frames)


class Recorder(LinkOwner):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.up: list[PeerLink] = []
        self.down: list[tuple[PeerLink, Code | None, str]] = []
        self.messages: list[Envelope] = []
        self.on_message: Callable[[PeerLink, Envelope], None] | None = None

    def link_up(self, link: PeerLink) -> None:
        self.up.append(link)

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None:
        self.down.append((link, code, reason))

    def message(self, link: PeerLink, envelope: Envelope) -> None:
        self.messages.append(envelope)
        if self.on_message is not None:
            self.on_message(link, envelope)

    @property
    def codes(self) -> list[Code | None]:
        return [code for _, code, _ in self.down]


@dataclass
class Node:
    identity: Identity
    handler: Recorder
    service: DirectConnectionService
    address: tuple[str, int] = ("", 0)

    @property
    def node_id(self) -> str:
        return self.identity.node_id

    def envelope(self, number: int = 1, size: int = 0, **fields: Any) -> Envelope:
        payload = pack(RpcRequest(number, "test", 1000, bytes(size)))
        values: dict[str, Any] = {
            "type": "request",
            "from_": self.node_id,
            "to": "",
            "timestamp": 0,
            "payload": msgspec.Raw(payload),
        }
        return Envelope(**values | fields)


def number(envelope: Envelope) -> int:
    return int(Codec().payload("request", envelope.payload).id)


@dataclass
class Nodes:
    """Makes nodes and stops them."""

    secure: bool = True
    made: list[Node] = field(default_factory=list)

    async def node(self, seed: int, *, listen: str | None = "127.0.0.1", **options: Any) -> Node:
        identity = options.pop("identity", None) or Identity.from_seed(bytes([seed]) * 32)
        handler = Recorder()
        if "admit" in options:
            handler.admit = options.pop("admit")  # type: ignore[method-assign]
        codec = options.pop("codec", None) or Codec()
        given: dict[str, Any] = {"network": "test", "secure": self.secure, "agent": "test"}
        settings = LinkSettings(**given | options)
        node = Node(identity, handler, DirectConnectionService(identity, handler, codec, settings))
        self.made.append(node)
        if listen is not None:
            node.address = await node.service.start(listen, 0)
        return node


@contextlib.asynccontextmanager
async def nodes(*, secure: bool) -> AsyncIterator[Nodes]:
    made = Nodes(secure)
    try:
        yield made
    finally:
        await asyncio.gather(*(node.service.stop() for node in made.made))


@dataclass
class Pair:
    """Two linked nodes; `left` dialled."""

    left: Node
    right: Node
    left_link: PeerConnection
    right_link: PeerConnection


@contextlib.asynccontextmanager
async def pair(
    *, secure: bool, left: dict[str, Any] | None = None, right: dict[str, Any] | None = None
) -> AsyncIterator[Pair]:
    async with nodes(secure=secure) as made:
        one = await made.node(1, listen=None, **left or {})
        two = await made.node(2, **right or {})
        link = await one.service.dial(*two.address, expect=two.node_id)
        await until(lambda: two.handler.up)
        assert isinstance(link, PeerConnection)
        other = two.handler.up[0]
        assert isinstance(other, PeerConnection)
        yield Pair(one, two, link, other)


Test = Callable[[Pair], Awaitable[None]]
